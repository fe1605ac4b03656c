"""DPPO (2602.04879) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/dppo_qwen2_5_7b.py:host --workdir runs/dppo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py. Hardware and hours: not measured here. On 64 v5p
chips the TPU's compiler counts 34 GiB of each and at least 21 hours, see
docs/tpu.md.

What to expect: we know of no score in this setting. The paper trains
Qwen3-30B-A3B-Base, a mixture of experts, which this package cannot read.

From its authors' script: the bound 0.15 on the change of a probability, the
advantages and the average of Dr. GRPO, 256 prompts of 16 samples in 8 updates,
8192 tokens, temperature 1, learning rate 1e-6, no KL, no dynamic sampling.
Stand-ins: weight decay and warm-up are those of FlowRL (2509.15207). Chosen
here: the number of steps.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """DPPO at a scale."""
  c = methods.dppo(scales.flowrl(scale))
  scales.batch(c, scale, prompts=256, minibatch=32)
  c.optim.warmup_steps = 10 * c.train.num_minibatches
  c.algo.num_generations = 16
  c.algo.advantage = "dr_grpo"
  c.algo.aggregate = "constant"
  return c
