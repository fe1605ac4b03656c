"""Tables and figures of docs/study.md, from the files in docs/results.

  .venv/bin/python tools/make_study.py

Nothing is trained: `study.py` wrote the files. What stands between the lines
`<!-- table NAME -->` and `<!-- end -->` of the page is made anew, and so are
the pictures docs/figures/study_*.svg. `--check` changes nothing and says
whether the page is what the files give.
"""

import argparse
import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import json
import pathlib
import re
import sys

import numpy as np
import study
import study_pictures
from study_results import (
  BASELINE,
  ENOUGH,
  Runs,
  at_temperatures,
  at_their_best,
  by_set,
  dead,
  distinct_SX,
  evaluation,
  load,
  of_plan,
  paired,
  pass_SX,
  start_of,
  steps,
  tempered_with,
  unsolved_X,
)
import time_methods

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
# Pairs of an arm that is compared on Countdown: the seeds of the plan. Which
# arms have them does not depend on what they show, and rows that can show
# nothing yet do not add to what the others are corrected for.
ALL = study.PARTS["countdown"].seeds
# The arms that were run first, before anything was known of them, and from two
# bases. They are a family of comparisons of their own; all later arms, with
# fewer pairs, are another one.
FIRST = ("progrpo", "maxrl", "passk", "ucpo")
LATER = tuple(arm for arm in study.PARTS["countdown"].arms if arm not in FIRST)
# What arms are compared by: functions of runs, and of a step or None.
COLUMNS: dict[str, Callable[..., np.ndarray]] = {
  **{f"pass@{k}": functools.partial(pass_SX, k=k) for k in KS},
  DISTINCT: distinct_SX,
}


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
  """A mean with an interval: (seeds and problems), or [problems alone]."""
  # This one holds at 0 and 1 too, where all values are equal.
  centre, low, high = intervals.mean(values_SX.mean(axis=0))
  if len(values_SX) == 1:
    return f"{centre:.3f} [{low:.3f} – {high:.3f}]"
  _, lowest, highest, _ = intervals.over_seeds(values_SX)
  low, high = max(min(low, lowest), 0.0), min(max(high, highest), 1.0)
  return f"{centre:.3f} ({low:.3f} – {high:.3f})"


def distinct_cell(values_SX: np.ndarray, most: int) -> str:
  """A mean number of answers, with its interval if there are two seeds.

  Args:
    values_SX: numbers of different answers by seed and problem.
    most: samples of a problem, so that there cannot be more.
  """
  if len(values_SX) == 1:
    return f"{values_SX.mean():.2f}"
  centre, low, high, _ = intervals.over_seeds(values_SX)
  return f"{centre:.2f} ({max(low, 0.0):.2f} – {min(high, most):.2f})"


def means_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table with one row per arm, from the plan's base."""

  def make(results: pathlib.Path) -> str:
    rows = [
      [
        arm,
        str(len(runs)),
        *(cell(pass_SX(runs, k)) for k in KS),
        entropy_of(runs),
        distinct_cell(distinct_SX(runs), max(evaluation(runs[0])["samples"])),
      ]
      for arm, runs in of_plan(results, part).items()
    ]
    heads = [f"pass@{k}" for k in KS]
    return markdown(["arm", "seeds", *heads, "entropy", DISTINCT], rows)

  return make


def temperatures_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table with a row per arm and temperature."""

  def make(results: pathlib.Path) -> str:
    rows = [
      [
        arm,
        str(len(runs)),
        f"{temperature:g}",
        *(f"{pass_SX(runs, k).mean():.3f}" for k in KS),
        entropy_of(runs),
        f"{distinct_SX(runs).mean():.2f}",
      ]
      for temperature, by_arm in at_temperatures(results, part).items()
      for arm, runs in by_arm.items()
    ]
    # By arm; the temperatures of each stay in their order.
    arms = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: arms.index(row[0]))
    heads = [f"pass@{k}" for k in KS]
    table = markdown(
      ["arm", "seeds", "temperature", *heads, "entropy", DISTINCT], rows
    )
    commits = tempered_with(results, part)
    if not commits:
      return table
    return f"{table}\nEvaluated with the code of {', '.join(commits)}.\n"

  return make


def among(runs: Runs, arms: Sequence[str] | None) -> Runs:
  """The runs of GRPO and of some arms; of all if None."""
  if arms is None:
    return runs
  return {k: v for k, v in runs.items() if k == BASELINE or k in arms}


def best_table(part: str, arms: Sequence[str]) -> Callable[[pathlib.Path], str]:
  """Returns the maker of differences from GRPO, each arm at its best."""

  def make(results: pathlib.Path) -> str:
    best = at_their_best(results, part)
    runs = among({arm: own for arm, (_, own) in best.items()}, arms)
    rows = [
      [
        f"{arm}, {best[arm][0]:g}",
        str(len(paired(runs)[arm])),
        *difference_cells(row),
      ]
      for arm, row in differences(runs).items()
    ]
    return markdown(["arm, temperature", "pairs", *COLUMNS], rows)

  return make


def temperature_table(
  part: str, temperature: float, arms: Sequence[str]
) -> Callable[[pathlib.Path], str]:
  """Returns the maker of differences from GRPO, all at one temperature."""

  def make(results: pathlib.Path) -> str:
    runs = at_temperatures(results, part)[temperature]
    return differences_rows(among(runs, arms))

  return make


def unsolved_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table over what the base never solved."""

  def make(results: pathlib.Path) -> str:
    runs = of_plan(results, part)
    hard_X = unsolved_X(runs.pop("base")[0])
    rows = [
      [
        arm,
        str(len(own)),
        *(f"{pass_SX(own, k)[:, hard_X].mean():.3f}" for k in KS),
      ]
      for arm, own in runs.items()
    ]
    return markdown(["arm", "seeds", *(f"pass@{k}" for k in KS)], rows)

  return make


def steps_table(
  part: str, enough: int = ENOUGH, arms: Sequence[str] | None = None
) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of every evaluation, of arms with pairs."""

  def make(results: pathlib.Path) -> str:
    rows = []
    for arm, runs in paired(among(load(results, part), arms), enough).items():
      for step in steps(runs[0]):
        values = [f"{pass_SX(runs, k, step).mean():.3f}" for k in KS]
        distinct = f"{distinct_SX(runs, step).mean():.2f}"
        rows.append([arm, str(len(runs)), str(step), *values, distinct])
    heads = [f"pass@{k}" for k in KS]
    return markdown(["arm", "runs", "step", *heads, DISTINCT], rows)

  return make


def kl_of(runs: Sequence[dict]) -> str:
  """Mean KL to the reference over all steps; a dash without a reference."""
  kls = [value for run in runs for value in run["steps"].get("kl", [])]
  return f"{np.mean(kls):.2f}" if kls else "–"


def late(
  runs: Sequence[dict], values: Callable[..., np.ndarray], since: int
) -> np.ndarray:
  """Values by seed and problem, means over the evaluations from a step on.

  The last evaluation alone has the luck of one checkpoint.
  """
  late_steps = [step for step in steps(runs[0]) if step >= since]
  return np.mean([values(runs, step=step) for step in late_steps], axis=0)


def late_table(part: str, since: int) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of means over `late` evaluations."""

  def make(results: pathlib.Path) -> str:
    rows = []
    for arm, runs in of_plan(results, part).items():
      if arm != "base":
        means = [late(runs, x, since).mean() for x in COLUMNS.values()]
        digits = [2 if name == DISTINCT else 3 for name in COLUMNS]
        cells = [f"{x:.{d}f}" for x, d in zip(means, digits, strict=True)]
        rows.append([arm, str(len(runs)), *cells, kl_of(runs)])
    return markdown(["arm", "seeds", *COLUMNS, "KL, whole run"], rows)

  return make


def late_differences_table(
  part: str, since: int
) -> Callable[[pathlib.Path], str]:
  """Returns the maker of differences from GRPO in `late` evaluations."""

  def make(results: pathlib.Path) -> str:
    columns = {
      name: functools.partial(late, values=values, since=since)
      for name, values in COLUMNS.items()
    }
    return differences_rows(load(results, part), columns=columns)

  return make


def sets_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of pass@k by set of held-out problems."""

  def make(results: pathlib.Path) -> str:
    rows, heads = [], ["arm", "seeds"]
    for arm, runs in of_plan(results, part).items():
      own = [by_set(run) for run in runs]
      heads = ["arm", "seeds"]
      cells = [arm, str(len(runs))]
      for name in own[0]:
        heads += [f"{name}: pass@{k}" for k in (KS[0], KS[-1])]
        cells += [
          f"{pass_SX([run[name] for run in own], k).mean():.3f}"
          for k in (KS[0], KS[-1])
        ]
      rows.append(cells)
    return markdown(heads, rows)

  return make


def differences(
  runs: Runs,
  step: int | None = None,
  enough: int = ENOUGH,
  columns: Mapping[str, Callable[..., np.ndarray]] | None = None,
) -> dict[str, dict[str, tuple[float, ...]]]:
  """Arm -> column -> (mean, low, high, p) of its values less GRPO's, corrected.

  Pairs of runs share base, seed, problems and random numbers. All arms and
  columns make one family: p is Holm's, and the intervals hold together
  (Bonferroni's level).

  Args:
    runs: runs by arm.
    step: step of the evaluation of GRPO; the last if None. That of the other
      arms is the last.
    enough: least number of pairs of an arm.
    columns: name -> function of runs, a column of the comparison; `COLUMNS`
      if None. With `step` they take a step too.
  """
  columns = COLUMNS if columns is None else columns
  at = {} if step is None else {"step": step}
  base = {start_of(run): run for run in runs.get(BASELINE, [])}
  pairs = {}
  for arm, own in paired(runs, enough).items():
    if arm != BASELINE:
      other = [base[start_of(run)] for run in own]
      for column, values in columns.items():
        pairs[arm, column] = values(own) - values(other, **at)
  found = {
    place: intervals.over_seeds(values_SX, level=1 - (1 - LEVEL) / len(pairs))
    for place, values_SX in pairs.items()
  }
  adjusted = intervals.holm([row[3] for row in found.values()])
  by_arm: dict[str, dict[str, tuple[float, ...]]] = collections.defaultdict(
    dict
  )
  for ((arm, column), row), p in zip(found.items(), adjusted, strict=True):
    by_arm[arm][column] = (*row[:3], float(p))
  return dict(by_arm)


def differences_table(
  part: str,
  step: int | None = None,
  enough: int = ENOUGH,
  arms: Sequence[str] | None = None,
) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of `differences` from GRPO."""

  def make(results: pathlib.Path) -> str:
    return differences_rows(among(load(results, part), arms), step, enough)

  return make


def differences_rows(
  runs: Runs,
  step: int | None = None,
  enough: int = ENOUGH,
  columns: Mapping[str, Callable[..., np.ndarray]] | None = None,
) -> str:
  """The table of `differences`, with a row per arm that has pairs enough."""
  rows = [
    [arm, str(len(paired(runs)[arm])), *difference_cells(row)]
    for arm, row in differences(runs, step, enough, columns).items()
  ]
  if not rows:
    return f"No method has {enough} pairs of runs with {BASELINE} yet.\n"
  return markdown(["arm", "pairs", *COLUMNS], rows)


def difference_cells(row: dict[str, tuple[float, ...]]) -> list[str]:
  """The differences of an arm in all columns, see `differences`."""
  return [
    difference_cell(row[name], digits=2 if name == DISTINCT else 3)
    for name in COLUMNS
  ]


def difference_cell(values, digits: int) -> str:
  """A difference with its interval and p; bold where p is below 0.05."""
  *numbers, p = values
  centre, low, high = (f"{x:+.{digits}f}" for x in numbers)
  chance = f"p {p:.2g}" if p >= 0.001 else "p < 0.001"
  text = f"{centre} ({low} – {high}), {chance}"
  return f"**{text}**" if p < 1 - LEVEL else text


def shifts_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of how far ARM moves advantages."""

  def make(results: pathlib.Path) -> str:
    rows = []
    grpo = of_plan(results, part)[BASELINE]
    for arm, runs in of_plan(results, part).items():
      if arm in ("base", BASELINE):
        continue
      shift = np.mean([np.mean(r["steps"]["arm/bonus_abs_mean"]) for r in runs])
      own = {start_of(run) for run in runs}
      pair = [run for run in grpo if start_of(run) in own]
      moved = [
        f"{values(runs).mean() - values(pair).mean():+.{digits}f}"
        for values, digits in ((COLUMNS["pass@32"], 3), (distinct_SX, 2))
      ]
      rows.append((shift, [arm, str(len(runs)), f"{shift:.3f}", *moved]))
    return markdown(
      ["arm", "seeds", "mean shift of an advantage", "pass@32", DISTINCT],
      [row for _, row in sorted(rows)],
    )

  return make


def moved_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of how far methods move GRPO's advantages."""

  def make(results: pathlib.Path) -> str:
    rows = []
    for arm, runs in load(results, part).items():
      known = [r for r in runs if "advantage/moved_right" in r.get("steps", {})]
      if arm not in ("base", BASELINE) and known:
        shares = [
          np.mean([np.mean(r["steps"][f"advantage/moved_{x}"]) for r in known])
          for x in ("right", "wrong")
        ]
        rows.append([arm, str(len(known)), *(f"{x:.1%}" for x in shares)])
    return markdown(["arm", "seeds", "right responses", "wrong ones"], rows)

  return make


def times_table(name: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table of what a step of each method takes."""

  def make(results: pathlib.Path) -> str:
    times = json.loads((results / "times" / f"{name}.json").read_text())
    return (
      time_methods.table(times) + f"\nTaken with {times['versions']['cores']} "
      f"core and the code of {', '.join(times['commits'])}.\n"
    )

  return make


def made_table(part: str) -> Callable[[pathlib.Path], str]:
  """Returns the maker of a table that says which code made the runs."""

  def make(results: pathlib.Path) -> str:
    rows = collections.defaultdict(list)
    for arm, runs in load(results, part).items():
      for run in runs:
        if arm != "base":
          rows[run["commit"], run["command"]].append(str(run["seed"]))
    alike = collections.defaultdict(list)
    for (at, command), seeds in merged(rows).items():
      config, *keys = command.removeprefix("progrpo train --config ").split()
      keys = tuple(key.removeprefix("--config.") for key in keys)
      file, _, method = config.partition(":")
      alike[file, ", ".join(seeds), at, keys].append(method)
    shared = set.intersection(*(set(keys) for *_, keys in alike))
    table = [
      [
        f"`{file}`",
        ", ".join(methods),
        seeds,
        at,
        " ".join(f"`{key}`" for key in keys if key not in shared),
      ]
      for (file, seeds, at, keys), methods in alike.items()
    ]
    return (
      markdown(
        ["config", "method", "seeds", "commit", "keys of its own"], table
      )
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
    # Another base has other answers, to other problems.
    every = of_plan(results, part)
    for arm, runs in every.items():
      found = [run["followed"] for run in runs if run.get("followed")]
      if found and not rows:  # before the first step a policy is its base
        rows.append(
          ["base", "1", *left(found[:1], 0), f"{none_right(every['base']):.2f}"]
        )
      if found:
        rows.append(
          [arm, str(len(found)), *left(found, -1), f"{none_right(runs):.2f}"]
        )
    heads = ["right ones", "wrong ones"]
    lost = ["without the right ones", "without the commonest right one"]
    lost = [*(f"problems {x}" for x in lost), "of all, none right"]
    return markdown(["arm", "seeds", *heads, *lost], rows)

  return make


def none_right(runs: Sequence[dict]) -> float:
  """Share of all held-out problems without a right answer in the samples."""
  return float(np.mean([np.mean(unsolved_X(run)) for run in runs]))


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
  "countdown-differences": differences_table(
    "countdown", enough=ALL, arms=FIRST
  ),
  "countdown-others": differences_table("countdown", enough=ALL, arms=LATER),
  "countdown-steps": steps_table("countdown", enough=ALL, arms=FIRST),
  "countdown-early": differences_table(
    "countdown", step=100, enough=ALL, arms=FIRST
  ),
  "countdown-moved": moved_table("countdown"),
  "countdown-lost": dead_table("countdown"),
  "countdown-temperatures": temperatures_table("countdown"),
  "countdown-cold": temperature_table("countdown", 0.6, FIRST),
  "countdown-best": best_table("countdown", FIRST),
  "countdown-made": made_table("countdown"),
  "arm": means_table("arm"),
  "arm-shifts": shifts_table("arm"),
  "arm-differences": differences_table("arm"),
  "arm-lost": dead_table("arm"),
  "arm-made": made_table("arm"),
  "long": means_table("long"),
  "long-late": late_table("long", since=1200),
  "long-differences": late_differences_table("long", since=1200),
  "long-unsolved": unsolved_table("long"),
  "long-temperatures": temperatures_table("long"),
  "long-made": made_table("long"),
  "puzzles": means_table("puzzles"),
  "puzzles-sets": sets_table("puzzles"),
  "puzzles-differences": differences_table("puzzles"),
  "puzzles-made": made_table("puzzles"),
  "sentences": means_table("sentences"),
  "sentences-differences": differences_table("sentences"),
  "sentences-times": times_table("smollm2"),
  "sentences-made": made_table("sentences"),
}


if __name__ == "__main__":
  sys.exit(main())
