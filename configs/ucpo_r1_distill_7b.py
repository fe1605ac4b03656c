"""UCPO (2605.00365) on DeepSeek-R1-Distill-Qwen-7B and mathematics.

  progrpo train --config configs/ucpo_r1_distill_7b.py:host \
    --workdir runs/ucpo_7b

Data, files and evaluation are those of configs/progrpo_qwen2_5_7b.py. Argument:
`paper` (default) or `host`; both have the authors' 64 prompts a step. Hardware
and hours: one node of 8 devices by the released script, hours not known;
nothing is measured here. On 64 v5p chips the TPU's compiler counts 12 GiB of
each and at least 4 hours, see docs/tpu.md.

What to expect: up to 10 points more of AIME 2024's pass@64 than GRPO at about
the same pass@1, by the abstract. Not reproduced here.

From the released script: tau 0.2, 64 prompts of 8 samples in one update, 1024
and 3072 tokens, learning rate 2e-6, no KL, temperature 1, three passes over
10,000 problems. Stand-in: DAPO-Math-17k for these problems. Chosen here: no
warm-up, no weight decay.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """UCPO at a scale."""
  c = scales.flowrl(scale, "DeepSeek-R1-Distill-Qwen-7B")
  scales.batch(c, scale, prompts=64, minibatch=64)
  c.data.max_prompt_length = 1024
  c.data.prompt_buckets = (256, 512)
  c.sampling.max_new_tokens = 3072
  c.train.total_steps = 468
  c.optim.learning_rate = 2e-6
  c.optim.weight_decay = 0.0
  c.optim.warmup_steps = 0
  return methods.ucpo(c)
