"""REINFORCE++ (2501.03262) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/reinforce_pp_qwen2_5_7b.py:host \
    --workdir runs/reinforce_pp_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 24 hours, see docs/tpu.md.

What to expect: 31.52 in FlowRL's paper (2509.15207), the average described in
configs/flowrl_qwen2_5_7b.py. Not reproduced here.

From the paper: advantages with the mean and spread of the whole batch, clip
0.2, k1 to the start model subtracted from the reward with weight 1e-3.
Stand-ins: batch, lengths, group size and learning rate are FlowRL's. The
variant that first subtracts the mean of the group is
configs/prorl_v2_r1_distill_1_5b.py.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """REINFORCE++ at a scale."""
  return methods.reinforce_pp(scales.flowrl(scale))
