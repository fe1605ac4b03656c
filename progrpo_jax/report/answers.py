"""Answers of two methods to the same prompt, side by side in a page.

The data and the frame that the page's script fills. Equal answers of a prompt
have one letter in all methods, so that it can be seen which right answers only
one of them gives.
"""

import collections
from collections.abc import Mapping, Sequence
import itertools
import string
from typing import Any

from progrpo_jax.report import readings, rollouts
from progrpo_jax.storage import metrics

# Limits of the data, so that a page stays a few megabytes.
MAX_PROMPTS = 24
MAX_RIGHT = 12
MAX_WRONG = 4


def collect(
  groups: readings.RunsByLabel,
  base: metrics.Record | None = None,
  dataset: str | None = None,
) -> dict[str, Any]:
  """Returns the answers of the last evaluations to the prompts all share.

  Args:
    groups: {label: loaded runs}; the samples of a label's seeds are pooled.
    base: the base policy as a loaded run, or None.
    dataset: evaluation set; None for the first one in the runs.

  Returns:
    A dict of `labels` (the methods first, then the base), `rows`, one per
    prompt, with the `sides` in the order of the labels, and `prompts`, the
    number of prompts that all labels share; no rows where fewer than two labels
    have samples. Rows with the largest difference in the number of different
    right answers come first.
  """
  everything = {**groups, **({readings.BASE: [base]} if base else {})}
  dataset = dataset or readings.default_set(everything)
  samples = {
    label: by_prompt
    for label, runs in everything.items()
    if (by_prompt := _samples(runs, dataset))
  }
  if len(samples) < 2:
    return {"labels": [], "rows": [], "prompts": 0}
  labels = list(samples)
  shared = [
    key
    for key in samples[labels[0]]
    if all(key in by_prompt for by_prompt in samples.values())
  ]
  rows = [
    _row(key, [by_prompt[key] for by_prompt in samples.values()])
    for key in shared
  ]
  # The base differs from every method on many prompts: it does not choose.
  methods = len(labels) - (readings.BASE in samples)
  rows.sort(key=lambda row: -_largest_difference(row["sides"], methods))
  return {"labels": labels, "rows": rows[:MAX_PROMPTS], "prompts": len(shared)}


def _samples(
  runs: Sequence[metrics.Record], dataset: str | None
) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
  """{prompt key: (record, completions of all seeds)} of the last evaluations.

  Only prompts that every seed answered, at the last step that all of them have.
  """
  pooled = {}
  for run in readings.at_shared_step(runs, dataset):
    step = readings.last_step(run, dataset)
    if step not in run.eval_sample_steps():
      return {}
    for record in run.eval_samples(step):
      if record.get("set") == dataset:
        pooled.setdefault(rollouts.key(record), []).append(record)
  return {
    key: (records[0], [c for record in records for c in record["completions"]])
    for key, records in pooled.items()
    if len(records) >= len(runs)
  }


def _row(
  key: str, sides: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]
) -> dict[str, Any]:
  """Returns a prompt with the answers of each label.

  Args:
    key: key of the prompt.
    sides: (record, completions) of each label.
  """
  record = sides[0][0]
  numbers = {}  # {right answer: its number in this row}
  return {
    "key": key,
    "prompt": rollouts.short(record.get("prompt", "")),
    "reference": rollouts.short(rollouts.reference(record)),
    "sides": [_side(completions, numbers) for _, completions in sides],
  }


def _side(
  completions: Sequence[dict[str, Any]], numbers: dict[str, int]
) -> dict[str, Any]:
  """Returns the answers of one label to one prompt, equal ones as one.

  Args:
    completions: completions of the prompt.
    numbers: {right answer: its number}; new ones are added.
  """
  texts = {}  # {(verdict, answer): first completion with it}
  counts = collections.Counter()
  for completion in completions:
    text = str(completion.get("text", ""))
    kind = rollouts.verdict(completion), rollouts.answer(text)
    texts.setdefault(kind, rollouts.short(rollouts.conversation(completion)))
    counts[kind] += 1
  by_verdict = collections.defaultdict(list)
  for (verdict, answer), count in counts.most_common():
    by_verdict[verdict].append((answer, count))
  right = [
    {
      "letter": letter(numbers.setdefault(answer, len(numbers))),
      "count": count,
      "text": texts["correct", answer],
    }
    for answer, count in by_verdict["correct"]
  ]
  wrong = [
    {"count": count, "text": texts["wrong", answer]}
    for answer, count in by_verdict["wrong"]
  ]
  return {
    "samples": len(completions),
    "correct": sum(answer["count"] for answer in right),
    "unknown": sum(count for _, count in by_verdict["unknown"]),
    "distinct": len(right),
    "letters": [answer["letter"] for answer in right],
    "right": right[:MAX_RIGHT],
    "wrong": wrong[:MAX_WRONG],
    "kinds_wrong": len(wrong),
  }


def letter(number: int) -> str:
  """Returns the name of a row's answer: A to Z, then A2 to Z2, and so on."""
  again, index = divmod(number, 26)
  return string.ascii_uppercase[index] + (str(again + 1) if again else "")


def _largest_difference(
  sides: Sequence[Mapping[str, Any]], methods: int
) -> int:
  """The largest difference in different right answers between two methods.

  Args:
    sides: sides of a row.
    methods: number of sides that are methods; with one, the base counts too.
  """
  counted = sides[:methods] if methods > 1 else sides
  return max(
    abs(a["distinct"] - b["distinct"])
    for a, b in itertools.combinations(counted, 2)
  )


def browser(data: Mapping[str, Any]) -> str:
  """Returns the HTML frame that the page's script fills, "" without rows.

  Args:
    data: result of `collect`.
  """
  if not data["rows"]:
    return ""
  cut = len(data["rows"]) < data["prompts"]
  size = f"{len(data['rows'])} of {data['prompts']}" if cut else "All"
  sides = "".join(
    f'<label>{word}<select id="{name}"></select></label>'
    for name, word in (("left", "left"), ("right", "right"))
  )
  return (
    '<p class="note">What two methods answered to the same prompt in their '
    "last evaluation, the samples of a method's seeds together. Equal answers "
    "stand once, with their number; a right answer has a letter, the same on "
    "both sides, and is marked where only one side gives it. Answers count as "
    "equal if they are written alike; the tables may count some of them as "
    "one, by the task's own rule of equality. "
    f"{size} prompts, those first for which the numbers of different right "
    "answers are furthest apart, whichever method has more.</p>"
    f'<div class="controls">{sides}<label>prompts<select id="solved">'
    '<option value="">all</option><option value="left">solved on the left only'
    '</option><option value="right">solved on the right only</option>'
    '<option value="both">solved on both sides</option>'
    '<option value="none">solved on neither</option></select></label></div>'
    '<p class="note" id="asked" aria-live="polite"></p>'
    '<div class="browser"><ul class="prompts" id="asking" '
    'aria-label="Prompts"></ul><div id="pair"></div></div>'
    "<noscript><p>Answers side by side need JavaScript.</p></noscript>"
  )
