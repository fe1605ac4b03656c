"""Reinforcement learning with verifiable rewards that keeps diversity alive.

From Python: `config` makes a config, `train`, `evaluate`, `sample` and
`compare` do what the commands of these names do, `load_run` opens a run,
`load_policy` a policy, and `warmup` trains a base policy; see docs/python.md.
"""

__version__ = "0.1.0"

# Calls of this package -> modules that hold them.
_CALLS = {
  "compare": "api",
  "config": "settings.files",
  "evaluate": "api",
  "load_policy": "api",
  "load_run": "run",
  "sample": "api",
  "train": "api",
  "warmup": "api",
}


def __getattr__(name):
  """A call of `_CALLS`, imported when it is asked for."""
  if name in _CALLS:
    import importlib

    module = importlib.import_module(f"progrpo_jax.{_CALLS[name]}")
    return getattr(module, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return [*globals(), *_CALLS]
