"""Adaptive entropy (Skywork-OR1, 2505.22312) on DeepSeek-R1-Distill-Qwen-7B.

  progrpo train --config configs/adaptive_entropy_r1_distill_7b.py:host \
    --workdir runs/adaptive_entropy_7b

Data, files, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py.
Hardware and hours: not measured here. On 64 v5p chips the TPU's compiler counts
20 GiB of each and at least 21 hours, see docs/tpu.md.

What to expect: the report trains its 7B model on mathematics and code with
growing contexts, from 43.6 to 57.5 (average of AIME 2024, AIME 2025 and
LiveCodeBench). This config has other data and contexts; it serves to try the
control of the entropy. Not reproduced here.

From the report, as others quote it: an entropy bonus whose weight moves by
0.005 per step to hold 0.2 nats, no KL, temperature 1, a mean over tokens,
groups without spread left out, one update per batch. Stand-ins: batch,
lengths, group size and learning rate are FlowRL's (2509.15207), with one
minibatch.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """An entropy bonus that holds a target, at a scale."""
  c = scales.flowrl(scale, "DeepSeek-R1-Distill-Qwen-7B")
  c.train.num_minibatches = 1
  c.optim.warmup_steps = 10
  c.algo.dynamic_sampling.enabled = True
  return methods.adaptive_entropy(c)
