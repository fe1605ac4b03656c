"""QAE (2509.22611) on Qwen3-8B-Base and mathematics.

  progrpo train --config configs/qae_qwen3_8b.py:host --workdir runs/qae_8b

Data, files, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py.
Hardware and hours: not measured here. On 64 v5p chips the TPU's compiler counts
81 GiB of each and at least 80 hours, see docs/tpu.md.

What to expect, by the abstract: an entropy that neither collapses nor explodes,
gains of pass@1 that last, and about four fifths of the responses with an
advantage of 0. Not reproduced here.

From the released code: DAPO's recipe with one more option, the quantile 0.4;
hence clip 0.2 / 0.28, groups of 16, dynamic sampling. Stand-ins: batch,
lengths and learning rate are FlowRL's (2509.15207). Chosen here: the quantile
is a reward of the group; the code interpolates
(`advantage_options.interpolate`).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """QAE at a scale."""
  c = methods.qae(scales.flowrl(scale, "Qwen3-8B-Base"))
  c.algo.num_generations = 16
  c.algo.dynamic_sampling.enabled = True
  c.algo.dynamic_sampling.filter = "accuracy"
  return c
