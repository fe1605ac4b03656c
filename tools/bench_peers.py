"""Times one GRPO step by progrpo_jax, Tunix and TRL, side by side.

  .venv/bin/python tools/bench_peers.py --ours .venv/bin/python \
      [--tunix PYTHON] [--trl PYTHON]

Each option names a Python interpreter whose environment has that system; any
may be left out. Every system trains a random Llama of 4.1M parameters in its
own trainer (tools/peers/), in a separate process, on the same cores; with
`--model`, a folder in Hugging Face's format, that pretrained policy, which
writes sentences of the lengths that it likes. The systems take turns in each
round, so that a drifting load of the machine slows all of them. Steps that
compile are left out. A run fails if a sample of the random policy does not have
all its tokens, or if training did not change the parameters.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SYSTEMS = {"ours": "progrpo_jax", "tunix": "Tunix", "trl": "TRL"}
# Sizes of a step and the numbers of steps; options of tools/peers/*_step.py.
SIZES = dict(
  layers=4,
  prompts=8,
  samples=8,
  prompt_tokens=16,
  new_tokens=128,
  warmup=2,
  steps=5,
  cores=2,
)
# A pretrained policy's own.
PRETRAINED = dict(prompts=4, prompt_tokens=40, new_tokens=32)


def main() -> None:
  """Prints the table in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, title in SYSTEMS.items():
    parser.add_argument(
      f"--{name}", metavar="PYTHON", help=f"interpreter that has {title}"
    )
  for name, default in SIZES.items():
    said = f"default: {default}"
    if name in PRETRAINED:
      said += f", with --model {PRETRAINED[name]}"
    parser.add_argument(f"--{name}", type=int, help=said)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument(
    "--model", type=pathlib.Path, metavar="DIR", help="a pretrained policy"
  )
  args = parser.parse_args()
  if args.model and not (args.model / "config.json").exists():
    parser.error(f"--model {args.model}: no config.json in there")
  pythons = {}
  for name in SYSTEMS:
    given = vars(args)[name]
    if given and not shutil.which(given):
      parser.error(f"--{name} {given}: no such program")
    if given:
      # Absolute, because children start in another folder. A symbolic link is
      # not resolved: Python finds its virtual environment by the link's place.
      pythons[name] = os.path.abspath(shutil.which(given))
  if not pythons:
    parser.error("no system: give --ours, --tunix or --trl")
  sizes = SIZES | (PRETRAINED if args.model else {})
  sizes |= {n: vars(args)[n] for n in SIZES if vars(args)[n] is not None}
  cores = sorted(os.sched_getaffinity(0))[: args.cores]
  rounds = {name: [] for name in pythons}
  for turn in range(args.rounds):
    for name, python in pythons.items():
      result = run(name, python, sizes, cores, args.model)
      rounds[name].append(result)
      print(
        f"round {turn + 1}: {name} "
        f"{statistics.median(result['seconds']):.2f} s",
        file=sys.stderr,
        flush=True,
      )
  print(report(rounds, sizes, len(cores)))


def run(
  name: str,
  python: str,
  sizes: dict[str, int],
  cores: list[int],
  model: pathlib.Path | None,
):
  """Returns the figures of one run; see `Watch.write` in tools/peers/work.py.

  Raises:
    SystemExit: the run failed; the message has the end of its output.
  """
  paths = [str(ROOT), str(ROOT / "tools")]
  with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder) / "figures.json"
    environment = os.environ | dict(
      PYTHONPATH=os.pathsep.join(paths),
      HF_HOME=folder,
      HF_HUB_OFFLINE="1",
      HF_DATASETS_OFFLINE="1",
      WANDB_MODE="disabled",
      TOKENIZERS_PARALLELISM="false",
      JAX_PLATFORMS="cpu",
      TF_CPP_MIN_LOG_LEVEL="2",
      OMP_NUM_THREADS=str(len(cores)),
    )
    words = [f"--{key}={value}" for key, value in sizes.items()]
    if model:
      words.append(f"--model={model.resolve()}")
    # XLA and torch start one thread for each core that the process may use.
    child = subprocess.run(
      [
        "taskset",
        "--cpu-list",
        ",".join(map(str, cores)),
        python,
        str(ROOT / "tools" / "peers" / f"{name}_step.py"),
        f"--output={output}",
        *words,
      ],
      env=environment,
      cwd=folder,
      capture_output=True,
      text=True,
    )
    if child.returncode or not output.exists():
      said = (child.stdout + child.stderr)[-2000:]
      raise SystemExit(f"{name} failed ({child.returncode}):\n{said}")
    return json.loads(output.read_text())


def report(
  rounds: dict[str, list[dict]], sizes: dict[str, int], cores: int
) -> str:
  """Returns the table and a line on the machine and versions, in Markdown."""
  commit = subprocess.run(
    ["git", "rev-parse", "--short=7", "HEAD"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  ).stdout.strip()
  versions = [
    f"{name} {version}"
    for results in rounds.values()
    for name, version in results[0]["versions"].items()
  ]
  first = next(iter(rounds.values()))
  lines = [
    f"Commit {commit or 'unknown'}. {platform.machine()}, {cores} cores; "
    f"{first[0]['parameters'] / 1e6:.1f}M parameters; medians of "
    f"{len(first[0]['seconds'])} steps in each round, of {len(first)}. "
    f"{'; '.join(versions)}.",
    "",
    "| system | seconds a step | / progrpo_jax | CPU seconds a step "
    "| sampling, tokens a second | tokens of a sample | peak memory, MB |",
    "|---" * 7 + "|",
  ]
  for name, results in rounds.items():
    lines.append(
      f"| {SYSTEMS[name]} | "
      + " | ".join(row(results, rounds.get("ours"), sizes))
      + " |"
    )
  return "\n".join(lines)


def row(
  results: list[dict], ours: list[dict] | None, sizes: dict[str, int]
) -> list[str]:
  """Returns the cells of one system, given its rounds and progrpo_jax's.

  The ratio is taken within each round, where the load is most alike; the cell
  has the median over rounds.
  """

  def every(key):
    return [value for result in results for value in result[key]]

  seconds = every("seconds")
  ratio = (
    "–"
    if ours is None
    else format(
      statistics.median(
        statistics.median(a["seconds"]) / statistics.median(b["seconds"])
        for a, b in zip(results, ours)
      ),
      ".2f",
    )
  )
  length = statistics.mean(result["length"] for result in results)
  tokens = sizes["prompts"] * sizes["samples"] * length
  return [
    f"{statistics.median(seconds):.2f} "
    f"({min(seconds):.2f} – {max(seconds):.2f})",
    ratio,
    f"{statistics.median(every('cpu')):.2f}",
    f"{tokens / statistics.median(every('sample')):,.0f}",
    f"{length:.1f}",
    f"{max(result['peak_mb'] for result in results):,.0f}",
  ]


if __name__ == "__main__":
  main()
