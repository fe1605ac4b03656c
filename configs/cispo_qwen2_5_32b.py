"""CISPO (2506.13585) on Qwen2.5-32B, beside DAPO.

  progrpo doctor --config configs/cispo_qwen2_5_32b.py
  progrpo train --config configs/cispo_qwen2_5_32b.py --workdir runs/cispo_32b

Model, data, files, scale and memory are those of configs/dapo_qwen2_5_32b.py.
To try the method, call `methods.cispo` on a smaller scale of
progrpo_jax/settings/scales.py. Hardware and hours: not measured here. On 64 v5p
chips the TPU's compiler counts 37 GiB of each and at least 1,060 hours, see
docs/tpu.md.

What to expect: the paper compares CISPO with GRPO and DAPO on this model, on
AIME 2024, as a figure; others quote that CISPO reaches DAPO's score in half
the steps. Not reproduced here.

From the paper: the capped ratio as a weight without gradient, no lower bound,
no KL, dynamic sampling and a length penalty (DAPO's), 16 updates per batch,
Adam with betas 0.9 / 0.95 and epsilon 1e-15. The paper does not print the cap;
5 is TRL's. Stand-ins: batch, lengths, learning rate and group size are DAPO's
(2503.14476).
"""

from progrpo_jax.settings import methods, scales


def get_config():
  """CISPO at DAPO's scale."""
  c = methods.cispo(scales.dapo())
  c.algo.dynamic_sampling.enabled = True
  c.algo.dynamic_sampling.filter = "accuracy"
  c.algo.overlong_cache = c.sampling.max_new_tokens // 5
  c.optim.b2 = 0.95
  c.optim.eps = 1e-15
  return c
