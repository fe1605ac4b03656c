"""F-GRPO (2602.06717) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/f_grpo_qwen2_5_7b.py:host \
    --workdir runs/f_grpo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 22 hours, see docs/tpu.md.

What to expect, by the abstract: mathematics pass@256 from 64.1 with GRPO to
70.3, at pass@1 that is no worse. Not reproduced here.

From the abstract: the model and 8 samples of a prompt. The weight is
(1 - success rate)^gamma. Chosen here: gamma 0.5; the paper's body could not be
read. Stand-ins: data, batch, lengths and learning rate are FlowRL's
(2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """F-GRPO at a scale."""
  return methods.f_grpo(scales.flowrl(scale))
