"""Learning from forking tokens alone, 80/20 (2506.01939), on Qwen3-14B-Base.

  progrpo doctor --config configs/high_entropy_qwen3_14b.py
  progrpo train --config configs/high_entropy_qwen3_14b.py \
    --workdir runs/high_entropy_14b

Data, files, scale and evaluation are those of configs/dapo_qwen2_5_32b.py. To
try the method, call `methods.high_entropy` on a smaller scale of
progrpo_jax/settings/scales.py. Hardware and hours: not measured here. On 64 v5p
chips the TPU's compiler counts 23 GiB of each and at least 637 hours, see
docs/tpu.md.

What to expect, by the paper: with a fifth of the tokens AIME 2024 and 2025 are
5.21 and 4.79 above DAPO on this model, 7.71 and 11.04 above it on
Qwen3-32B-Base, and level with it on Qwen3-8B-Base. Not reproduced here.

From the paper: 20% of the tokens, those of highest entropy, and else DAPO: clip
0.2 / 0.28, dynamic sampling, overlong shaping, 512 prompts of 16 samples in 16
updates, 20480 tokens, temperature 1, learning rate 1e-6, no KL; dual clip,
weight decay and warm-up are those of the released script.
"""

from progrpo_jax.settings import methods, scales


def get_config():
  """The fifth of highest entropy, at DAPO's scale."""
  c = methods.high_entropy(scales.dapo("Qwen3-14B-Base"))
  c.algo.dynamic_sampling.enabled = True
  c.algo.dynamic_sampling.filter = "accuracy"
  c.algo.overlong_cache = c.sampling.max_new_tokens // 5
  return c
