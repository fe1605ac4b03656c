"""VESPO (2602.10693) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/vespo_qwen2_5_7b.py:host \
    --workdir runs/vespo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; the method alone differs. Hardware and hours:
not measured here.

To expect: no score in this setting is known to us. On Qwen3-30B-A3B, a
mixture of experts which cannot be read here, an average of 57.2 against 54.9
of GRPO, as others quote it.

From the paper and its scripts: the weight W^k exp(lambda (1 - W)) with (2, 3)
for good and (3, 2) for bad responses (its docstring lists others), a mean
over tokens, no KL, temperature 1, learning rate 1e-6, and many updates of one
batch, 8 to 64: `paper` has 16. Batch, lengths and group size are stand-ins:
those of FlowRL (2509.15207).
"""

from progrpo_jax.config import methods, scales


def get_config(scale: str = "paper"):
  """VESPO at a scale."""
  return methods.vespo(scales.flowrl(scale))
