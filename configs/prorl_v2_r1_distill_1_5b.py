"""ProRL v2 (blog of August 2025) on DeepSeek-R1-Distill-Qwen-1.5B.

  progrpo train --config configs/prorl_v2_r1_distill_1_5b.py:host \
    --workdir runs/prorl_v2

Arguments and files are those of configs/prorl_r1_distill_1_5b.py, here all
five domains from the start. Hardware and hours: not known, and nothing is
measured here. `progrpo doctor --chip H100 --devices 64` counts 22 GiB on each
device for `paper`, with `--devices 8` 25 GiB for `host`.

To expect: the blog's results are figures only, for over 3,000 steps; its
responses are 17.5% shorter. Not reproduced here.

From the blog: advantages less their group's mean, on one scale for the whole
batch; a reset every 200 to 500 steps or on a spike of the KL or a stall, the
optimiser kept; a cosine length penalty, 100 steps on and 500 off; 8k tokens.
From the public scripts: clip 0.2 / 0.27 (the blog has 0.28), k2 with weight
1e-4, learning rate 1e-6, tokens dropped whose trainer and sampler probability
differ beyond [0.5, 5], reward times 0 for a response that is cut, dynamic
sampling, 512 prompts of 16 in updates of 1024 samples (64 prompts). Ours: 500
steps to a reset at the latest, 5 evaluations without a gain for a stall, 4
times the trend of 20 steps for a spike, weight 0.5 and range 0 to -1 of the
length penalty, temperature 1.2 (v1's), the share of each domain (by its size
in v1). Two things differ from the scripts: a response counts once in the
scale of the batch, not by its tokens, and k2's log-ratio is not clamped to
10.
"""

from progrpo_jax.config import methods, scales


def get_config(scale: str = "paper"):
  """ProRL v2 at a scale."""
  c = methods.prorl_v2(scales.prorl(scale))
  c.data.tasks = scales.domains(instructions=True)
  scales.batch(c, scale, prompts=512, minibatch=64)
  c.train.total_steps = 3000
  c.optim.learning_rate = 1e-6
  return c
