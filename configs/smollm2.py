"""A real pretrained model on a laptop's CPU: SmolLM2-135M writes sentences.

  make real
or, for one run, after `make real` has made the base policy:
  progrpo train --config configs/smollm2.py:progrpo --workdir runs/sentences

The argument names any method of progrpo_jax/settings/methods.py. Model, task,
budget (`scales.smollm2`) and seeds are the same for all methods, as in
configs/tiny.py. The task asks for a short sentence with a given word; a harder
one, of exactly so many words, is
--config.data.tasks.sentences.options.count=exactly.

Hardware and hours: see docs/real.md.
"""

from progrpo_jax.settings import scales


def get_config(method: str = "progrpo"):
  """The config of one method."""
  c = scales.compared(scales.smollm2(), method)
  a = c.algo
  # The base has 3.3 nats a token here, and GRPO ends near 1.
  if method == "adaptive_entropy":
    a.entropy_control.target = 2.0
    a.entropy_control.step = 0.01
  # The problem, a solution and the words between them.
  if method == "repo":
    a.rephrase.max_prompt_length = 96
  return c
