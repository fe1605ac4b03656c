"""Reinforcement learning with verifiable rewards that keeps diversity alive."""

__version__ = "0.1.0"


def __getattr__(name):
  """`progrpo_jax.load_run`, imported when it is asked for."""
  if name == "load_run":
    from progrpo_jax import run

    return run.load_run
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return [*globals(), "load_run"]
