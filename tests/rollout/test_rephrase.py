"""RePO: who is asked, what is replaced, and under which prompt it counts."""

import dataclasses

import jax
import numpy as np
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.build import stages as build
from progrpo_jax.models import scoring
from progrpo_jax.rollout import rephrase, verify
from progrpo_jax.tasks import base


def made(reward, valid=None):
  """Groups of these rewards; response i of all has the tokens (i, i)."""
  reward = np.asarray(reward, np.float32)
  p, g = reward.shape
  number = np.arange(p * g)
  return groups_lib.Groups(
    prompts=batch_lib.Prompts(
      tokens_PT=np.ones((p, 3), np.int32),
      mask_PT=np.ones((p, 3), bool),
      user_mask_PT=np.ones((p, 3), bool),
      ids_P=np.arange(p),
      rows=tuple(base.Row("t", "q", None, {}) for _ in range(p)),
    ),
    rollout=batch_lib.Rollout(
      tokens_BT=np.stack([number, number], 1).astype(np.int32),
      mask_BT=np.ones((p * g, 2), bool),
      logp_BT=np.zeros((p * g, 2), np.float32),
      finished_B=np.ones(p * g, bool),
    ),
    texts_PG=tuple(tuple(f"{i * g + j}" for j in range(g)) for i in range(p)),
    reward_PG=reward,
    correct_PG=reward >= 1,
    valid_PG=np.ones((p, g), bool) if valid is None else np.asarray(valid),
    fresh_P=np.ones(p, bool),
    values_PGJ=np.zeros((p, g, 1), np.float32),
  )


def accepted(texts_PG, value_P):
  """One right response to each prompt, of which a function says `value_P`."""
  shape = len(texts_PG), 1
  return verify.Verified(
    texts_PG=tuple(texts_PG),
    reward_PG=np.ones(shape, np.float32),
    correct_PG=np.ones(shape, bool),
    status_PG=(("ok",),) * len(texts_PG),
    values_PGJ=np.float32(value_P).reshape(*shape, 1),
    extra_PG=(({},),) * len(texts_PG),
    logged=(),
  )


def test_failing_groups_by_hand():
  groups = made(
    [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]],
    [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]],
  )
  groups = dataclasses.replace(groups, valid_PG=groups.valid_PG.astype(bool))
  assert list(rephrase.failing(groups, 0.5, 0.75)) == [
    True,
    False,
    True,
    False,
    False,
  ]
  assert list(rephrase.failing(groups, 0.5, 0.6)) == [
    True,
    False,
    True,
    True,
    False,
  ]
  assert list(rephrase.failing(groups, 0.0, 0.1)) == [False] * 5


def test_the_worst_response_of_an_accepted_group_is_replaced():
  groups = made([[0.5, 0.2, 0.9], [0.5, 0.2, 0.9], [0.3, 0.1, 0.1]])
  new = batch_lib.Rollout(
    tokens_BT=np.full((3, 2), [[70], [80], [90]], np.int32),
    mask_BT=np.array([[True, False]] * 3),
    logp_BT=np.full((3, 2), -1, np.float32),
    finished_B=np.zeros(3, bool),
  )
  out = rephrase.replace_worst(
    groups,
    np.array([True, False, True]),
    new,
    accepted([("a",), ("b",), ("c",)], [5, 6, np.nan]),
  )
  np.testing.assert_array_equal(
    out.values_PGJ[..., 0], [[0, 5, 0], [0, 0, 0], [0, np.nan, 0]]
  )
  np.testing.assert_allclose(
    out.reward_PG, [[0.5, 1, 0.9], [0.5, 0.2, 0.9], [0.3, 1, 0.1]]
  )
  assert list(out.rollout.tokens_BT[:, 0]) == [0, 70, 2, 3, 4, 5, 6, 90, 8]
  assert out.texts_PG == (("0", "a", "2"), ("3", "4", "5"), ("6", "c", "8"))
  assert list(np.flatnonzero(~out.rollout.mask_BT[:, 1])) == [1, 7]
  assert list(np.flatnonzero(~out.rollout.finished_B)) == [1, 7]
  assert out.correct_PG.sum() == 2
  # What came in is as it was.
  assert groups.reward_PG[0, 1] == np.float32(0.2)
  assert groups.texts_PG[0][1] == "1"


def test_an_unknown_verdict_is_the_first_to_go_and_becomes_known():
  groups = made([[0.0, 0.5]], [[True, False]])
  new = jax.tree.map(lambda x: x[:1], groups.rollout)
  out = rephrase.replace_worst(
    groups, np.array([True]), new, accepted([("a",)], [1])
  )
  assert out.texts_PG == (("0", "a"),)
  assert out.valid_PG.all()


@pytest.fixture(scope="module")
def built(small):
  c = small.config(
    "algo.rephrase.enabled=True",
    "algo.rephrase.min_fail_share=0.1",
    "algo.rephrase.max_prompt_length=20",
    "algo.rephrase.template={prompt}",
    method="grpo",
  )
  setup, params = build.make_setup(c)
  with setup.pool:
    yield setup, params


def test_an_accepted_answer_counts_under_the_plain_prompt(built, monkeypatch):
  """Every answer is accepted; its log-probs are those of the plain prompt."""
  setup, params = built
  prompts = setup.first.prompter.take(0, 4)
  groups = made(np.zeros((4, 4)))
  groups = dataclasses.replace(
    groups,
    prompts=prompts,
    rollout=batch_lib.Rollout(
      tokens_BT=np.zeros((16, 4), np.int32),
      mask_BT=np.ones((16, 4), bool),
      logp_BT=np.zeros((16, 4), np.float32),
      finished_B=np.ones(16, bool),
    ),
  )
  monkeypatch.setattr(
    rephrase.verify,
    "verify",
    lambda pool, rows, texts, **_: accepted(texts, [0, 0, 0, 0]),
  )
  asks = setup.first.collect.rephrase
  engine = setup.first.collect.draw.engine(params)
  out, metrics = asks(engine, groups, jax.random.key(0))
  assert metrics == {
    "rephrase/failing_frac": 1.0,
    "rephrase/asked_frac": 1.0,
    "rephrase/accepted_frac": 1.0,
  }
  first = slice(None, None, 4)  # equal rewards: the first of each group
  scores = scoring.score(
    setup.model,
    params,
    batch_lib.Sequences(
      prompt_NT=prompts.tokens_PT,
      prompt_mask_NT=prompts.mask_PT,
      tokens_NRT=out.rollout.tokens_BT[first][:, None],
      mask_NRT=out.rollout.mask_BT[first][:, None],
    ),
    asks.dist,
  )
  np.testing.assert_allclose(
    out.rollout.logp_BT[first], scores.logp_NRT[:, 0], atol=1e-6
  )
  assert (out.reward_PG[:, 0] == 1).all() and not out.reward_PG[:, 1:].any()


def test_questions_show_a_solution_and_fit_their_width(built):
  prompter = built[0].first.prompter
  asks = dataclasses.replace(
    built[0].first.collect.rephrase, template="{solution} {prompt}"
  )
  prompts = prompter.take(0, 8)
  groups = dataclasses.replace(made(np.zeros((8, 2))), prompts=prompts)
  failing_P = np.arange(8) != 3
  asked = asks.questions(groups, failing_P)
  assert asked[3] is None
  for row, question in zip(prompts.rows, asked):
    if question is not None:
      assert question.prompt in {
        f"{d} {row.prompt}" for d in row.demonstrations
      }
      assert question.reference == row.reference
  # Too long a question is not asked.
  short = dataclasses.replace(asks, prompter=prompter.resized(2))
  assert short.questions(groups, failing_P) == [None] * 8


def test_a_run_says_what_came_of_it(small, tmp_path, recorded):
  code, _ = small.train(
    tmp_path / "run",
    "algo.rephrase.enabled=True",
    "train.total_steps=2",
    "algo.rephrase.template={prompt}",
    "algo.rephrase.max_prompt_length=20",
    "eval.every=0",
    method="grpo",
  )
  assert code == 0
  rows = recorded(tmp_path / "run")["metrics.jsonl"]
  for row in rows:
    assert row["rephrase/failing_frac"] > 0
    assert 0 <= row["rephrase/accepted_frac"] <= row["rephrase/asked_frac"]


def test_what_an_expert_led_to_is_not_counted_as_the_policy_s_own(
  small, tmp_path, monkeypatch, recorded
):
  """Until the first update all is measured as if nobody had asked."""

  def all_right(self, engine, groups, key):
    right = np.ones_like(groups.reward_PG)
    return dataclasses.replace(
      groups, reward_PG=right, correct_PG=right.astype(bool)
    ), {"rephrase/accepted_frac": 1.0}

  monkeypatch.setattr(rephrase.Rephrase, "__call__", all_right)
  rows = []
  for name in ("True", "False"):
    code, _ = small.train(
      tmp_path / name,
      f"algo.rephrase.enabled={name}",
      "algo.rephrase.max_prompt_length=20",
      "train.total_steps=1",
      "eval.every=0",
      method="grpo",
    )
    assert code == 0
    rows += recorded(tmp_path / name)["metrics.jsonl"]
  taught, plain = rows
  assert taught["rephrase/accepted_frac"] == 1 > plain["correct"]
  for name in (
    "reward",
    "reward_std",
    "correct",
    "frac_reward_zero_std",
    "completions/mean_length",
    "rewards/chain_sum/mean",
    "num_tokens",
    "dynamic_sampling/all_right_frac",
    "dynamic_sampling/all_wrong_frac",
  ):
    assert taught[name] == plain[name], name
  # By the sampler's log-probs and by the scorer: the same in expectation.
  assert taught["entropy"] == pytest.approx(plain["entropy"], rel=0.5)
