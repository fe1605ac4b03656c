"""Weighted-REINFORCE of NSR (2506.01347) on Qwen2.5-Math-7B and MATH.

  progrpo train --config configs/nsr_qwen2_5_math_7b.py:host \
    --workdir runs/nsr_math_7b

Files: data/hendrycks_math, whose 7,500 problems are trained on, and the test
sets of configs/progrpo_qwen2_5_7b.py. Argument: `paper` (default), the batch
below; or `host`, a sixteenth of it with one minibatch of 64 prompts, for one
host of eight 80 GB devices. Hardware and hours: one node of 8 devices by the
released script, hours not known; nothing is measured here. On 64 v5p chips the
TPU's compiler counts 12 GiB of each and at least 9 hours, see docs/tpu.md.

What to expect: pass@k on MATH, AIME 2025 and AMC23 that is at least that of PPO
and GRPO for all k up to 256, by the abstract. Not reproduced here.

From the released script: weight 0.1, 1024 prompts of 8 samples in updates of
256, 1024 and 3072 tokens, learning rate 1e-6, no KL, 20 passes over MATH.
NSR itself is --config.algo.advantage_options.weight=0. Chosen here: no warm-up,
no weight decay, the held-out problems and when they are evaluated.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """Weighted-REINFORCE at a scale."""
  c = scales.flowrl(scale, "Qwen2.5-Math-7B")
  c.data.tasks = {
    "hendrycks_math": scales.published(validation=scales.MATHEMATICS)
  }
  scales.batch(
    c, scale, prompts=1024, minibatch=256 if scale == "paper" else 64
  )
  c.data.max_prompt_length = 1024
  c.data.prompt_buckets = (256, 512)
  c.sampling.max_new_tokens = 3072
  c.train.total_steps = 140
  c.optim.weight_decay = 0.0
  c.optim.warmup_steps = 0
  return methods.nsr(c)
