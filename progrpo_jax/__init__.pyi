from progrpo_jax.api import (
  compare,
  evaluate,
  load_policy,
  sample,
  train,
  warmup,
)
from progrpo_jax.run import load_run
from progrpo_jax.settings.files import make_config as config

__all__ = [
  "__version__",
  "compare",
  "config",
  "evaluate",
  "load_policy",
  "load_run",
  "sample",
  "train",
  "warmup",
]

__version__: str
