"""SAPO (2511.20347) on Qwen2.5-7B, beside GSPO and GRPO.

  progrpo train --config configs/sapo_qwen2_5_7b.py:host --workdir runs/sapo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 22 hours, see docs/tpu.md.

What to expect: we know of no score in this setting. The paper trains a
checkpoint of Qwen3-30B-A3B-Base, a mixture of experts, which this package
cannot read, and shows curves in which SAPO lasts longer than GSPO and GRPO.

From the paper: the gate with a steepness of 1.0 for good tokens and 1.05 for
bad ones, a mean over responses, advantages divided by their spread, no KL, a
batch in 4 minibatches. We do not know its batch size, lengths, learning rate
and group size. Stand-ins: those of FlowRL (2509.15207).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """SAPO at a scale."""
  c = scales.flowrl(scale)
  c.train.num_minibatches = 4
  c.optim.warmup_steps = 10 * c.train.num_minibatches
  return methods.sapo(c)
