"""Unlikeliness reward (2506.02355) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/unlikeliness_qwen2_5_7b.py:host \
    --workdir runs/unlikeliness_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 22 hours, see docs/tpu.md.

What to expect: we know of no score in this setting. The paper trains
DeepSeek-Prover-V1.5-SFT to prove theorems in Lean, for which there is no
verifier here.

From the released code: rank and beta 0.25. Left out of its script: a KL of
weight 0.1, two passes over a batch, 32 samples of a problem. Stand-ins: batch,
lengths, group size and learning rate are FlowRL's (2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """Unlikeliness at a scale."""
  return methods.unlikeliness(scales.flowrl(scale))
