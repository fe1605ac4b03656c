"""Clip-Cov (2505.22617) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/clip_cov_qwen2_5_7b.py:host \
    --workdir runs/clip_cov_7b

Files and evaluation are those of configs/progrpo_qwen2_5_7b.py; the scale is
`entropy_mechanism` of progrpo_jax/settings/scales.py. Argument: `paper`
(default), or `host` for one host of eight 80 GB devices. Hardware and hours:
not measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and
at least 12 hours, see docs/tpu.md.

What to expect, the paper's averages at 7B: GRPO 38.6, clip-higher 38.8,
Clip-Cov 40.4, KL-Cov 40.6. Not reproduced here.

From the paper: 2e-4 of the tokens, drawn among those of covariance 1 to 5,
clip 0.2 (the released scripts have 1), 256 prompts of 8 samples in 8 updates,
8192 tokens, temperature 1, learning rate 5e-7, groups without spread filtered
out, no KL. Shares and means are over a minibatch, 256 responses; in the
released code over a micro-batch. Chosen here: no weight decay, no warm-up, the
number of steps.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """Clip-Cov at a scale."""
  return methods.clip_cov(scales.entropy_mechanism(scale))
