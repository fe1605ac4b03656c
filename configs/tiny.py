"""The quickstart: a character-level policy on Countdown, on a laptop's CPU.

  make quickstart
or, one run by itself, after `make quickstart` has left a base policy:
  progrpo train --config configs/tiny.py:progrpo --workdir runs/progrpo

The argument names a method of `configs/methods.py`: grpo, dr_grpo, dapo,
progrpo, prorl. Model, data, budget and seeds are the same for all; what a
method is stands in its function, and where this small scale wants another
number than the paper's, below. Measured results: docs/results.md.
"""

from configs import common, methods


def get_config(method: str = "progrpo"):
  """The quickstart's config of one method."""
  c = common.get_config()
  c.model.init_from = "runs/quickstart/base"
  # Recomputing is cheaper than a trip to memory here: 204 against 270 ms for
  # an update of 256 sequences on two cores.
  c.model.remat = "layer"
  c.train.micro_batch_prompts = 8
  c.data.tasks = {
      "countdown": {
          "weight": 1.0,
          "options": {"template": "compact"},
      },
  }
  c.data.dir = "runs/data"
  c.data.max_prompt_length = 32
  c.sampling.max_new_tokens = 24
  c.sampling.chunk = 8
  c.algo.num_generations = 16
  c.train.total_steps = 100
  c.train.prompts_per_step = 32
  c.train.num_minibatches = 2
  c.optim.learning_rate = 3e-4
  c.eval.every = 20
  c.eval.num_problems = 128
  c.eval.num_samples = 64
  c.eval.batch_prompts = 32
  # The policy is read as it is: no sharpening hides a lost path.
  c.eval.temperature = 1.0
  c.eval.top_p = 1.0
  c.checkpoint.every = 25
  c.log.rollouts_every = 5
  c.warmup.steps = 1500
  c.warmup.batch_size = 64

  apply = getattr(methods, method, None)
  if apply is None:
    known = sorted(n for n in vars(methods) if not n.startswith("_"))
    raise ValueError(f"no method {method!r}; known: {', '.join(known)}")
  c = apply(c)
  # Without a KL term the reference needs no memory, and plain GRPO is here
  # the baseline that differs from ProGRPO in ARM alone.
  if method == "grpo":
    c.algo.beta = 0.0
    c.algo.aggregate = "token_mean"
    c.algo.epsilon_high = 0.28
  # Chosen by measurement (docs/results.md). The prompts are random numbers:
  # c(q) is near 0 whatever the problem, so that without centring ARM would
  # only push down all that is sampled.
  if method == "progrpo":
    c.algo.arm.alpha = 1.0
    c.algo.arm.centre = True
  if method == "prorl":
    c.algo.reset.modes = ("every",)
    c.algo.reset.period = 40
  return c
