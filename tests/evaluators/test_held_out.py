import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from progrpo_jax.build import problems
from progrpo_jax.build import stages as build
from progrpo_jax.devices import sharding
from progrpo_jax.evaluators import diversity
from progrpo_jax.rollout import verify
from progrpo_jax.settings import files
from progrpo_jax.storage import metrics


@pytest.fixture(scope="module")
def policy(small):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return mesh, build.load_policy(small.config(), mesh)


@pytest.fixture(scope="module")
def pool(small):
  with problems.make_pool(small.config()) as made:
    yield made


def _evaluator(small, policy, pool, *overrides):
  mesh, loaded = policy
  c = small.config(*overrides)
  (made,) = problems.make_evaluators(
    c, loaded.config, loaded.tokenizer, pool, mesh
  )
  return made


def _pass_at_k(counts, n, k):
  """By counting subsets: those of k samples that are all wrong."""
  return np.mean([1 - math.comb(n - c, k) / math.comb(n, k) for c in counts])


def test_values_follow_from_the_records(small, policy, pool):
  evaluator = _evaluator(
    small, policy, pool, "eval.num_samples=16", "eval.temperature=1.0"
  )
  ticks = []
  samples = evaluator.sample(policy[1].params, lambda: ticks.append(1))
  values = dict(evaluator.run(samples))
  # Six problems in batches of four: two fill up the second one.
  assert len(ticks) == 2
  records = [json.loads(metrics.dumps(r)) for r in evaluator.records(samples)]
  assert len(records) == len({r["prompt"] for r in records}) == 6
  counts = [sum(s["correct"] for s in r["completions"]) for r in records]
  assert any(counts)
  for k in (1, 2, 4, 8, 16):
    assert np.isclose(
      values[f"eval/chain_sum/pass@{k}"], _pass_at_k(counts, 16, k)
    )
  assert values["eval/chain_sum/num_problems"] == 6
  assert values["eval/chain_sum/num_samples"] == 16
  distinct = [
    len({s["text"] for s in r["completions"] if s["correct"]}) for r in records
  ]
  assert values["eval/chain_sum/distinct_correct"] == np.mean(distinct)
  # A right answer is the sum, and nothing else.
  for record in records:
    total = str(eval(record["prompt"].rstrip("=")))
    for s in record["completions"]:
      assert s["correct"] == (s["text"].strip() == total)


def test_samples_do_not_depend_on_the_batch(small, policy, pool):
  texts = [
    _evaluator(small, policy, pool, f"eval.batch_prompts={size}").sample(
      policy[1].params
    )
    for size in (4, 1)
  ]
  assert texts[0].rows == texts[1].rows
  assert texts[0].texts_XG == texts[1].texts_XG
  assert np.allclose(texts[0].entropy_XG, texts[1].entropy_XG, atol=1e-5)


def test_problems_are_those_of_the_validation_split(small, policy, pool):
  c = small.config()
  rows = _evaluator(small, policy, pool).sample(policy[1].params).rows
  train = problems.make_prompter(c, policy[1].tokenizer, "train")
  assert not {r.prompt for r in rows} & {
    r.prompt for r in train.take(0, 64).rows
  }
  again = _evaluator(small, policy, pool, "seed=5").sample(policy[1].params)
  assert again.rows == rows


def test_diversity_of_the_same_samples_is_logged(small, policy, pool):
  evaluator = _evaluator(small, policy, pool, "eval.num_samples=8")
  samples = evaluator.sample(policy[1].params)
  values = dict(evaluator.run(samples))
  assert samples.vocab_size == policy[1].tokenizer.vocab_size
  ends = policy[1].tokenizer.stop_ids
  for texts, tokens in zip(samples.texts_XG, samples.tokens_XG):
    for text, ids in zip(texts, tokens):
      assert policy[1].tokenizer.decode(list(ids)) == text
      assert not set(ids) & set(ends)
  for name in ("ead", "distinct_2", "self_bleu_diversity"):
    assert 0 <= values[f"eval/chain_sum/{name}"] <= 1.5
  # Every answer of two digits is one bigram.
  shares = [diversity.distinct_n(tokens, 2) for tokens in samples.tokens_XG]
  assert np.isclose(values["eval/chain_sum/distinct_2"], np.mean(shares))


def test_the_tolerant_verdict_is_an_option(small, policy, pool, monkeypatch):
  evaluator = _evaluator(small, policy, pool, "eval.temperature=1.0")
  strict = evaluator.sample(policy[1].params)
  assert strict.tolerant_XG is None
  assert not any("tolerant" in name for name, _ in evaluator.run(strict))
  assert {
    s["status"] for r in evaluator.records(strict) for s in r["completions"]
  } == {"ok"}
  # The policy's answers as a chatty one would write them.
  texts = verify.texts
  monkeypatch.setattr(
    verify,
    "texts",
    lambda *args: tuple(
      tuple(f"The answer is {text}." for text in group)
      for group in texts(*args)
    ),
  )
  evaluator = dataclasses.replace(
    evaluator, settings=dataclasses.replace(evaluator.settings, tolerant=True)
  )
  samples = evaluator.sample(policy[1].params)
  values = dict(evaluator.run(samples))
  assert strict.correct_XG.any()
  assert values["eval/chain_sum/pass@1"] == 0
  np.testing.assert_array_equal(samples.tolerant_XG, strict.correct_XG)
  assert values["eval/chain_sum/tolerant/pass@1"] == strict.correct_XG.mean()
  record = evaluator.records(samples)[0]["completions"][0]
  assert record["tolerant"] == strict.correct_XG[0, 0]


def test_each_task_is_tried_and_the_config_keeps_them_all(
  small, policy, pool, tmp_path
):
  tasks = {
    name: {
      "weight": 1.0,
      "module": "chain_sum",
      "options": {
        "template": "compact",
        "min_terms": 2,
        "max_terms": 5,
        "max_digits": 1,
        "num_train": 64,
        "num_validation": 8,
      },
    }
    for name in ("more", "sums")
  }
  path = small.write(tmp_path / "two.py", data=dict(tasks=tasks))
  c = files.load(str(path))
  mesh, loaded = policy
  made = problems.make_evaluators(
    c, loaded.config, loaded.tokenizer, pool, mesh
  )
  assert [evaluator.name for evaluator in made] == ["more", "sums"]
  assert list(c.data.tasks) == ["more", "sums"]


def test_problems_that_are_not_tried_are_told(small, policy, pool):
  asked = ("data.filter_overlong_prompts=True", "eval.num_problems=99")
  c = small.config("data.max_prompt_length=8", *asked)
  evaluator = _evaluator(
    small, policy, pool, "data.max_prompt_length=8", *asked
  )
  # Those of 5 terms have 10 characters, and a first token.
  assert 0 < evaluator.left_out < 8
  assert evaluator.num_problems == 8 - evaluator.left_out
  samples = evaluator.sample(policy[1].params)
  values = dict(evaluator.run(samples))
  assert values["eval/chain_sum/left_out"] == evaluator.left_out
  assert values["eval/chain_sum/num_problems"] == evaluator.num_problems
  assert problems.held_out_notes(c, [evaluator]) == [
    f"chain_sum: {evaluator.num_problems} problems evaluated; "
    f"{evaluator.left_out} more left out, with prompts of more than 8 "
    "tokens; config.eval.num_problems is 99"
  ]
  whole = _evaluator(small, policy, pool)
  assert problems.held_out_notes(small.config(), [whole]) == []
