"""Dr. GRPO (2503.20783) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/dr_grpo_qwen2_5_7b.py:host \
    --workdir runs/dr_grpo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 22 hours, see docs/tpu.md.

What to expect: we know of no score of this method in this setting.

From the paper: no division by the group's spread, no KL, clip 0.2 on both
sides, 8 samples, and token sums divided by a constant. The constant is
sampling.max_new_tokens, as in the authors' code. That code samples at most 3000
tokens; here the limit is 8192, which makes the loss smaller by 3000 / 8192.
Adam compensates for the scale, the clip of the gradient norm does not.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """Dr. GRPO at a scale."""
  return methods.dr_grpo(scales.flowrl(scale))
