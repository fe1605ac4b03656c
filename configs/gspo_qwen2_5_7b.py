"""GSPO (2507.18071) on Qwen2.5-7B, beside GRPO and ProGRPO.

  progrpo train --config configs/gspo_qwen2_5_7b.py:host --workdir runs/gspo_7b

Model, data, files, scales and evaluation are those of
configs/progrpo_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 22 hours, see docs/tpu.md.

What to expect: we know of no score in this setting. The paper trains
Qwen3-30B-A3B-Base, a mixture of experts, which this package cannot read.

From the paper: the sequence's ratio, bounds 3e-4 / 4e-4, a mean over
responses, no KL, a batch in 4 minibatches. We do not know its batch size,
lengths, learning rate and group size. Stand-ins: those of FlowRL (2509.15207).
The bounds suit responses of thousands of tokens; for short responses they clip
nearly everything (see configs/tiny.py).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """GSPO at a scale."""
  c = scales.flowrl(scale)
  c.train.num_minibatches = 4
  c.optim.warmup_steps = 10 * c.train.num_minibatches
  return methods.gspo(c)
