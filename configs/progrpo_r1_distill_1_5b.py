"""ProGRPO (2602.05281) on DeepSeek-R1-Distill-Qwen-1.5B and mathematics.

  progrpo train --config configs/progrpo_r1_distill_1_5b.py:host \
    --workdir runs/progrpo_1_5b

Data, files, scales and evaluation are those of configs/progrpo_qwen2_5_7b.py,
which also says what is known of the settings. The stand-ins are FlowRL's
(2509.15207), which does not train this model. Hardware and hours: not measured
here. `progrpo doctor --chip H100 --devices 64` estimates 11 GiB on each device
for `paper`, and with `--devices 8` 14 GiB for `host`. On 64 v5p chips the TPU's
compiler counts 11.2 GiB and at least 10 hours, see docs/tpu.md.

What to expect: an average Pass@1 over the six test sets that rises from 49.4
to 58.3. This is the paper's figure as others quote it, not checked against the
paper; the quotes do not say whether 49.4 is GRPO or the start model. Not
reproduced here.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """ProGRPO on the smaller model, at a scale."""
  return methods.progrpo(scales.flowrl(scale, "DeepSeek-R1-Distill-Qwen-1.5B"))
