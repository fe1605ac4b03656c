"""DAPO (2503.14476) on Qwen2.5-32B: the paper's settings, for the record.

  progrpo doctor --config configs/dapo_qwen2_5_32b.py
  progrpo train --config configs/dapo_qwen2_5_32b.py --workdir runs/dapo_32b

Hardware and hours: not measured here. On 64 v5p chips the TPU's compiler counts
37 GiB of each and at least 1,060 hours, see docs/tpu.md. `progrpo doctor --chip
H100 --devices 64` estimates 34 GiB on each device; 16 prompts are sampled at a
time. This file records what the paper did. To try the method, call
`methods.dapo` on a smaller scale of progrpo_jax/settings/scales.py.

Files are those of configs/progrpo_qwen2_5_7b.py. A wrong answer has the reward
0 here and -1 in the paper, a right one 1 in both. The overlong penalty
therefore weighs twice as much here, beside a spread of 1 instead of 2.

What to expect on AIME 2024, mean of 32 samples at temperature 1 and top_p 0.7:
50 in the paper. Not reproduced here.

From the paper: clip 0.2 / 0.28, no KL, dynamic sampling, overlong shaping
over the last 4096 of 20480 tokens, 512 prompts of 16 samples in 16
minibatches of 32, learning rate 1e-6 with 10 warm-up rollout steps, weight
decay 0.1, gradient norm 1. Dual clip 10 is from the released script. The paper
draws 1536 prompts at a time to fill a batch of 512; here each round draws 512.
Chosen here: the length limit of a prompt, the number of steps, the held-out
problems and when they are evaluated.
"""

from progrpo_jax.settings import methods, scales


def get_config():
  """DAPO at the scale of the paper."""
  return methods.dapo(scales.dapo())
