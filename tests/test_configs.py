import pathlib

import ml_collections
import pytest

from configs import common
from progrpo_jax import errors
from progrpo_jax.cli import config as config_lib

FOLDER = pathlib.Path(common.__file__).parent
METHODS = ("grpo", "dr_grpo", "dapo", "progrpo", "prorl")


def _leaves(config, prefix=""):
  found = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict) and key != "tasks":
      found |= _leaves(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found


def _files():
  return [p for p in sorted(FOLDER.glob("*.py")) if "def get_config" in
          p.read_text()]


def test_every_file_has_common_keys_and_types_alone():
  known = _leaves(common.get_config())
  assert len(_files()) >= 2
  for path in _files():
    found = _leaves(config_lib.load(str(path)))
    own = {k for k in found if not k.startswith("algo.loss_options.")}
    assert own == known.keys(), path
    for key in own:
      assert type(found[key]) is type(known[key]), (path, key)


def test_tiny_names_its_methods():
  for method in METHODS:
    assert config_lib.load(f"configs/tiny.py:{method}").method == method
  with pytest.raises(errors.InputError, match="known: dapo, dr_grpo, grpo"):
    config_lib.load("configs/tiny.py:gpro")


def test_methods_are_those_of_the_papers():
  """Bounds, KL and aggregation; `methods` prints where each comes from."""
  tables = {
      # GRPO (2402.03300): one mean a sequence, KL 0.04 by k3.
      "grpo": {"epsilon": 0.2, "epsilon_high": 0.2, "beta": 0.04, "kl": "k3",
               "aggregate": "sequence_mean", "advantage": "grpo"},
      # Dr. GRPO (2503.20783): no spread, no length, no KL.
      "dr_grpo": {"epsilon": 0.2, "epsilon_high": 0.2, "beta": 0.0,
                  "aggregate": "constant", "advantage": "dr_grpo"},
      # DAPO (2503.14476): decoupled clip, token mean, no KL.
      "dapo": {"epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0,
               "aggregate": "token_mean", "advantage": "grpo",
               "dual_clip": 10.0},
      # ProGRPO (2602.05281): clip 0.2/0.28, lowest 20% of the tokens, no KL.
      "progrpo": {"epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0,
                  "aggregate": "token_mean", "advantage": "grpo"},
      # ProRL (2505.24864): clip 0.2/0.4, KL to a reference that is reset.
      "prorl": {"epsilon": 0.2, "epsilon_high": 0.4, "beta": 1e-4, "kl": "k3",
                "aggregate": "token_mean", "advantage": "grpo"},
  }
  from configs import methods
  made = {m: getattr(methods, m)(common.get_config()) for m in METHODS}
  for method, expected in tables.items():
    c = made[method]
    assert {k: c.algo[k] for k in expected} == expected, method
    assert c.algo.loss == "clip"
    assert c.algo.dynamic_sampling.enabled == (method in ("dapo", "prorl"))
    assert (c.algo.arm.alpha > 0) == (method == "progrpo")
    assert bool(c.algo.reset.modes) == (method == "prorl")
    assert c.sampling.temperature == (1.2 if method == "prorl" else 1.0)
  assert made["dapo"].algo.overlong_cache * 5 <= 256
  arm = made["progrpo"].algo.arm
  assert (arm.low_prob_share, arm.active, arm.apply_to) == (
      0.2, "any_correct", "all")
  assert made["prorl"].algo.reset.optimizer


def test_quickstart_methods_differ_in_arm_alone():
  grpo = _leaves(config_lib.load("configs/tiny.py:grpo"))
  progrpo = _leaves(config_lib.load("configs/tiny.py:progrpo"))
  assert grpo.keys() == progrpo.keys()
  different = {k for k in grpo if grpo[k] != progrpo[k]}
  assert {"method", "algo.arm.alpha"} <= different
  assert all(k == "method" or k.startswith("algo.arm.") for k in different)
  assert grpo["algo.arm.alpha"] == 0.0
