"""DAPO (2503.14476) on Qwen2.5-32B: the paper's settings, for the record.

  progrpo doctor --config configs/dapo_qwen2_5_32b.py
  progrpo train --config configs/dapo_qwen2_5_32b.py --workdir runs/dapo_32b

Hardware and hours: not measured here. `progrpo doctor --chip H100 --devices
64` counts 37 GiB on each device; 16 prompts are sampled at one time. The file
says what the paper did; to try the method, call `methods.dapo` on a smaller
scale of progrpo_jax/config/scales.py.

Files are those of configs/progrpo_qwen2_5_7b.py. A right answer has the
reward 1 and a wrong one 0, in the paper -1: beside a spread of 1 and not 2
the overlong penalty weighs twice as much here.

To expect on AIME 2024, mean of 32 samples at temperature 1 and top_p 0.7: 50
in the paper. Not reproduced here.

From the paper: clip 0.2 / 0.28, no KL, dynamic sampling, overlong shaping
over the last 4096 of 20480 tokens, 512 prompts of 16 samples in 16
minibatches of 32, learning rate 1e-6 with 10 warm-up rollout steps, weight
decay 0.1, gradient norm 1; dual clip 10 is that of the released script. It
draws 1536 prompts at a time to fill a batch of 512; here each round draws
512. Ours: the length limit of a prompt, the number of steps, what is held out
and when.
"""

from progrpo_jax.config import methods, scales


def get_config():
  """DAPO at the scale of the paper."""
  return methods.dapo(scales.dapo())
