"""Prolonged training on a laptop's CPU: ProRL over a mixture of puzzles.

  progrpo warmup --config configs/prorl_tiny.py:base \
    --output runs/prorl_tiny/base
  progrpo train --config configs/prorl_tiny.py --workdir runs/prorl_tiny/prorl
  progrpo train --config configs/prorl_tiny.py:no_reset \
    --workdir runs/prorl_tiny/no_reset
  progrpo compare runs/prorl_tiny/prorl runs/prorl_tiny/no_reset

Argument: `prorl` (default); `no_reset`, the same without resets and without
KL; or `base`, for the warm-up, which needs no policy to start from. Steps,
problems, mixture and temperature are the same in both runs.

Hardware and hours: a run takes about an hour of one core beside other work,
the base six minutes. Results are in docs/results.md.

The base policy that the first command makes has pass@1 / pass@32 on 64
held-out problems of each task: countdown 0.080 / 0.734, chain_sum 0.060 /
0.859, graph_color 0.171 / 0.953, n_queens 0.303 / 0.984. Every task thus has
pass@1 to gain and pass@32 to lose.

Differences from the paper, for this scale: entries of config.schedule change
only the weights of the tasks, so that every evaluation has the same problems
and both runs see the same mixture, whenever a reset happens. A reset happens
after two evaluations without a gain and at the latest after 400 steps, so at
least four times in 2,000 steps. The KL has weight 0.03, with which it has 1.3%
of the gradient's square after 25 steps. Learning rate and sizes are those of
configs/tiny.py; all else is `methods.prorl`.
"""

from progrpo_jax.settings import methods, scales


def get_config(variant: str = "prorl"):
  """Prolonged training with resets, or its control."""
  if variant not in ("prorl", "no_reset", "base"):
    raise ValueError(f"no variant {variant!r}; known: prorl, no_reset, base")
  c = methods.prorl(scales.puzzles())
  c.model.init_from = "" if variant == "base" else "runs/prorl_tiny/base"
  for name in ("graph_color", "n_queens"):
    c.data.tasks[name].weight = 0.25
  c.schedule = (
    {
      "name": "puzzles join",
      "at_step": 600,
      "set": {
        "data.tasks.graph_color.weight": 1.0,
        "data.tasks.n_queens.weight": 1.0,
      },
    },
    {
      "name": "sums leave",
      "at_step": 1300,
      "set": {"data.tasks.chain_sum.weight": 0.25},
    },
  )
  c.train.total_steps = 2000
  c.eval.every = 100
  c.eval.num_problems = 64
  c.eval.num_samples = 32
  c.checkpoint.every = 100
  c.log.rollouts_every = 50
  c.warmup.steps = 2000
  c.algo.beta = 0.03
  # A batch that is not full after three rounds is used as it is.
  c.algo.dynamic_sampling.max_rounds = 3
  c.algo.reset.modes = ("stall", "every")
  c.algo.reset.patience = 2
  c.algo.reset.period = 400
  if variant == "no_reset":
    c.method = "no_reset"
    c.algo.beta = 0.0
    c.algo.reset.modes = ()
  return c
