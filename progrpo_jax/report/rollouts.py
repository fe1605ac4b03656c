"""The rollout browser of a page: its data and the frame its script fills."""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import re
from typing import Any

from progrpo_jax.report import markup, readings
from progrpo_jax.storage import metrics

# Limits of the browser's data, so that a page stays a few megabytes.
MAX_STEPS = 10
MAX_PROMPTS = 24
MAX_COMPLETIONS = 32
MAX_CHARACTERS = 4000

_COMPLETION_KEYS = (
  "reward",
  "advantage",
  "base_advantage",
  "c_answer",
  "length",
  "finished",
)


def collect(run: metrics.Record) -> dict[str, Any]:
  """Returns the rollouts of a run within the limits.

  Args:
    run: loaded run.

  Returns:
    A dict of `groups`, one per source and step, each with `source`, `step` and
    `rows` (one per prompt), and `left_out`, phrases that say what was cut.
  """
  groups, left_out = [], []
  sources = (
    ("training", run.rollout_steps(), run.rollouts),
    ("evaluation", run.eval_sample_steps(), run.eval_samples),
  )
  for source, steps, read in sources:
    chosen = [steps[i] for i in readings.evenly_spaced(len(steps), MAX_STEPS)]
    if len(chosen) < len(steps):
      left_out.append(f"{len(chosen)} of {len(steps)} steps of {source}")
    records = {step: read(step) for step in chosen}
    seen = _steps_by_prompt(records.values())
    for step, rows in records.items():
      if len(rows) > MAX_PROMPTS:
        left_out.append(
          f"{MAX_PROMPTS} of {len(rows)} prompts of {source} step {step}"
        )
      # Prompts shared with other steps first: they can be compared.
      rows = sorted(rows, key=lambda row: -seen[key(row)])[:MAX_PROMPTS]
      rows = [_row(row) for row in rows]
      if rows:
        groups.append({"source": source, "step": step, "rows": rows})
  return {"groups": groups, "left_out": left_out}


def _steps_by_prompt(
  steps: Iterable[Sequence[Mapping[str, Any]]],
) -> dict[str, int]:
  """{prompt key: number of steps that hold the prompt}."""
  seen = {}
  for rows in steps:
    for prompt in {key(row) for row in rows}:
      seen[prompt] = seen.get(prompt, 0) + 1
  return seen


def key(row: Mapping[str, Any]) -> str:
  """Returns an id of the prompt, the same at every step."""
  identity = json.dumps([row.get("prompt"), row.get("reference")], default=str)
  return hashlib.sha256(identity.encode()).hexdigest()[:12]


def verdict(completion: Mapping[str, Any]) -> str:
  """Returns "correct", "wrong", or "unknown" where the verifier failed."""
  if completion.get("status", "ok") != "ok":
    return "unknown"
  return "correct" if completion.get("correct") else "wrong"


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns one prompt with its completions, as the script reads it."""
  completions = row["completions"]
  # The counts cover all completions; only the first MAX_COMPLETIONS are shown.
  verdicts = [verdict(completion) for completion in completions]
  letters = _answer_letters(completions)
  return {
    "key": key(row),
    "task": str(row.get("task") or row.get("set") or ""),
    "prompt": short(row.get("prompt", "")),
    "reference": short(reference(row)),
    "c_prompt": row.get("c_prompt"),
    "samples": len(completions),
    "correct": verdicts.count("correct"),
    "unknown": verdicts.count("unknown"),
    "distinct": len(set(letters.values())),
    "completions": [
      {
        **{name: completion.get(name) for name in _COMPLETION_KEYS},
        "verdict": verdicts[index],
        "text": short(conversation(completion)),
        "answer": letters.get(index),
      }
      for index, completion in enumerate(completions[:MAX_COMPLETIONS])
    ],
  }


def reference(row: Mapping[str, Any]) -> str:
  """Returns the reference of a prompt as a text, "" without one."""
  value = row.get("reference")
  if isinstance(value, str):
    return value
  return "" if value is None else json.dumps(value)


def conversation(completion: Mapping[str, Any]) -> str:
  """Returns the text of a completion; with replies, if it has several turns."""
  if "turns" not in completion:
    return completion.get("text", "")
  return "\n".join(
    f"[{'policy' if turn['role'] == 'assistant' else 'task'}] {turn['content']}"
    for turn in completion["turns"]
  )


def short(value: object) -> str:
  """Cuts a text at MAX_CHARACTERS and says how much was cut."""
  value = str(value)
  if len(value) <= MAX_CHARACTERS:
    return value
  left = len(value) - MAX_CHARACTERS
  return f"{value[:MAX_CHARACTERS]}\n[… {left} characters left out]"


def _answer_letters(completions: Sequence[Mapping[str, Any]]) -> dict[int, str]:
  """{index: letter} of the correct completions; equal answers share a letter.

  The answer is the last <answer> or \\boxed{} of the text, else the whole text.
  """
  letters, numbers = {}, {}
  for index, completion in enumerate(completions):
    if verdict(completion) == "correct":
      written = answer(str(completion.get("text", "")))
      number = numbers.setdefault(written, len(numbers))
      letters[index] = chr(65 + number) if number < 26 else f"Z{number}"
  return letters


def answer(completion: str) -> str:
  """Returns the answer of a completion, without white space."""
  tagged = re.findall(r"<answer>(.*?)</answer>", completion, flags=re.DOTALL)
  # One level of nested braces, as in \boxed{\frac{1}{2}}.
  boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", completion)
  last = (tagged or boxed or [completion])[-1]
  return re.sub(r"\s+", "", last)


def browser(data: Mapping[str, Any]) -> str:
  """Returns the HTML frame that the page's script fills.

  Args:
    data: result of `collect`.
  """
  if not data["groups"]:
    return '<p class="note">The workdir holds no rollouts.</p>'
  left_out = data["left_out"]
  note = (
    f" To keep the page small it holds {markup.text('; '.join(left_out[:4]))}"
    f"{' and more such cuts' if len(left_out) > 4 else ''}; the workdir has "
    "them all."
    if left_out
    else ""
  )
  # Selects without options here are filled by the script from the data.
  selects = (
    ("source", "samples of", ""),
    ("step", "at", ""),
    ("task", "task", ""),
    ("show", "completions", _options("all", "correct", "wrong", "unknown")),
    ("group", "groups", _options("all", "mixed", "correct", "wrong")),
    ("with", "compare with", ""),
  )
  controls = "".join(
    f'<label>{label}<select id="{name}">{choices}</select></label>'
    for name, label, choices in selects
  )
  return (
    '<p class="note">Every prompt with the completions sampled for it. '
    "The bars show the advantage: grey before ARM, coloured as "
    "trained on. Letters mark correct answers that are written differently; "
    "the tables above may count some of them as one, by the task's own rule "
    "of equality. Counts are of all samples whose verdict is known. Arrow "
    f"keys walk through the prompts.{note}</p>"
    f'<div class="controls">{controls}<label class="grow">search prompts and '
    'completions<input type="search" id="search"></label></div>'
    '<p class="note" id="count" aria-live="polite"></p>'
    '<div class="browser"><ul class="prompts" id="prompts" '
    'aria-label="Prompts"></ul><div id="detail"></div></div>'
    "<noscript><p>The rollout browser needs JavaScript.</p></noscript>"
  )


def _options(everything: str, *names: str) -> str:
  rest = "".join(f'<option value="{n}">{n}</option>' for n in names)
  return f'<option value="">{everything}</option>{rest}'
