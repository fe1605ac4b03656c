"""Every method on a mixture of four puzzles, with a policy of 2.8M parameters.

  progrpo warmup --config configs/puzzles.py --config.model.init_from= \
    --output runs/puzzles/base
  progrpo train --config configs/puzzles.py:progrpo \
    --workdir runs/puzzles/progrpo

The argument names any method of progrpo_jax/settings/methods.py. The puzzles
are those of configs/prorl_tiny.py, the policy is 17 times as large as that of
configs/tiny.py. At the learning rates of that one, neither the warm-up nor
training gets far with this width, so that both are a third here. An update of
the warm-up takes 1.7 s of one core, and it makes 800 of them. The config is a
part of the study, see docs/study.md.
"""

from progrpo_jax.settings import scales


def get_config(method: str = "progrpo"):
  """A method on the mixture."""
  c = scales.puzzles()
  c.train.total_steps = 300
  c = scales.compared(c, method)
  c.model.init_from = "runs/puzzles/base"
  c.optim.learning_rate = 1e-4
  c.eval.every = 100
  c.eval.num_problems = 32
  c.checkpoint.every = 50
  w = c.warmup
  w.embed_dim, w.num_layers, w.mlp_dim = 256, 4, 640
  w.steps = 800
  w.learning_rate = 1e-3
  if method == "repo":
    c.algo.rephrase.template = "{solution} {prompt}"
    c.algo.rephrase.max_prompt_length = 2 * c.data.max_prompt_length
  return c
