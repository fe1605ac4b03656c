"""ProGRPO (2602.05281) on Qwen2.5-7B and mathematics.

  progrpo doctor --config configs/progrpo_qwen2_5_7b.py:host
  progrpo train --config configs/progrpo_qwen2_5_7b.py:host \
    --workdir runs/progrpo_7b

Argument: `paper` (default), the batch below; `host`, one eighth of it with
the same minibatch, for one host of eight 80 GB devices.

Hardware and hours: the paper's are not known, and nothing is measured here.
`progrpo doctor --chip H100 --devices 64` counts 24 GiB on each device for
`paper`, with `--devices 8` 35 GiB for `host`.

Files, as published, each set in a folder of its name: the paper trains on
data/dapo_math_17k, and is tested on data/aime24, data/aime25, data/amc23,
data/math500, data/minerva_math and data/olympiad_bench, whose problems are
kept out of what is trained on. `progrpo tasks list` says where they are; such
as
  hf download BytedTsinghua-SIA/DAPO-Math-17k --repo-type dataset \
    --local-dir data/dapo_math_17k
The first start builds them, and so does
  progrpo tasks build dapo_math_17k --option manual_dir=data
While training, 64 problems of the six sets together are tried. All of one
set, mean of 32 samples:
  progrpo evaluate --config configs/progrpo_qwen2_5_7b.py:host \
    --policy runs/progrpo_7b --config.eval.num_problems=1000 \
    --config.data.tasks.dapo_math_17k.options.validation="('aime24',)"

To expect, averages over those six, Pass@1 / Pass@32: GRPO 37.6 / 54.7, FlowRL
35.3 / 61.0, ProGRPO 43.3 / 68.5. These are the paper's figures as others
quote them, not checked against the paper and not reproduced here.

What is a stand-in: the paper's batch, lengths, learning rate and group size
are not known. They are those of FlowRL (2509.15207), which trains the same
models on the same data: 512 prompts of 8 samples, minibatches of 32 prompts,
2048 and 8192 tokens, learning rate 1e-6, weight decay 0.1, 10 warm-up steps
(read as rollout steps). Ours: alpha 0.3, the number of steps, what is held
out and when. Clip 0.2 / 0.28, share 0.2 and the models are ProGRPO's.
"""

from progrpo_jax.config import methods, scales


def get_config(scale: str = "paper"):
  """ProGRPO at a scale."""
  return methods.progrpo(scales.flowrl(scale))
