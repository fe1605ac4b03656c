"""GRPO (2402.03300) on Qwen2.5-7B: the baseline beside ProGRPO.

  progrpo train --config configs/grpo_qwen2_5_7b.py:host --workdir runs/grpo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here; on 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 24 hours, see docs/tpu.md.

What to expect, averages over the six test sets named there: 37.6 Pass@1 and
54.7 Pass@32, ProGRPO's figures for its GRPO as others quote them; 32.48 (mean
of 16 samples) in FlowRL's paper (2509.15207); 38.6 in 2505.22617, with other
settings. None of these is reproduced here.

From the paper of GRPO: advantage, mean per sequence, k3 with weight 0.04. It
does not print its clip; 0.2 is used everywhere else. Its batch, 16 prompts of
64 samples with one update per step, is not used here. It is not known which
parts of GRPO (the KL, for instance) the authors of the figures above left out.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """GRPO at a scale."""
  return methods.grpo(scales.flowrl(scale))
