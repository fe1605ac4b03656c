"""Reinforcement learning with verifiable rewards that keeps diversity alive.

From Python: `config` makes a config, `train`, `evaluate`, `sample` and
`compare` do what the commands of these names do, `load_run` opens a run,
`load_policy` a policy, and `warmup` trains a base policy; see docs/python.md.
"""

__version__ = "0.1.0"

# Calls of this package -> where they are.
_CALLS = {
  "compare": "api:compare",
  "config": "settings.files:make_config",
  "evaluate": "api:evaluate",
  "load_policy": "api:load_policy",
  "load_run": "run:load_run",
  "sample": "api:sample",
  "train": "api:train",
  "warmup": "api:warmup",
}


def __getattr__(name):
  """A call of `_CALLS`, imported when it is asked for."""
  if name in _CALLS:
    import importlib

    place, _, function = _CALLS[name].partition(":")
    return getattr(importlib.import_module(f"progrpo_jax.{place}"), function)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return [*globals(), *_CALLS]
