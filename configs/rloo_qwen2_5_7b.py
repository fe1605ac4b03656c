"""RLOO (2402.14740) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/rloo_qwen2_5_7b.py:host --workdir runs/rloo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 21 hours, see docs/tpu.md.

What to expect: we know of no score in this setting. The paper learns from
human preferences.

From the paper: the advantage, the sum of log-probs of a response, one update
per batch. The sum is divided by a constant, sampling.max_new_tokens; Adam
compensates for its scale, the clip of the gradient norm does not. Chosen here:
no KL. Stand-ins: batch, lengths, group size and learning rate are FlowRL's
(2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """RLOO at a scale."""
  c = scales.flowrl(scale)
  c.train.num_minibatches = 1
  c.optim.warmup_steps = 10
  return methods.rloo(c)
