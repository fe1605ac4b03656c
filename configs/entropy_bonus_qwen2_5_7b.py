"""An entropy bonus (2505.22617, figure 9) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/entropy_bonus_qwen2_5_7b.py:host \
    --workdir runs/entropy_bonus_7b

Model, data, files, scales and evaluation are those of
configs/clip_cov_qwen2_5_7b.py; the method alone differs. Hardware and hours:
not measured here.

To expect, says the paper: no gain over GRPO (38.6). Weights of 1e-4 and 1e-3
do nothing, 5e-3, which stands here, holds the entropy, 1e-2 makes it explode:
  --config.algo.entropy_coef=1e-3
Whether it tried them in just this setting is not known to us.
"""

from progrpo_jax.config import methods, scales


def get_config(scale: str = "paper"):
  """A fixed entropy bonus at a scale."""
  return methods.entropy_bonus(scales.entropy_mechanism(scale))
