"""BroRL (2510.01180): ProRL's end model goes on with 512 samples a prompt.

  progrpo train --config configs/brorl_r1_distill_1_5b.py:host \
    --workdir runs/brorl

Arguments and files are those of configs/prorl_v2_r1_distill_1_5b.py; the batch
is the same for both arguments. The policy that it starts from is the published
end of ProRL v2, nvidia/Nemotron-Research-Reasoning-Qwen-1.5B, in
models/Nemotron-Research-Reasoning-Qwen-1.5B; for a run of your own name its
workdir in --config.model.init_from.

What to expect: by the paper's abstract, further gains where ProRL brings no
more after 3,000 steps. Not reproduced here.

Hardware and hours: not measured here. On 64 v5p chips the TPU's compiler counts
60 GiB of each and at least 373 hours, see docs/tpu.md. `progrpo doctor --chip
H100 --devices 64` estimates 61 GiB on each device for `paper`, and with
`--devices 8` 63 GiB for `host`, nearly all of it the keys of one group of 512
responses of 8192 tokens, which two devices share. Each response is a row of its
own in the update (train.micro_batch_generations = 1), so that wide groups cost
no more memory there.

From the abstract: 512 samples in the place of 16. All else is ProRL v2's; the
paper's body could not be read. Chosen here: 32 prompts a step in updates of 8,
which is 4096 samples, and the number of steps.
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """BroRL at a scale."""
  c = methods.brorl(scales.prorl(scale))
  c.model.init_from = "models/Nemotron-Research-Reasoning-Qwen-1.5B"
  c.data.tasks = scales.domains(instructions=True)
  # The keys of one group are 117 GiB at the longest: two devices share them,
  # and sample one prompt at a time.
  c.mesh.tensor = 2
  devices = 64 if scale == "paper" else 8
  c.train.prompts_per_step = 32
  c.train.num_minibatches = 4
  c.sampling.batch_prompts = devices // c.mesh.tensor
  c.eval.batch_prompts = devices
  c.optim.learning_rate = 1e-6
  return c
