"""What the notebooks train: the quickstart, small enough to wait for.

In a notebook `progrpo_jax.config("notebook", method="progrpo")` is this; from
a terminal

  progrpo warmup --config configs/notebook.py --config.model.init_from= \
    --output runs/notebooks/base
  progrpo train --config configs/notebook.py:progrpo \
    --workdir runs/notebooks/progrpo

Countdown with three numbers, a base policy that is warmed up for a minute,
and a few dozen steps. The argument names a method, as for configs/tiny.py,
whose numbers these are but for the sizes.
"""

import pathlib
import runpy

RUNS = "runs/notebooks"


def get_config(method: str = "progrpo"):
  """The quickstart's config of a method, with less of everything."""
  tiny = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))
  c = tiny["get_config"](method)
  c.model.init_from = f"{RUNS}/base"
  c.data.dir = f"{RUNS}/data"
  c.data.tasks.countdown.options = {
    "template": "compact",
    "max_numbers": 3,
    "max_value": 9,
    "max_target": 30,
    "num_train": 1000,
    "num_validation": 64,
  }
  c.data.max_prompt_length = 16
  c.sampling.max_new_tokens = 12
  c.sampling.chunk = 4
  c.train.total_steps = 60
  c.model.remat = "none"
  c.eval.every = 15
  c.eval.num_problems = 64
  c.eval.num_samples = 64
  c.checkpoint.every = 30
  # The policy before training stays, to be asked the same questions.
  c.checkpoint.keep_every = 30
  c.log.tensorboard = False
  c.warmup.examples = 1000
  c.warmup.steps = 500
  c.warmup.batch_size = 64
  return c
