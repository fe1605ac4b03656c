"""CISPO (2506.13585) on Qwen2.5-32B, beside DAPO.

  progrpo doctor --config configs/cispo_qwen2_5_32b.py
  progrpo train --config configs/cispo_qwen2_5_32b.py --workdir runs/cispo_32b

Model, data, files and scale are those of configs/dapo_qwen2_5_32b.py, and so
is what is said there of the memory. To try the method, call `methods.cispo`
on a smaller scale of progrpo_jax/config/scales.py. Hardware and hours: not
measured here.

To expect: the paper compares it on this model with GRPO and DAPO on AIME
2024, as a figure; CISPO comes to DAPO's score in half of the steps, as others
quote it. Not reproduced here.

From the paper: the capped ratio as a weight without gradient, no lower bound,
no KL, dynamic sampling and a length penalty (as DAPO's), 16 updates a batch,
Adam with betas 0.9 / 0.95 and epsilon 1e-15. The cap is not printed; 5 is
TRL's. Batch, lengths, learning rate and group size are stand-ins: DAPO's
(2503.14476).
"""

from progrpo_jax.config import methods, scales


def get_config():
  """CISPO at DAPO's scale."""
  c = methods.cispo(scales.dapo())
  c.algo.dynamic_sampling.enabled = True
  c.algo.dynamic_sampling.filter = "accuracy"
  c.algo.overlong_cache = c.sampling.max_new_tokens // 5
  c.optim.b2 = 0.95
  c.optim.eps = 1e-15
  return c
