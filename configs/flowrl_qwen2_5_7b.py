"""FlowRL (2509.15207) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/flowrl_qwen2_5_7b.py:host \
    --workdir runs/flowrl_7b

Files, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py, which
took them from this paper. Hardware and hours: not measured here. On 64 v5p
chips the TPU's compiler counts 20 GiB of each and at least 24 hours, see
docs/tpu.md. The run also holds a reference and trains an estimate of log Z,
three layers as wide as the model.

What to expect, mean of 16 samples at temperature 0.6 and top_p 0.95, averages
over six test sets of mathematics: REINFORCE++ 31.52, PPO 31.98, GRPO 32.48,
FlowRL 35.63; without its importance weight 26.71. At 32B 48.39, against 38.34
for GRPO. ProGRPO's paper has 35.3 for its own run of FlowRL at 7B, as others
quote it. Not reproduced here.

From the paper: the loss, beta 15, the start model as the reference, 512
prompts of 8 samples, minibatches of 32, 2048 and 8192 tokens, learning rate
1e-6, weight decay 0.1, 10 warm-up steps. The importance weight is clipped, as
in the paper's text; the released code does not clip it. Chosen here: the
bounds of the weight (0.8 and 1.28), the number of steps, the held-out problems
and when they are evaluated.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """FlowRL at a scale."""
  return methods.flowrl(scales.flowrl(scale))
