"""MaxRL (2602.02710) on Qwen3-4B-Base and mathematics.

  progrpo train --config configs/maxrl_qwen3_4b.py:host --workdir runs/maxrl_4b

Data, files, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py.
Hardware and hours: the authors trained 1,000 steps on 32 H200; nothing is
measured here. On 64 v5p chips the TPU's compiler counts 47 GiB of each and at
least 53 hours, see docs/tpu.md.

What to expect: the paper reports pass@1 as of GRPO or better, and 2 to 19 times
fewer samples for the pass@k that GRPO has. Not reproduced here.

From the released script: 256 prompts of 16 samples in one update, 1024 and 4096
tokens, learning rate 1e-6, clip 0.2 on both sides, no KL, gradients clipped at
0.3, a temperature of 0.6 in evaluations, 1,000 steps. Stand-in: DAPO-Math-17k
for POLARIS-53K. Chosen here: the held-out problems and when they are evaluated.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """MaxRL at a scale."""
  c = scales.flowrl(scale, "Qwen3-4B-Base")
  scales.batch(c, scale, prompts=256, minibatch=256)
  c.train.num_minibatches = 1
  c.algo.num_generations = 16
  c.data.max_prompt_length = 1024
  c.data.prompt_buckets = (256, 512)
  c.sampling.max_new_tokens = 4096
  c.train.total_steps = 1000
  c.optim.max_grad_norm = 0.3
  c.optim.weight_decay = 0.0
  c.optim.warmup_steps = 0
  return methods.maxrl(c)
