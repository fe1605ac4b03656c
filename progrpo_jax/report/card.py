"""The model card of an exported policy: README.md with the hub's metadata.

https://huggingface.co/docs/hub/model-cards describes the metadata.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import re
import subprocess
from typing import Any

import huggingface_hub

import progrpo_jax
from progrpo_jax.report import readings, sections
from progrpo_jax.settings import methods
from progrpo_jax.storage import hub_names, metrics, policy
from progrpo_jax.text import tokenizer as tokenizer_lib

NAME = "README.md"

# (key of the config, what it is) of the short table.
_SHORT = (
  ("algo.advantage", "advantage"),
  ("algo.loss", "loss"),
  ("algo.aggregate", "mean of the loss"),
  ("algo.arm.alpha", "ARM's alpha"),
  ("algo.beta", "weight of the KL"),
  ("algo.num_generations", "answers per prompt"),
  ("train.prompts_per_step", "prompts per step"),
  ("optim.learning_rate", "learning rate"),
  ("sampling.temperature", "temperature"),
  ("sampling.max_new_tokens", "longest answer, tokens"),
  ("model.lora.rank", "rank of LoRA"),
  ("seed", "seed"),
)
_PASS = re.compile(r"eval/(.+)/pass@(\d+)")
_PROMPT = "\0"  # stands for the variable of the example
_PAPER = re.compile(r"\b(\d{4}\.\d{5})\b")


@dataclasses.dataclass(frozen=True)
class Export:
  """What was exported.

  Attributes:
    run: record of the run, from `metrics.load`.
    step: step of the checkpoint.
    name: id on the hub, or directory, from which the result is loaded.
    adapters: whether it is adapters in PEFT's format.
  """

  run: metrics.Record
  step: int
  name: str
  adapters: bool = False

  @property
  def base(self) -> str | None:
    """Model of the hub that the run started from; None where none is known."""
    model = self.run.config.get("model", {})
    name = model.get("init_from", "")
    return name if model.get("download") and hub_names.split(name) else None


def title(export: Export) -> str:
  """Returns the heading of a card."""
  name, _ = method_of(export.run.config.get("method", ""))
  return f"{name}, step {export.step}"


def text(export: Export) -> str:
  """Returns the text of a model card.

  Args:
    export: policy and run that the card is of.
  """
  run = export.run
  rows = _pass_rows(run, export.step)
  parts = [
    f"# {title(export)}",
    _origin(export),
    "## How to load it",
    _loading(export),
    "## Evaluation",
    _evaluation(rows, export.step),
    "## Training",
    _training(run, export.step),
    "<details><summary>The whole config</summary>\n\n```json\n"
    + json.dumps(run.config, indent=2)
    + "\n```\n\n</details>",
  ]
  card = _metadata(export, rows).to_yaml()
  return f"---\n{card}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def method_of(label: str) -> tuple[str, str]:
  """Returns (name, sentence with its paper) of a config's method.

  Args:
    label: `config.method`. Where it is none of the package's methods, it is
      the name, and there is no sentence.
  """
  function = None if label.startswith("_") else getattr(methods, label, None)
  if not callable(function):
    return label or "a policy", ""
  sentence = function.__doc__.strip().splitlines()[0]
  name = sentence.partition(":")[0].partition(" (")[0]
  linked = _PAPER.sub(r"[\1](https://arxiv.org/abs/\1)", sentence)
  return (name if _PAPER.search(sentence) and len(name) < 30 else label), linked


def _metadata(
  export: Export, rows: list[dict[str, Any]]
) -> huggingface_hub.ModelCardData:
  """Returns the metadata; the hub reads it from the head of the card."""
  method = export.run.config.get("method", "")
  last = [row for row in rows if row["last"] is not None]
  return huggingface_hub.ModelCardData(
    base_model=export.base and hub_names.split(export.base)[0],
    library_name="peft" if export.adapters else "transformers",
    pipeline_tag="text-generation",
    tags=[
      "reinforcement-learning",
      "rlvr",
      "progrpo_jax",
      *filter(None, [method]),
    ],
    model_name=title(export),
    eval_results=[
      huggingface_hub.EvalResult(
        task_type="text-generation",
        dataset_type=row["set"],
        dataset_name=f"{row['set']}, held out",
        metric_type="pass@k",
        metric_name=f"pass@{row['k']}",
        metric_value=round(row["last"], 4),
      )
      for row in last
    ]
    or None,
  )


def _origin(export: Export) -> str:
  """Says what the policy is, where it came from and what made it."""
  config = export.run.config
  _, sentence = method_of(config.get("method", ""))
  start = export.base or config.get("model", {}).get("init_from") or ""
  if export.base:
    start = (
      f"[{export.base}](https://huggingface.co/{hub_names.split(start)[0]})"
    )
  elif start:
    start = f"`{start}`"
  what = "LoRA adapters for it were" if export.adapters else "It was"
  lines = [
    "A language model after reinforcement learning with verifiable rewards.",
    f"It starts from {start}." if start else "",
    f"{what} trained with progrpo_jax.",
    f"The method: {sentence}" if sentence else "",
    f"Exported by progrpo_jax {version()}.",
  ]
  return " ".join(filter(None, lines))


def _loading(export: Export) -> str:
  """Shows how transformers, or PEFT, loads the result and answers a prompt."""
  config = export.run.config
  model, sampling = config.get("model", {}), config.get("sampling", {})
  tokenizer, auto = export.name, "AutoModelForCausalLM"
  imports = f"from transformers import {auto}, AutoTokenizer"
  if export.adapters:
    auto = "AutoPeftModelForCausalLM"
    imports = f"from peft import {auto}\nfrom transformers import AutoTokenizer"
    tokenizer = model.get("init_from", "")
    if export.base:
      tokenizer, _ = hub_names.split(export.base)
  bos = tokenizer_lib.bos_piece(export.run.path / policy.MODEL_DIR)
  bos = f"{bos!r} + " if bos else ""
  prompt = f'inputs = tokenizer({bos}prompt, return_tensors="pt")'
  note = ""
  if _has_template(export.run):
    turns = [{"role": "user", "content": _PROMPT}]
    if model.get("system_prompt"):
      turns.insert(0, {"role": "system", "content": model["system_prompt"]})
    options = "".join(
      f"  {name}={value!r},\n"
      for name, value in model.get("chat_template_options", {}).items()
    )
    prompt = (
      f"messages = {turns!r}\n".replace(repr(_PROMPT), "prompt")
      + "inputs = tokenizer.apply_chat_template(\n"
      "  messages,\n  add_generation_prompt=True,\n"
      '  return_dict=True,\n  return_tensors="pt",\n'
      f"{options})"
    )
    # Else the tokenizer was saved with the template.
    if export.adapters and model.get("chat_template") not in ("auto", "own"):
      note = (
        "\n\nIn training, prompts went through the template that "
        "`model.chat_template` names in the config below."
      )
  elif tokenizer_lib.has_template(export.run.path / policy.MODEL_DIR):
    note = (
      "\n\nIn training, prompts did not go through the tokenizer's chat "
      "template."
    )
  return (
    f"```python\n{imports}\n\n"
    f"tokenizer = AutoTokenizer.from_pretrained({tokenizer!r})\n"
    f"model = {auto}.from_pretrained({export.name!r})\n"
    f'prompt = "..."\n{prompt}\n'
    "output = model.generate(\n  **inputs,\n  do_sample=True,\n"
    f"  temperature={sampling.get('temperature', 1.0)},\n"
    f"  max_new_tokens={sampling.get('max_new_tokens', 256)},\n)\n"
    f"print(tokenizer.decode(output[0], skip_special_tokens=True))\n```{note}"
  )


def _has_template(run: metrics.Record) -> bool:
  """Returns whether the prompts of a run went through a chat template."""
  choice = run.config.get("model", {}).get("chat_template", "none")
  if choice in ("auto", "own"):
    return tokenizer_lib.has_template(run.path / policy.MODEL_DIR)
  return choice != "none"


def _evaluation(rows: list[dict[str, Any]], step: int) -> str:
  """Says what the run measured on held-out problems, as a table."""
  if not rows:
    return "The run evaluated nothing up to this step."
  measured = rows[0]["step"]
  lines = [
    "pass@k on held-out problems, the unbiased estimate with its 95% interval "
    f"over problems, at step {measured}"
    + (
      "" if measured == step else f", the last that was evaluated before {step}"
    )
    + ".",
    "",
    "| set | k | before training | after | problems |",
    "|---|---|---|---|---|",
  ]
  lines += [
    f"| {_cell(row['set'])} | {row['k']} | {row['first_text'] or '–'} |"
    f" {row['text']} | {row['problems']} |"
    for row in rows
  ]
  return "\n".join(lines)


def _training(run: metrics.Record, step: int) -> str:
  """Says how it was trained: tasks, main keys, reward at begin and end."""
  flat = sections.flatten(run.config)
  tasks = ", ".join(run.config.get("data", {}).get("tasks", {}))
  rows = [("steps", step), ("tasks", tasks)]
  rows += [(label, flat[key]) for key, label in _SHORT if key in flat]
  lines = ["| | |", "|---|---|"]
  lines += [f"| {label} | {_cell(value)} |" for label, value in rows]
  until = [row for row in run.metrics if row["step"] <= step]
  ends = readings.ending(dataclasses.replace(run, metrics=until), "reward")
  if ends:
    lines += [
      "",
      f"Mean reward of a step: from {ends[0]:.3f} to {ends[1]:.3f} (means of "
      "ten steps).",
    ]
  return "\n".join(lines)


def _pass_rows(run: metrics.Record, step: int) -> list[dict]:
  """Returns pass@k of each set in the last evaluation up to a step.

  Returns:
    A dict per set and k: `last`, the value or None where there are bounds
    alone; `text` and `first_text`, with intervals, of this evaluation and that
    of step 0 ("" where it is the same or there is none).
  """
  evals = [row for row in run.evals if row["step"] <= step]
  evals = [row for row in evals if any(map(_PASS.match, row))]
  if not evals:
    return []
  first, last = (evals[0] if evals[0]["step"] == 0 else {}), evals[-1]
  if first is last:
    first = {}
  pairs = dict.fromkeys(
    match.groups() for key in last if (match := _PASS.match(key))
  )
  return [
    dict(
      set=name,
      k=int(k),
      step=last["step"],
      last=last.get(f"eval/{name}/pass@{k}"),
      text=_value(last, f"eval/{name}/pass@{k}"),
      first_text=_value(first, f"eval/{name}/pass@{k}"),
      problems=last.get(f"eval/{name}/pass@{k}/num_problems", ""),
    )
    for name, k in pairs
  ]


def _value(row: dict, key: str) -> str:
  """Returns a measure with its interval, or its bounds; "" if it is absent."""
  if row.get(key) is not None:
    low, high = row.get(f"{key}/low"), row.get(f"{key}/high")
    interval = "" if low is None else f" ({low:.3f} – {high:.3f})"
    return f"{row[key]:.3f}{interval}"
  if row.get(f"{key}/at_least") is not None:
    bounds = row[f"{key}/at_least"], row[f"{key}/at_most"]
    return "between {:.3f} and {:.3f}".format(*bounds)
  return ""


def _cell(value: object) -> str:
  """Returns a value as text of a table's cell."""
  return str(value).replace("|", "\\|").replace("\n", " ")


def version() -> str:
  """Returns the version of this package, with its commit if that is known.

  It is known of a git checkout, and of what pip installed from a repository.
  """
  commit = _installed_commit() or _checkout_commit()
  at = f" (commit {commit})" if commit else ""
  return f"{progrpo_jax.__version__}{at}"


def _installed_commit() -> str | None:
  """Returns the commit that pip installed, see PEP 610."""
  try:
    distribution = importlib.metadata.distribution("progrpo_jax")
    told = json.loads(distribution.read_text("direct_url.json") or "{}")
    return told.get("vcs_info", {}).get("commit_id")
  except (importlib.metadata.PackageNotFoundError, ValueError):
    return None


def _checkout_commit() -> str | None:
  """Returns the commit of the checkout that the package runs from."""
  folder = pathlib.Path(progrpo_jax.__file__).parent

  def git(*words):
    return subprocess.run(
      ["git", "-C", folder, *words],
      capture_output=True,
      text=True,
      check=True,
      timeout=30,
    ).stdout.strip()

  try:
    # The checkout may be another project's, with an environment inside.
    git("ls-files", "--error-unmatch", "__init__.py")
    return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
  except (OSError, subprocess.SubprocessError):
    return None
