"""ProRL (2505.24864) on DeepSeek-R1-Distill-Qwen-1.5B, as its second run.

  progrpo train --config configs/prorl_r1_distill_1_5b.py:host \
    --workdir runs/prorl_1
  progrpo train --config configs/prorl_r1_distill_1_5b.py:host \
    --workdir runs/prorl_2 --config.model.init_from=runs/prorl_1

The paper trains in eight runs, each with other data, rewards, group size or
context; no one config is all of them. This one is what runs 1 and 2 share:
four domains, 16 samples, 8k tokens. A run that starts from another's workdir,
as above, has that policy as its reference and a fresh optimiser, which is how
run 2 begins. Within a run the reference is reset when validation stalls. Run
3 adds instruction following, runs 4 and 5 a penalty for responses that do not
stop (form and size not given), 6 and 7 take 32 samples, 8 takes 16k tokens:
  --config.algo.num_generations=32, --config.sampling.max_new_tokens=16384

Argument: `paper` (default), the batch below; `host`, a quarter of it with the
same minibatch, for one host of eight 80 GB devices.

Hardware and hours: the paper's eight runs took 4 nodes of 8 H100-80GB and
about 16,000 GPU-hours for over 2,000 steps. Nothing is measured here.
`progrpo doctor` counts about 20 GiB on each of 64 devices for `paper`,
38 GiB on each of 8 for `host`.

Files, all the user's own, each a JSONL of {"prompt": ..., "answer": ...} and
a file with `score(completion, reference)` as in progrpo_jax/rewards/score.py:
  data/deepscaler_40k.jsonl    data/math_verifier.py   1 or 0
  data/eurus2_code_24k.jsonl   data/code_verifier.py   share of tests passed;
                               `answer` holds the tests
  data/scp116k_25k.jsonl       data/stem_verifier.py   1 or 0
Logic comes from Reasoning Gym: the twelve tasks below stand in for the
paper's 96, in Reasoning Gym's own words and with its partial credit.

To expect, from the paper's tables 1 to 3, start model -> after all eight
runs: mathematics 44.45 -> 60.14, code 23.08 -> 37.49, GPQA 15.86 -> 41.78,
IFEval 44.05 -> 66.02, Reasoning Gym 4.24 -> 59.06 (part of the last gain is
the answer's format, says its appendix F.1). Runs 1 and 2 alone are not
reported. Not reproduced here.

From the paper: clip 0.2 / 0.4, dynamic sampling, temperature 1.2, 256 prompts
in 4 minibatches, constant learning rate 2e-6, reset of reference and
optimiser. From the technical report 2507.12507, as others quote it: KL weight
1e-4, k3. Ours: when a reset happens (5 evaluations without a gain in the mean
pass@1; the paper watched a mixture of its test sets), token mean, the unit of
the batch (prompts), betas and weight decay of AdamW, the share of each domain
(by its size in the paper), the length of a run.
"""

from configs import common, methods

# Tasks with a module here, and generators that the general one serves.
TASKS = ("graph_color", "knights_knaves", "n_queens")
GENERATORS = (
    "ab", "family_relationships", "group_anagrams", "letter_jumble",
    "mini_sudoku", "number_sequence", "spell_backward", "syllogism",
    "zebra_puzzles")


def get_config(scale: str = "paper"):
  """The settings that runs 1 and 2 share."""
  if scale not in ("paper", "host"):
    raise ValueError(f"no scale {scale!r}; known: paper, host")
  c = common.get_config()
  c.model.init_from = "models/DeepSeek-R1-Distill-Qwen-1.5B"
  c.model.dtype = "bfloat16"
  c.model.remat = "layer"
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, -1, 1

  tasks = {
      "math": jsonl("deepscaler_40k", "math_verifier", 40),
      "code": jsonl("eurus2_code_24k", "code_verifier", 24),
      "stem": jsonl("scp116k_25k", "stem_verifier", 25),
  }
  weight = 37 / len(TASKS + GENERATORS)
  for name in TASKS:
    tasks[name] = {"weight": weight, "options": {"binary": False}}
  for name in GENERATORS:
    tasks[name] = {
        "weight": weight, "module": "reasoning_gym",
        "options": {"dataset": name, "binary": False}}
  c.data.tasks = tasks
  c.data.max_prompt_length = 1024
  c.data.prompt_buckets = (256, 512)
  c.rewards.workers = 16
  c.sampling.max_new_tokens = 8192
  c.sampling.chunk = 64

  c.algo.num_generations = 16
  c.train.total_steps = 500
  c.train.prompts_per_step = 256
  # Responses are long: one of them a row, one row a device at a time.
  c.train.micro_batch_generations = 1
  c.train.micro_batch_prompts = 64
  c.eval.batch_prompts = 64
  if scale == "host":
    c.train.prompts_per_step = 64
    c.train.micro_batch_prompts = 8
    c.eval.batch_prompts = 8
  c.train.num_minibatches = c.train.prompts_per_step // 64

  c.optim.learning_rate = 2e-6
  # Of every task: fifteen sets are tried at each evaluation.
  c.eval.num_problems = 64
  c.eval.num_samples = 16
  c.eval.every = 20
  c.checkpoint.every = 20
  return methods.prorl(c)


def jsonl(data: str, verifier: str, weight: float) -> dict:
  """A domain whose problems and verifier are the user's."""
  return {
      "weight": weight, "module": "jsonl",
      "options": {
          "file": f"data/{data}.jsonl",
          "validation_file": "",
          "validation_share": 0.01,
          "verifier": f"data/{verifier}.py:score",
      },
  }
