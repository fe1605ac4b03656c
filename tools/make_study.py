"""Tables and figures of docs/study.md, from the files in docs/results.

  .venv/bin/python tools/make_study.py

Nothing is trained: `study.py` wrote the files. What stands between the lines
`<!-- table NAME -->` and `<!-- end -->` of the page is made anew, and so are
the pictures docs/figures/study_*.svg. `--check` changes nothing and says
whether the page is what the files give.
"""

import argparse
import collections
from collections.abc import Callable, Sequence
import functools
import pathlib
import re
import sys

import numpy as np
import study
import study_pictures
from study_results import (
  BASELINE,
  Runs,
  dead,
  distinct_SX,
  evaluation,
  load,
  pass_SX,
  start_of,
  unsolved_X,
)

from progrpo_jax.evaluators import intervals

PAGE = study.ROOT / "docs" / "study.md"
FIGURES = study.ROOT / "docs" / "figures"
TABLE = re.compile(
  r"(?P<head><!-- table (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)",
  re.DOTALL,
)
KS = (1, 8, 32)
DISTINCT = "distinct right answers"
LEVEL = 0.95
# Seeds that a difference needs: two that happen to agree prove nothing.
ENOUGH = 3


def main() -> int:
  """Makes the page and the pictures, or checks the page."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--check", action="store_true")
  args = parser.parse_args()
  before = PAGE.read_text()
  after = page(before, study.RESULTS)
  if args.check:
    print("the page is up to date" if after == before else "run make_study.py")
    return int(after != before)
  PAGE.write_text(after)
  for name, draw in study_pictures.PICTURES.items():
    draw(study.RESULTS, FIGURES / f"study_{name}.svg")
  return 0


def page(text: str, results: pathlib.Path) -> str:
  """Returns the page with its tables made anew.

  Raises:
    KeyError: the page names a table that there is not.
  """
  return TABLE.sub(
    lambda m: f"{m['head']}\n{TABLES[m['name']](results)}\n{m['end']}", text
  )


def entropy_of(runs: Sequence[dict]) -> str:
  """Mean entropy of the last evaluations, and its range over the seeds."""
  values = [evaluation(run)["entropy"] for run in runs]
  text = f"{np.mean(values):.2f}"
  if len(values) > 1:
    text += f" ({min(values):.2f} – {max(values):.2f})"
  return text


def cell(values_SX: np.ndarray) -> str:
  """A mean with its interval over problems, and over seeds if there are two."""
  # That over problems holds at 0 and 1 too, where all values are equal.
  centre, low, high = intervals.mean(values_SX.mean(axis=0))
  if len(values_SX) > 1:
    _, lowest, highest, _ = intervals.over_seeds(values_SX)
    low, high = max(min(low, lowest), 0.0), min(max(high, highest), 1.0)
  return f"{centre:.3f} ({low:.3f} – {high:.3f})"


def unsolved_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table over what the base never solved."""

  def make(results: pathlib.Path) -> str:
    runs = load(results, part)
    bases = {run["from"]: unsolved_X(run) for run in runs.pop("base", [])}
    rows = []
    for arm, own in runs.items():
      hard = [
        pass_SX([run], k)[0, bases[run["from"]]].mean()
        for k in KS
        for run in own
      ]
      means = np.reshape(hard, (len(KS), len(own))).mean(axis=1)
      rows.append([arm, str(len(own)), *(f"{value:.3f}" for value in means)])
    return markdown(["arm", "seeds", *(f"pass@{k}" for k in KS)], rows)

  return make


def distinct_cell(values_SX: np.ndarray) -> str:
  """A mean number of answers, with its interval if there are two seeds."""
  if len(values_SX) == 1:
    return f"{values_SX.mean():.2f}"
  centre, low, high, _ = intervals.over_seeds(values_SX)
  return f"{centre:.2f} ({max(low, 0.0):.2f} – {high:.2f})"


def means_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table with one row per arm."""

  def make(results: pathlib.Path) -> str:
    rows = [
      [
        arm,
        str(len(runs)),
        *(cell(pass_SX(runs, k)) for k in KS),
        entropy_of(runs),
        distinct_cell(distinct_SX(runs)),
      ]
      for arm, runs in load(results, part).items()
    ]
    heads = [f"pass@{k}" for k in KS]
    return markdown(["arm", "seeds", *heads, "entropy", DISTINCT], rows)

  return make


def differences(
  runs: Runs, values: Callable[[Sequence[dict]], np.ndarray]
) -> dict[str, tuple[float, ...]]:
  """Arm -> (mean, low, high, p) of values less GRPO's, corrected.

  Pairs of runs share base, seed, problems and random numbers. All arms make one
  family: p is Holm's, and the intervals hold together (Bonferroni's level).

  Args:
    runs: runs by arm.
    values: gives the values of runs by seed and problem, such as `distinct_SX`.
  """
  base = {start_of(run): run for run in runs.get(BASELINE, [])}
  pairs = {}
  for arm, own in runs.items():
    both = [r for r in own if start_of(r) in base]
    if arm not in ("base", BASELINE) and len(both) >= ENOUGH:
      pairs[arm] = values(both) - values([base[start_of(r)] for r in both])
  found = {
    arm: intervals.over_seeds(
      values_SX, level=1 - (1 - LEVEL) / max(len(pairs), 1)
    )
    for arm, values_SX in pairs.items()
  }
  adjusted = intervals.holm([row[3] for row in found.values()])
  return {
    arm: (*row[:3], float(p)) for (arm, row), p in zip(found.items(), adjusted)
  }


def differences_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of differences from GRPO."""

  def make(results: pathlib.Path) -> str:
    runs = load(results, part)
    columns = {
      f"pass@{k}": differences(runs, functools.partial(pass_SX, k=k))
      for k in KS
    } | {DISTINCT: differences(runs, distinct_SX)}
    rows = [
      [
        arm,
        *(
          difference_cell(found[arm], digits=2 if name == DISTINCT else 3)
          for name, found in columns.items()
        ),
      ]
      for arm in columns[DISTINCT]
    ]
    if not rows:
      return f"No method has {ENOUGH} pairs of runs with {BASELINE} yet.\n"
    return markdown(["arm", *columns], rows)

  return make


def difference_cell(values, digits: int) -> str:
  """A difference with its interval and p; bold where p is below 0.05."""
  *numbers, p = values
  centre, low, high = (f"{x:+.{digits}f}" for x in numbers)
  chance = f"p {p:.2g}" if p >= 0.001 else "p < 0.001"
  text = f"{centre} ({low} – {high}), {chance}"
  return f"**{text}**" if p < 1 - LEVEL else text


def costs_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of seconds a step."""

  def make(results: pathlib.Path) -> str:
    stages = ("step", "sample", "score", "update")
    rows = []
    for arm, runs in load(results, part).items():
      if arm == "base":
        continue
      quick = [
        np.mean(
          [
            np.quantile([v or 0 for v in r["steps"][f"timing_s/{stage}"]], 0.25)
            for r in runs
          ]
        )
        if all(f"timing_s/{stage}" in r["steps"] for r in runs)
        else np.nan
        for stage in stages
      ]
      rows.append([arm, *("–" if np.isnan(v) else f"{v:.2f}" for v in quick)])
    return markdown(["arm", *(f"{s}, s" for s in stages)], rows)

  return make


def made_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table that says which code made the runs."""

  def make(results: pathlib.Path) -> str:
    rows = collections.defaultdict(list)
    for arm, runs in load(results, part).items():
      for run in runs:
        if arm != "base":
          rows[run["commit"], run["command"]].append(str(run["seed"]))
    made = []
    for (at, command), seeds in merged(rows).items():
      config, *keys = command.removeprefix("progrpo train --config ").split()
      keys = [key.removeprefix("--config.") for key in keys]
      made.append((f"`{config}`", ", ".join(seeds), at, keys))
    shared = set.intersection(*(set(keys) for *_, keys in made))
    table = [
      [*row, " ".join(f"`{key}`" for key in keys if key not in shared)]
      for *row, keys in made
    ]
    return (
      markdown(["config", "seeds", "commit", "keys of its own"], table)
      + "\nAll with "
      + ", ".join(f"`{key}`" for key in sorted(shared))
      + ".\n"
    )

  return make


def merged(rows) -> dict[tuple[str, str], list[str]]:
  """Joins the seeds of commands that differ in the seed alone."""
  found = collections.defaultdict(list)
  for (at, command), seeds in rows.items():
    found[at, re.sub(r" --config\.seed=\d+", "", command)] += seeds
  return dict(found)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table in Markdown."""
  lines = [heads, ["---"] * len(heads), *rows]
  return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def dead_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of what is left of the base's answers."""

  def make(results: pathlib.Path) -> str:
    rows = []
    for arm, runs in load(results, part).items():
      found = [r for r in runs if r.get("followed")]
      if not found:
        continue
      if not rows:  # before the first step a policy is its base
        bases = {r["from"]: r["followed"] for r in found}
        rows.append(["base", *left(list(bases.values()), 0)])
      rows.append([arm, *left([r["followed"] for r in found], -1)])
    heads = ["right answers", "wrong answers"]
    lost = ["without a right answer", "without the commonest one"]
    return markdown(["arm", *heads, *(f"problems {x}" for x in lost)], rows)

  return make


def left(followed: Sequence[dict], at: int) -> list[str]:
  """Mean probabilities, and shares of problems, at one of the checkpoints."""
  return [
    f"{np.mean([over(f[kind][at]) for f in followed]):.2f}"
    for kind, over in (
      ("right", np.mean),
      ("wrong", np.mean),
      ("right", dead),
      ("commonest", dead),
    )
  ]


TABLES = {
  "countdown": means_table("countdown"),
  "countdown-differences": differences_table("countdown"),
  "countdown-lost": dead_table("countdown"),
  "countdown-made": made_table("countdown"),
  "arm": means_table("arm"),
  "arm-differences": differences_table("arm"),
  "arm-lost": dead_table("arm"),
  "arm-made": made_table("arm"),
  "long": means_table("long"),
  "long-unsolved": unsolved_table("long"),
  "long-made": made_table("long"),
  "puzzles": means_table("puzzles"),
  "puzzles-differences": differences_table("puzzles"),
  "puzzles-made": made_table("puzzles"),
  "sentences": means_table("sentences"),
  "sentences-differences": differences_table("sentences"),
  "sentences-costs": costs_table("sentences"),
  "sentences-made": made_table("sentences"),
}


if __name__ == "__main__":
  sys.exit(main())
