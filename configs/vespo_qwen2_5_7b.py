"""VESPO (2602.10693) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/vespo_qwen2_5_7b.py:host \
    --workdir runs/vespo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 22 hours, see docs/tpu.md.

What to expect: we know of no score in this setting. On Qwen3-30B-A3B, a
mixture of experts, which this package cannot read, others quote an average of
57.2 against 54.9 for GRPO.

From the paper and its scripts: the weight W^k exp(lambda (1 - W)) with (2, 3)
for good and (3, 2) for bad responses (its docstring lists other values), a
mean over tokens, no KL, temperature 1, learning rate 1e-6, and 8 to 64 updates
of one batch; `paper` has 16. Stand-ins: batch, lengths and group size are
FlowRL's (2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """VESPO at a scale."""
  return methods.vespo(scales.flowrl(scale))
