"""What the methods add to a run: heads, weights that adapt, stages, losses."""

import json

import numpy as np
import pytest

from progrpo_jax import errors, main
from progrpo_jax.algos import control
from progrpo_jax.build import functions
from progrpo_jax.build import stages as build
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf

SHORT = ("eval.every=0", "train.total_steps=2")


def rows(workdir):
  return [json.loads(line) for line in open(workdir / "metrics.jsonl")]


@pytest.fixture(scope="module")
def flowrl(small, tmp_path_factory):
  """(workdir of three steps, that of the same run in two parts)."""
  folder = tmp_path_factory.mktemp("flowrl")
  whole, half = folder / "whole", folder / "half"
  for workdir, steps in ((whole, 3), (half, 2), (half, 3)):
    assert (
      small.train(
        workdir, "eval.every=0", f"train.total_steps={steps}", method="flowrl"
      )[0]
      == 0
    )
  return whole, half


def test_flowrl_trains_its_head_resumes_and_exports_the_policy_alone(
  flowrl, tmp_path, recorded
):
  whole, half = flowrl
  a, b = recorded(whole), recorded(half)
  assert a["params"] == b["params"] and a["opt_state"] == b["opt_state"]
  assert any("log_z" in path for path, _ in a["params"])
  found = rows(whole)
  assert len({row["flowrl/log_z"] for row in found}) == 3
  assert all("kl" in row for row in found)
  out = tmp_path / "out"
  assert (
    main.main(["export", "--policy", str(whole), "--output", str(out)]) == 0
  )
  config, params = hf.load(str(out))
  assert not config.partition_head and "log_z" not in params


def test_a_policy_with_a_head_starts_runs_with_and_without_one(small, flowrl):
  mesh = sharding.make_mesh(1, 1, 1)
  start = f"model.init_from={flowrl[0]}"
  kept = build.load_policy(small.config(start, method="flowrl"), mesh)
  plain = build.load_policy(small.config(start, method="grpo"), mesh)
  assert kept.config.partition_head and not plain.config.partition_head
  assert set(kept.params) - set(plain.params) == {"log_z"}
  new = build.load_policy(small.config(method="flowrl"), mesh)
  trained = kept.params["log_z"]["linear_0"]
  assert not np.array_equal(trained, new.params["log_z"]["linear_0"])


def test_entropy_coefficient_follows_its_rule(small, tmp_path):
  """The logged weights are those that the rule gives from logged entropies."""
  code, _ = small.train(
    tmp_path / "run",
    "eval.every=0",
    "train.total_steps=4",
    "algo.entropy_control.target=100.0",
    "algo.entropy_control.step=0.4",
    method="grpo",
  )
  assert code == 0
  found = rows(tmp_path / "run")
  coef, expected = 0.0, []
  for row in found:
    expected.append(coef)
    coef = control.adapt_entropy_coef(
      coef, row["entropy"], target=100.0, step=0.4
    )
  assert [row["entropy_coef"] for row in found] == expected
  assert expected == [0.0, 0.4, 0.8, 1.0]


OWN_LOSS = '''
import jax.numpy as jnp

def squares(inputs, *, scale=1.0):
  """Not a good idea: pulls good responses' log-probs to 0."""
  adv_BT = inputs.token_adv_BT
  loss_BT = jnp.where(
      inputs.mask_BT, scale * adv_BT * inputs.logp_BT ** 2, 0.0)
  return loss_BT, {"own/mean": (jnp.sum(loss_BT), jnp.sum(inputs.mask_BT))}
'''


def test_a_loss_of_ones_own_by_its_import_path(small, tmp_path, monkeypatch):
  (tmp_path / "own_losses.py").write_text(OWN_LOSS)
  monkeypatch.syspath_prepend(tmp_path)
  path = small.write(
    tmp_path / "config.py",
    eval=dict(every=0),
    train=dict(total_steps=3),
    algo=dict(loss="own_losses.squares", loss_options=dict(scale=0.5)),
  )
  workdir = tmp_path / "run"
  assert (
    main.main(["train", "--config", str(path), "--workdir", str(workdir)]) == 0
  )
  found = rows(workdir)
  assert [row["step"] for row in found] == [1, 2, 3]
  assert all(np.isfinite(row["own/mean"]) for row in found)
  assert any(row["grad_norm"] > 0 for row in found)


def test_an_option_that_a_loss_does_not_know_is_named(small, tmp_path):
  path = small.write(
    tmp_path / "config.py", algo=dict(loss_options=dict(epsilom=0.1))
  )
  assert (
    main.main(
      ["train", "--config", str(path), "--workdir", str(tmp_path / "r")]
    )
    == 2
  )


# What a group of four leaves of a method.
SCALED = {
  "brorl": ("algo.num_generations=8",),
  "passk": ("algo.advantage_options.k=2",),
}


@pytest.mark.parametrize(
  "method",
  [
    "prorl_v2",
    "clip_cov",
    "maxrl",
    "passk",
    "ucpo",
    "unlikeliness",
    "f_grpo",
    "dra_grpo",
    "qae",
    "nsr",
    "gdpo",
    "brorl",
    "dppo",
    "sapo",
    "high_entropy",
  ],
)
def test_wired_methods_take_two_steps(small, tmp_path, method):
  code, _ = small.train(
    tmp_path / "run", *SHORT, *SCALED.get(method, ()), method=method
  )
  assert code == 0
  found = rows(tmp_path / "run")
  assert len(found) == 2 and all(np.isfinite(r["loss"]) for r in found)
  if method == "prorl_v2":
    # Sampler and trainer agree here, so that no weight is far from 1.
    assert all(abs(r["sampling/weight_mean"] - 1) < 1e-3 for r in found)
  if method == "high_entropy":
    # A fifth, rounded up in each minibatch, whose tokens are the more random.
    assert all(0.2 <= r["high_entropy/kept"] < 0.25 for r in found)
    assert all(r["high_entropy/entropy"] > r["entropy/kept"] for r in found)
  if method == "sapo":
    assert all(0 < r["sapo/weight"] <= 1 for r in found)
  if method == "dppo":
    assert all(0 < r["dppo/difference"] < 0.15 for r in found)


@pytest.mark.parametrize("key", ["partition_head", "hold_reference"])
def test_flowrl_without_what_it_reads_is_refused(small, key):
  c = small.config(f"algo.{key}=False", method="flowrl")
  with pytest.raises(errors.InputError, match=f"'flowrl'.*{key}"):
    functions.make_objective(c)


def test_measured_triggers_reset_a_run(small, tmp_path):
  """Stall, KL and the KL's share, through the whole loop, one after another.

  In the first step after a reset the KL is 0, and can be no reason."""
  triggers = (
    {
      "at_step": 2,
      "set": {
        "algo.reset.modes": ("kl",),
        "algo.reset.kl_factor": 0.0,
        "algo.reset.kl_threshold": 1e-12,
      },
    },
    {
      "at_step": 4,
      "set": {
        "algo.reset.modes": ("auto",),
        "algo.reset.kl_threshold": 1e9,
        "algo.reset.share_threshold": 1e-9,
        "algo.reset.share_window": 2,
      },
    },
  )
  code, _ = small.train(
    tmp_path,
    "algo.reset.modes=('stall',)",
    "algo.reset.patience=1",
    "algo.reset.min_delta=1.0",
    "algo.reset.min_gap=1",
    "train.total_steps=6",
    f"schedule={triggers!r}",
  )
  assert code == 0
  found = rows(tmp_path)
  reasons = {
    row["step"]: row["ref_reset/reason"]
    for row in found
    if row["ref_reset/reset"]
  }
  told = [(row["kl"], row.get("kl_share")) for row in found]
  assert list(reasons) == [2, 4, 6], told
  for reason, said in zip(
    reasons.values(),
    ("no validation gain in 1", "stands out", "of the gradient over 2"),
  ):
    assert said in reason
  # The reference is the policy of the step, as the next one sees it.
  assert [row["ref_reset/ref_step"] for row in found] == [0, 2, 2, 4, 4, 6]
  assert [kl == 0 for kl, _ in told] == [True, False] * 3
