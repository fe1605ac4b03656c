"""Pass@k training (2508.10751) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/passk_qwen2_5_7b.py:host \
    --workdir runs/passk_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 22 hours, see docs/tpu.md.

What to expect: we know of no score in this setting. The paper trains on mazes
and other puzzles, and reports a higher pass@k at the same pass@1.

From the paper's code: the advantage. k is one of those that it tries, 4 or 8.
Stand-ins: batch, lengths, group size and learning rate are FlowRL's
(2509.15207). Of 8 samples, sets of 4 are judged together.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """Pass@k training at a scale."""
  return methods.passk(scales.flowrl(scale))
