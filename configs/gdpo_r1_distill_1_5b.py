"""GDPO (2601.05242) on DeepSeek-R1-Distill-Qwen-1.5B: right, and not too long.

  progrpo train --config configs/gdpo_r1_distill_1_5b.py:host \
    --workdir runs/gdpo_1_5b

Data, files, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py.
Hardware and hours: not measured here. On 64 v5p chips the TPU's compiler counts
11.2 GiB of each and at least 10 hours, see docs/tpu.md.

What to expect: up to 6.3 points more on AIME than GRPO, by the paper's summary,
with fewer responses over the limit. Not reproduced here.

From the paper: two rewards, for a right answer and for its length, each
standardised by itself. Chosen here: the second is DAPO's penalty over the last
half of 8192 tokens. Rewards of your own are more of such terms: every function
of `reward_functions` is one. Stand-ins: data, batch, lengths, group size and
learning rate are FlowRL's (2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """GDPO at a scale."""
  c = scales.flowrl(scale, "DeepSeek-R1-Distill-Qwen-1.5B")
  c.algo.overlong_cache = c.sampling.max_new_tokens // 2
  return methods.gdpo(c)
