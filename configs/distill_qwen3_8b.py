"""On-policy distillation of Qwen3-32B into Qwen3-8B-Base, on mathematics.

  progrpo train --config configs/distill_qwen3_8b.py:host \
    --workdir runs/distill_8b

Data, files and evaluation are those of configs/progrpo_qwen2_5_7b.py, so that
rewards are measured while the teacher teaches. The teacher is read from
models/Qwen3-32B. Argument: `paper` (default), or `host` for one host of eight
80 GB devices. Hardware and hours: not measured here. On 64 v5p chips the TPU's
compiler counts 45 GiB of each and at least 79 hours, see docs/tpu.md.

What to expect: in the post of Thinking Machines a student that was fine-tuned
on the teacher's answers comes from 60 to 70 on AIME 2024 in about 150 steps.
Not reproduced here. Name such a student with --config.model.init_from: the
teacher has little to say of what a plain base model writes.

From the post and the recipe of its authors' cookbook: the reverse KL of each
sampled token as its advantage, discount 0, no rewards, one update a step, 512
prompts of 4 samples, 16384 tokens, temperature 1, learning rate 5e-5 for all
weights. Stand-ins: the problems are DAPO-Math-17k, theirs DeepMath; weight
decay, warm-up and the number of steps are those of FlowRL (2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """Distillation alone, at a scale."""
  c = methods.grpo(scales.flowrl(scale, "Qwen3-8B-Base"))
  c.method = "distill"
  scales.batch(c, scale, prompts=512, minibatch=64)
  # One update reads the whole batch: no ratio leaves 1.
  c.train.num_minibatches = 1
  c.algo.num_generations = 4
  c.algo.beta = 0.0
  c.algo.aggregate = "token_mean"
  c.algo.distill.teacher = "models/Qwen3-32B"
  c.sampling.max_new_tokens = 16384
  c.optim.learning_rate = 5e-5
  c.optim.warmup_steps = 10
  return c
