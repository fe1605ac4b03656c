"""ProGRPO (2602.05281) on Qwen2.5-7B and mathematics.

  progrpo doctor --config configs/progrpo_qwen2_5_7b.py:host
  progrpo train --config configs/progrpo_qwen2_5_7b.py:host \
    --workdir runs/progrpo_7b

Argument: `paper` (default), the batch below; or `host`, 64 prompts a step in
minibatches no larger than those, for one host of eight 80 GB devices.

Hardware and hours: the paper's are not known; nothing is measured here.
`progrpo doctor --chip H100 --devices 64` estimates 21 GiB on each device for
`paper`, and with `--devices 8` 41 GiB for `host`. On 64 v5p chips the TPU's
compiler counts 20 GiB and at least 22 hours, see docs/tpu.md.

Files, as published, each set in a folder of its name. Training, as in the
paper: data/dapo_math_17k. Tests: data/aime24, data/aime25, data/amc23,
data/math500, data/minerva_math and data/olympiad_bench; problems of these are
removed from the training set. `progrpo tasks list` says where to get the
files, for example
  hf download BytedTsinghua-SIA/DAPO-Math-17k --repo-type dataset \
    --local-dir data/dapo_math_17k
The first start builds the sets, or beforehand
  progrpo tasks build dapo_math_17k --option manual_dir=data
During training, 64 problems of the six test sets together are evaluated. All
problems of one set, mean of 32 samples:
  progrpo evaluate --config configs/progrpo_qwen2_5_7b.py:host \
    --policy runs/progrpo_7b --config.eval.num_problems=1000 \
    --config.data.tasks.dapo_math_17k.options.validation="('aime24',)"

What to expect, averages over those six, Pass@1 / Pass@32: GRPO 37.6 / 54.7,
FlowRL 35.3 / 61.0, ProGRPO 43.3 / 68.5. These are the paper's figures as
others quote them, not checked against the paper and not reproduced here.

From the paper: clip 0.2 / 0.28, share 0.2 and the models. Stand-ins: the
paper's batch, lengths, learning rate and group size are not known; those here
are FlowRL's (2509.15207), which trains the same models on the same data: 512
prompts of 8 samples, minibatches of 32 prompts, 2048 and 8192 tokens, learning
rate 1e-6, weight decay 0.1, 10 warm-up steps (taken as rollout steps). Chosen
here: alpha 1 and the group's mean confidence in place of c(q), by measurements
on policies that are smaller a thousand times and more (docs/results.md, "Which
reading of ARM"; the formula as printed is --config.algo.arm.centre=False); the
number of steps, the held-out problems and when they are evaluated.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """ProGRPO at a scale."""
  return methods.progrpo(scales.flowrl(scale))
