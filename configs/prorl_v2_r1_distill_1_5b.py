"""ProRL v2 (blog of August 2025) on DeepSeek-R1-Distill-Qwen-1.5B.

  progrpo train --config configs/prorl_v2_r1_distill_1_5b.py:host \
    --workdir runs/prorl_v2

Arguments and files are those of configs/prorl_r1_distill_1_5b.py, with all
five domains from the start. Hardware and hours: not known; nothing is measured
here. `progrpo doctor --chip H100 --devices 64` estimates 19 GiB on each device
for `paper`, and with `--devices 8` 21 GiB for `host`. On 64 v5p chips the TPU's
compiler counts 18 GiB and at least 260 hours, see docs/tpu.md.

What to expect: the blog shows its results only as figures, for over 3,000
steps; its responses become 17.5% shorter. Not reproduced here.

From the blog: advantages less their group's mean, divided by one scale for the
whole batch; a reset every 200 to 500 steps, or on a spike of the KL or a stall,
keeping the optimiser; a cosine length penalty, 100 steps on and 500 off; 8k
tokens. From the public scripts: clip 0.2 / 0.27 (the blog has 0.28), k2 with
weight 1e-4, learning rate 1e-6, tokens dropped whose ratio of trainer to
sampler probability is outside [0.5, 5], reward times 0 for a response that is
cut, dynamic sampling, 512 prompts of 16 in updates of 1024 samples (64
prompts). Chosen here: at most 500 steps between resets, 5 evaluations without
a gain as a stall, 4 times the trend of 20 steps as a spike, weight 0.5 and
range 0 to -1 of the length penalty, temperature 1.2 (v1's), the share of each
domain (by its size in v1). Two differences from the scripts: each response
counts once in the scale of the batch, not once per token, and k2's log-ratio
is not clamped to 10.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """ProRL v2 at a scale."""
  c = methods.prorl_v2(scales.prorl(scale))
  c.data.tasks = scales.domains(instructions=True)
  scales.batch(c, scale, prompts=512, minibatch=64)
  c.train.total_steps = 3000
  c.optim.learning_rate = 1e-6
  return c
