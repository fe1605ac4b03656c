"""DRA-GRPO (2505.09655) on DeepSeek-R1-Distill-Qwen-1.5B and mathematics.

  progrpo train --config configs/dra_grpo_r1_distill_1_5b.py:host \
    --workdir runs/dra_grpo_1_5b

Data, files, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py.
Hardware and hours: about $55 by the abstract; nothing is measured here. On 64
v5p chips the TPU's compiler counts 6 GiB of each and at least 6 hours, see
docs/tpu.md.

What to expect: 58.2 as the average accuracy on five sets, by the abstract, with
embeddings. This config has n-grams in their place, other data and another
batch; it serves to compare the rule. Not reproduced here.

From the released recipe: groups of 6, 3584 new tokens, temperature 0.7,
learning rate 1e-6, 500 steps. Left out of it: its 7,000 problems, a reward for
the format, a cosine of the length, a minimum of the learning rate. Stand-ins:
data, batch and warm-up are FlowRL's (2509.15207); the similarity of two
responses is that of their 3-grams of tokens, where the paper has that of
embeddings by a model of texts.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """DRA-GRPO at a scale."""
  c = scales.flowrl(scale, "DeepSeek-R1-Distill-Qwen-1.5B")
  c.algo.num_generations = 6
  c.sampling.max_new_tokens = 3584
  c.sampling.temperature = 0.7
  c.train.total_steps = 500
  return methods.dra_grpo(c)
