"""An entropy bonus (2505.22617, figure 9) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/entropy_bonus_qwen2_5_7b.py:host \
    --workdir runs/entropy_bonus_7b

Model, data, files, scales and evaluation are those of
configs/clip_cov_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 12 hours, see docs/tpu.md.

What to expect, according to the paper: no gain over GRPO (38.6). Weights of
1e-4 and 1e-3 have no effect, 5e-3 (the one here) holds the entropy, and with
1e-2 it explodes. Another weight:
  --config.algo.entropy_coef=1e-3
We do not know whether the paper tried them in exactly this setting.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """A fixed entropy bonus at a scale."""
  return methods.entropy_bonus(scales.entropy_mechanism(scale))
