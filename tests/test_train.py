import errno
import json
import os
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from progrpo_jax import errors, loop, main
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, parameters
from progrpo_jax.storage import checkpoint
from progrpo_jax.storage import policy as policy_lib


def _rows(workdir, name="metrics.jsonl"):
  return [json.loads(x) for x in (workdir / name).read_text().splitlines()]


def _params(workdir, step):
  model = policy_lib.read_model(workdir / "model" / "config.json")
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  like = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    parameters.abstract_params(model),
    parameters.shardings(model, mesh),
  )
  keeper = checkpoint.Checkpointer(workdir / "checkpoints", read_only=True)
  return keeper.load_params(step, like)


def _equal(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_finished_run_is_left_alone_and_can_be_made_longer(
  small, tmp_path, recorded
):
  short = ("train.total_steps=1", "eval.every=0")
  assert small.train(tmp_path, *short, method="grpo")[0] == loop.DONE
  before = recorded(tmp_path)
  code, view = small.train(tmp_path, *short, method="grpo")
  assert code == loop.DONE and view.steps == []
  assert view.messages == [
    "attention: xla (platform cpu)",
    "resuming from step 1",
    "already finished at step 1: raise train.total_steps",
  ]
  assert recorded(tmp_path) == before
  code, view = small.train(
    tmp_path, "train.total_steps=2", "eval.every=0", method="grpo"
  )
  assert [step for step, _ in view.steps] == [2]
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["train"]["total_steps"] == 2


def test_scoring_is_left_out_where_nothing_needs_it(small, tmp_path):
  """The parameters are those with it, to rounding."""
  one = (
    "train.total_steps=2",
    "eval.every=0",
    "train.num_minibatches=1",
    "train.num_iterations=1",
    "algo.beta=0",
  )
  for score in ("needed", "always"):
    small.train(tmp_path / score, *one, f"train.score={score}", method="grpo")
  without, with_scores = (
    _rows(tmp_path / name)[-1] for name in ("needed", "always")
  )
  assert "timing_s/score" in with_scores
  assert not {"timing_s/score", "entropy/q90"} & set(without)
  assert without["ratio/square_mean"] == with_scores["ratio/square_mean"] == 1
  for name in (
    "reward",
    "entropy/kept",
    "perf/useful_share_train",
    "grad_norm",
  ):
    assert without[name] == pytest.approx(with_scores[name], rel=1e-3), name
  assert without["sampling/logp_difference_mean"] == pytest.approx(
    with_scores["sampling/logp_difference_mean"], abs=1e-5
  )
  for x, y in zip(
    jax.tree.leaves(_params(tmp_path / "needed", 2)),
    jax.tree.leaves(_params(tmp_path / "always", 2)),
    strict=True,
  ):
    np.testing.assert_allclose(x, y, atol=1e-3)
  record = _rows(tmp_path / "needed" / "rollouts", "000001.jsonl")
  assert all(row["c_prompt"] is None for row in record)


def test_arm_by_the_samplers_log_probs(small, tmp_path):
  one = (
    "train.total_steps=1",
    "eval.every=0",
    "train.num_minibatches=1",
    "train.num_iterations=1",
    "algo.beta=0",
    "algo.arm.alpha=1",
  )
  centred = (*one, "algo.arm.centre=True")
  for score in ("never", "needed"):
    small.train(
      tmp_path / score, *centred, f"train.score={score}", method="grpo"
    )
  by_sampler, by_scores = (
    _rows(tmp_path / name)[-1] for name in ("never", "needed")
  )
  assert "timing_s/score" in by_scores and "timing_s/score" not in by_sampler
  assert by_sampler["arm/bonus_abs_mean"] == pytest.approx(
    by_scores["arm/bonus_abs_mean"], rel=1e-3
  )
  assert "arm/c_prompt_mean" not in by_sampler
  # The paper's c(q) is of the prompt's tokens, which no sampler scores.
  with pytest.raises(errors.InputError, match="config.train.score.*centre"):
    small.train(tmp_path / "refused", *one, "train.score=never", method="grpo")


def test_an_advantage_by_the_samplers_log_probs(small, tmp_path):
  one = (
    "train.total_steps=1",
    "eval.every=0",
    "train.num_minibatches=1",
    "train.num_iterations=1",
  )
  found = {}
  for score in ("never", "needed"):
    small.train(tmp_path / score, *one, f"train.score={score}", method="ucpo")
    row = _rows(tmp_path / score)[-1]
    assert ("timing_s/score" in row) == (score == "needed")
    found[score] = [
      sample["base_advantage"]
      for prompt in _rows(tmp_path / score / "rollouts", "000001.jsonl")
      for sample in prompt["completions"]
    ]
  assert np.any(found["needed"])
  np.testing.assert_allclose(found["never"], found["needed"], atol=1e-3)


def test_lost_reference_stops_the_run(small, tmp_path, capfd):
  options = (
    "train.total_steps=1",
    "eval.every=0",
    "algo.reset.modes=()",
    "checkpoint.keep=1",
  )
  small.train(tmp_path, *options)
  assert (tmp_path / "checkpoints" / "0").is_dir()
  shutil.rmtree(tmp_path / "checkpoints" / "0")
  argv = ["train", *small.args(*options), "--workdir", str(tmp_path)]
  assert main.main(argv) == 2
  assert "the reference policy is step 0, but" in capfd.readouterr().err


def test_reset_decides_over_the_moments_and_the_schedule_goes_on(
  small, tmp_path
):
  """Counts of moments and schedule: eight updates, one a minibatch and pass;
  the moments forgot them at step 1 and 2, or did not."""
  options = (
    "train.total_steps=2",
    "eval.every=0",
    "algo.reset.period=1",
    "optim.warmup_steps=16",
    "algo.dynamic_sampling.enabled=False",
  )
  for more, counts, rates in (
    (("algo.reset.optimizer=False",), {8}, [1 / 4, 1 / 2]),
    (("algo.reset.optimizer=True",), {0, 8}, [1 / 4, 1 / 2]),
    (
      ("algo.reset.optimizer=True", "algo.reset.rewarmup_steps=4"),
      {0, 8},
      [0, 0],
    ),
  ):
    workdir = tmp_path / "_".join(more)
    small.train(workdir, *options, *more)
    tree = ocp.StandardCheckpointer().restore(
      workdir / "checkpoints" / "2" / "opt_state"
    )
    assert counts == {
      int(x)
      for path, x in jax.tree_util.tree_leaves_with_path(tree)
      if "count" in jax.tree_util.keystr(path)
    }
    # What is logged is the rate of the next update.
    np.testing.assert_allclose(
      [r["learning_rate"] for r in _rows(workdir)],
      3e-3 * np.array(rates),
      rtol=1e-6,
    )


def test_kl_is_zero_after_a_reset_in_bfloat16_too(small, tmp_path):
  small.train(
    tmp_path,
    "train.total_steps=3",
    "eval.every=0",
    "model.dtype=bfloat16",
    "algo.reset.period=1",
    "algo.dynamic_sampling.enabled=False",
  )
  assert [row["kl"] for row in _rows(tmp_path)] == [0, 0, 0]


REWARDS = """
def odd_digit(prompts, completions, tag, **columns):
  assert len(prompts) == len(completions) == len(tag) == len(columns["n"])
  return [None if t == "skip" else float(c[:1] in tuple("13579"))
          for c, t in zip(completions, tag)]

def malus(prompts, completions, **columns):
  return [None if len(c) > 1 else -len(c) / 4 for c in completions]
"""


def test_own_rows_and_reward_function(small, tmp_path):
  """A user's file and functions.

  Where the one that decides has no opinion the sample is masked and counts
  nowhere; the other one adds to the reward and has no say in what is right.
  """
  (tmp_path / "rows.jsonl").write_text(
    "".join(
      json.dumps(
        {"prompt": f"{i}+{j}=", "n": i, "tag": "skip" if i > 3 else "use"}
      )
      + "\n"
      for i in range(1, 6)
      for j in range(1, 5)
    )
  )
  (tmp_path / "own.py").write_text(REWARDS)
  path = small.write(
    tmp_path / "config.py",
    data=dict(
      tasks={
        "digits": {
          "module": "file",
          "options": {
            "file": str(tmp_path / "rows.jsonl"),
            "reward_functions": (
              f"{tmp_path / 'own.py'}:malus",
              f"{tmp_path / 'own.py'}:odd_digit",
            ),
            "correct_by": "odd_digit",
          },
        }
      }
    ),
    train=dict(total_steps=2),
  )
  workdir = tmp_path / "run"
  argv = ["train", "--config", str(path), "--workdir", str(workdir)]
  assert main.main(argv) == 0
  masked, judged = 0, set()
  for row in _rows(workdir):
    rollouts = _rows(workdir, f"rollouts/{row['step']:06d}.jsonl")
    assert len(rollouts) == 4
    rewards, digits, malus = [], [], []
    for group in rollouts:
      assert group["task"] == "digits"
      skipped = group["prompt"][0] in "45"
      for sample in group["completions"]:
        assert sample["status"] == ("masked" if skipped else "ok")
        digit = float(sample["text"][:1] in tuple("13579"))
        short = len(sample["text"]) <= 1
        if short:
          malus.append(-len(sample["text"]) / 4)
        if skipped:
          assert sample["advantage"] == 0
          masked += 1
        else:
          digits.append(digit)
          assert sample["correct"] == bool(digit)
          assert sample["reward"] == digit + (malus[-1] if short else 0)
          rewards.append(sample["reward"])
    assert np.isclose(row["reward"], np.mean(rewards))
    assert row["rewards/digits/mean"] == row["reward"]
    assert np.isclose(row["correct"], np.mean(digits))
    for name, values in (("odd_digit", digits), ("malus", malus)):
      assert np.isclose(row[f"rewards/digits/{name}/mean"], np.mean(values))
      assert np.isclose(row[f"rewards/digits/{name}/std"], np.std(values))
    assert row["verifier/masked"] == 16 - len(rewards)
    judged |= set(digits)
  assert masked and judged == {0, 1}
  assert _rows(workdir, "eval.jsonl")[0]["eval/digits/num_problems"] == 2


VERIFIER = """
import os, time

def score(completion, reference, **meta):
  if completion.startswith("-"):
    os._exit(3)
  if completion.startswith("1"):
    time.sleep(100)
  return 1.0, True, "ok"
"""


def test_failing_verifier_is_counted_and_masked(small, tmp_path, capfd):
  """Whatever it judges is right: one failure scored 0 would show."""
  (tmp_path / "rows.jsonl").write_text(
    "".join(
      json.dumps({"prompt": f"{i}-{j}=", "answer": "1"}) + "\n"
      for i in range(1, 6)
      for j in range(1, 6)
    )
  )
  (tmp_path / "judge.py").write_text(VERIFIER)
  tasks = {
    "file": {
      "options": {
        "file": str(tmp_path / "rows.jsonl"),
        "verifier": f"{tmp_path / 'judge.py'}:score",
      }
    }
  }

  def run(name, share):
    path = small.write(
      tmp_path / "config.py",
      data=dict(tasks=tasks),
      eval=dict(every=0),
      rewards=dict(deadline_s=0.2, max_failure_share=share),
      train=dict(total_steps=2),
    )
    return main.main(
      ["train", "--config", str(path), "--workdir", str(tmp_path / name)]
    )

  assert run("lenient", 1.0) == 0
  failed = 0
  for row in _rows(tmp_path / "lenient"):
    samples = [
      s
      for group in _rows(
        tmp_path / "lenient", f"rollouts/{row['step']:06d}.jsonl"
      )
      for s in group["completions"]
    ]
    slow = sum(s["text"].startswith("1") for s in samples)
    dead = sum(s["text"].startswith("-") for s in samples)
    assert (row["verifier/timeouts"], row["verifier/crashes"]) == (slow, dead)
    assert row["verifier/masked"] == slow + dead
    assert row["reward"] == row["correct"] == 1.0
    for s in samples:
      assert (s["status"] == "masked") == (s["text"][:1] in ("1", "-"))
    failed += slow + dead
  assert failed
  capfd.readouterr()
  assert run("strict", 0.01) == 1
  said = capfd.readouterr().err
  assert "progrpo train: stopped: " in said
  assert "verifications failed, more than max_failure_share=0.01" in said
  assert "judge.py:score" in said or "rewards.functions:score" in said


LOSSES = """
import jax.numpy as jnp
from progrpo_jax.algos import losses

def broken(inputs):
  loss_BT, metrics = losses.clip(inputs)
  return loss_BT * jnp.nan, metrics
"""


def test_weights_that_are_not_finite_are_no_start(small, tmp_path, capfd):
  config, params = hf.load(str(small.base))
  params = jax.tree.map(np.array, params)
  params["norm"]["scale"][3] = np.nan
  tokenizer = policy_lib.tokenizer_lib.load(str(small.base))
  hf.save(str(tmp_path / "broken"), config, params, tokenizer)
  argv = [
    "train",
    *small.args(method="grpo"),
    "--workdir",
    str(tmp_path / "run"),
    "--config.model.init_from",
    str(tmp_path / "broken"),
  ]
  assert main.main(argv) == 2
  said = capfd.readouterr().err
  assert "not finite in norm.scale; name another policy" in said


def test_updates_that_are_not_finite_stop_the_run(
  small, tmp_path, capfd, monkeypatch
):
  """Four updates a step, abort after six in a row: in the second step, also
  when the run was stopped and started between them."""
  (tmp_path / "broken_losses.py").write_text(LOSSES)
  monkeypatch.syspath_prepend(tmp_path)
  argv = [
    "train",
    *small.args(
      "algo.loss=broken_losses.broken",
      "train.max_skipped_updates=6",
      "eval.every=0",
      method="grpo",
    ),
    "--workdir",
    str(tmp_path / "run"),
  ]
  for _ in range(2):
    assert main.main(argv) == 1
    said = capfd.readouterr().err
    assert "progrpo train: stopped: 8 updates in a row" in said
  rows = _rows(tmp_path / "run")
  assert [row["step"] for row in rows] == [1]
  assert rows[0]["skipped_updates"] == 1 and "loss" not in rows[0]
  _, base = hf.load(str(small.base))
  for step in (0, 1):
    assert _equal(_params(tmp_path / "run", step), base)


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ValueError(
      'RESOURCE_EXHAUSTED: Error writing local file "x": Failed to '
      "write 5478 bytes: No space left on device"
    ),
  ],
)
def test_a_full_disk_is_named_and_loses_nothing(
  small, tmp_path, monkeypatch, recorded, capfd, error
):
  """Full at the third step's save; with space again the run ends alike."""
  whole, workdir = tmp_path / "whole", tmp_path / "run"
  argv = ["train", *small.args("train.total_steps=3"), "--workdir"]
  assert main.main([*argv, str(whole)]) == 0
  save = checkpoint.Checkpointer.save

  def full(self, step, *args):
    if step == 3:
      raise error
    save(self, step, *args)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpointer, "save", full)
    assert main.main([*argv, str(workdir)]) == 1
  said = capfd.readouterr().err
  assert f"no space is left on the disk, where --workdir {workdir} is" in said
  assert "Traceback" not in said
  assert main.main([*argv, str(workdir)]) == 0
  assert recorded(workdir) == recorded(whole)


def test_other_errors_are_not_taken_for_a_full_disk(
  small, tmp_path, monkeypatch
):
  def broken(*_):
    raise ValueError("something else")

  monkeypatch.setattr(checkpoint.Checkpointer, "save", broken)
  with pytest.raises(ValueError, match="something else"):
    main.main(["train", *small.args(), "--workdir", str(tmp_path / "run")])
