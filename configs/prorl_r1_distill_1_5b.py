"""ProRL (2505.24864) on DeepSeek-R1-Distill-Qwen-1.5B: all eight runs.

  progrpo train --config configs/prorl_r1_distill_1_5b.py:host \
    --workdir runs/prorl

The paper trains in eight runs. Each starts from the last one's policy and
changes data, rewards, group size or context. Here they are one run:
config.schedule changes the keys, and a new run of the paper begins at a reset:

  run   in the paper                               begins here at
  1     four domains, 8k tokens, groups of 16      the start
  2     reference and optimiser reset, the same    1st reset
  3     instruction following added                2nd reset
  4, 5  a penalty for responses that do not stop   3rd, 4th reset
  6, 7  groups of 32, two hard resets              5th, 6th reset
  8     16k tokens, groups of 16, about 200 steps  step 1800, with a reset

Argument: `paper` (default), the batch below; or `host`, 64 prompts a step in
minibatches of the same size, for one host of eight 80 GB devices.

Hardware and hours: the paper's eight runs took 4 nodes of 8 H100-80GB and
about 16,000 GPU-hours for over 2,000 steps. Nothing is measured here.
`progrpo doctor --chip H100 --devices 64` estimates 33 GiB on each device for
`paper`, and with `--devices 8` 36 GiB for `host`; both peaks are in the
sampling of runs 6 to 8. On 16 v5e chips, four hosts, `host` needs
`--config.sampling.batch_prompts=16 --config.eval.batch_prompts=16` and then
takes 12.1 GiB of 15.75. On 64 v5p chips the TPU's compiler counts 18 GiB for
run 1, and at least 87 hours if all steps were like its own, see docs/tpu.md.

Files, as published, each set in a folder of its name, with the reward of an
answer:
  data/deepscaler             mathematics, 1 or 0
  data/eurus2_code            code, the share of its tests that a program
                              passes within 5 s; programs run in a jail,
                              without which the run does not start
                              (docs/tasks.md)
  data/scp116k                science, 1 or 0
  data/nemotron_instructions  the share of the instructions that are followed
Test sets, whose problems are removed from the training sets: data/aime24,
aime25, amc23, math500, minerva_math, olympiad_bench, humaneval_plus,
livecodebench, gpqa, mmlu_pro, ifeval. `progrpo tasks list` says where to get
the files. Logic needs no file: 95 generators of Reasoning Gym (the paper does
not list its 96), with their own prompts and, in 84 of them, partial credit. The
first start builds all sets; the report of a set lists what it leaves out. The
paper's sizes, 40, 24, 25 and 10 thousand, are after filters that are not
public.

What to expect, from the paper's tables 1 to 3, start model -> after all eight
runs: mathematics 44.45 -> 60.14, code 23.08 -> 37.49, GPQA 15.86 -> 41.78,
IFEval 44.05 -> 66.02, Reasoning Gym 4.24 -> 59.06 (part of the last gain is
the answer's format, according to its appendix F.1). Not reproduced here.

From the paper: clip 0.2 / 0.4, dynamic sampling, temperature 1.2, 256 prompts
in 4 minibatches, constant learning rate 2e-6, reset of reference and
optimiser, the changes from run to run. From the technical report 2507.12507,
as others quote it: KL weight 1e-4, k3. The paper does not print what triggers
a reset or when the resets were. Chosen here: a reset after 5 evaluations
without a gain in mean pass@1 (the paper watched a mixture of its test sets),
and at the latest 250 steps after the last reset, so that run 7 has begun
before run 8 is due; which resets begin runs 3 to 5; the form of the penalty
(the reward of a response that is cut is multiplied by 0); token mean, the unit
of the batch (prompts), betas and weight decay of AdamW, the share of each
domain (by its size in the paper).
"""

from progrpo_jax.settings import methods, scales


def get_config(scale: str = "paper"):
  """The eight runs, at a scale."""
  c = methods.prorl(scales.prorl(scale))
  c.train.total_steps = 2000
  c.algo.reset.modes = ("stall", "every")
  c.algo.reset.period = 250
  c.schedule = (
    {"name": "run 2", "after_resets": 1, "set": {}},
    {
      "name": "run 3",
      "after_resets": 2,
      "set": {"data.tasks": scales.domains(instructions=True)},
    },
    {"name": "run 4", "after_resets": 3, "set": {"algo.truncated_factor": 0.0}},
    {"name": "run 5", "after_resets": 4, "set": {}},
    {"name": "run 6", "after_resets": 5, "set": {"algo.num_generations": 32}},
    {"name": "run 7", "after_resets": 6, "set": {}},
    {
      "name": "run 8",
      "at_step": 1800,
      "reset": True,
      "set": {"algo.num_generations": 16, "sampling.max_new_tokens": 16384},
    },
  )
  return c
