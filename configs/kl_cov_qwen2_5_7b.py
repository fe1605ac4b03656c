"""KL-Cov (2505.22617) on Qwen2.5-7B and mathematics.

  progrpo train --config configs/kl_cov_qwen2_5_7b.py:host \
    --workdir runs/kl_cov_7b

Model, data, files, scales, evaluation and the scores to expect are those of
configs/clip_cov_qwen2_5_7b.py; only the method differs. Hardware and hours: not
measured here. On 64 v5p chips the TPU's compiler counts 20 GiB of each and at
least 12 hours, see docs/tpu.md.

From the paper: no clip; a KL of weight 1 to the policy that sampled, on the
2e-3 of the tokens with the highest covariance. At 32B the share is 2e-4:
  --config.algo.loss_options.share=2e-4
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """KL-Cov at a scale."""
  return methods.kl_cov(scales.entropy_mechanism(scale))
