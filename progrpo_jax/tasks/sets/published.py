"""Options and rows of a published data set.

The module of a set describes it (`schema.Set`), and `reader` builds it. Files
come from `manual_dir` if it is given, else from the hub through TFDS's
download manager.
"""

from collections.abc import Mapping, Sequence
import inspect
import json
from typing import Any

from etils import epath

from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import builder, reader, schema


@base.typed
def rows(
  published: schema.Set,
  split: str,
  *,
  data_dir: str,
  seed: int,
  manual_dir: str | None = None,
  revision: str = "main",
  template: str | None = None,
  validation: Sequence[str] = (),
  validation_share: base.Share = 0.01,
  against: Sequence[str] | None = None,
  ngram: int = 13,
  overlap_share: base.Share = 0.5,
  max_bad_share: base.Share = 0.01,
  max_prompt_chars: base.Count = 20_000,
  max_reference_chars: base.Count = 4_000_000,
  verifier_options: Mapping[str, Any] | None = None,
  **set_options: Any,
) -> base.Source:
  """Returns a split of a set; builds its data unless it exists.

  Args:
    published: the published set.
    split: "train" or "validation".
    data_dir: folder of all builds.
    seed: seed of the shuffled options of multiple-choice questions.
    manual_dir: folder with the files, which replaces the download. Files may
      lie in it directly or in a subfolder with the set's name. Sets named in
      `against` and `validation` are looked up there too.
    revision: branch, tag or commit of the hub's repository.
    template: name of one of the set's templates, or a text with {question} in
      it; None takes the set's first template.
    validation: names of evaluation sets that replace the set's validation.
    validation_share: approximate share of the questions held out if no
      validation is published; the choice depends on their text.
    against: names of evaluation sets whose near-duplicates train leaves out,
      besides those of `validation` and the set's own validation; None takes
      the set's list.
    ngram: words per n-gram, see `overlap`; 0 compares nothing.
    overlap_share: share of common n-grams from which texts are
      near-duplicates.
    max_bad_share: largest allowed share of bad rows.
    max_prompt_chars: characters above which a question is a bad row.
    max_reference_chars: characters of the reference, as JSON, above which a
      row is bad.
    verifier_options: keyword arguments of the verifier that replace the set's.
    **set_options: options of the set.

  Raises:
    InputError: an option is wrong, a file is missing or unreadable, or too
      many of its rows are bad.
  """
  options = _all_options(published, set_options)
  base.check_verifier_options(published.verifier, verifier_options or {})
  if "seed" in options:
    options["seed"] = seed
  template_text = _template(published, template)
  shared = {
    "data_dir": data_dir,
    "seed": seed,
    "manual_dir": manual_dir,
    "revision": revision,
  }
  if split not in published.splits:
    raise InputError(
      f"{published.name} is for evaluation: it has no split {split!r}"
    )
  if split == "validation" and validation:
    return base.Chain([_evaluation_set(name, **shared) for name in validation])
  # An evaluation-only set has no train split to keep near-duplicates out of.
  if "train" not in published.splits or not ngram:
    evaluation_names = ()
  else:
    listed = published.against if against is None else tuple(against)
    evaluation_names = tuple(dict.fromkeys((*validation, *listed)))
  config = reader.Config(
    published=published,
    options=options,
    inputs=reader.find(
      published, options, _folder(manual_dir, published.name), revision
    ),
    held_out=validation_share,
    evaluation_sets=tuple(
      _evaluation_set(name, **shared) for name in evaluation_names
    ),
    ngram=ngram,
    overlap_share=overlap_share,
    max_bad_share=max_bad_share,
    max_chars=(max_prompt_chars, max_reference_chars),
    data_dir=data_dir,
  )
  built = builder.prepare(reader.Published, config, data_dir)
  meta = {**published.meta, **(verifier_options or {})}
  return Rows(
    built.as_data_source(split),
    published.name,
    config.name,
    template_text,
    meta,
    _refused(built, split),
  )


def _refused(built: Any, split: str) -> dict[str, int]:
  """Returns the number of rows that a build leaves out, by reason."""
  report = json.loads((epath.Path(built.data_dir) / "report.json").read_text())
  account = report["splits"][split]
  bad = {"bad": account["bad"]} if account["bad"] else {}
  return bad | account["left_out"]


def _all_options(
  published: schema.Set, given: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the given options of a set and the defaults of its others.

  Raises:
    InputError: the set does not have a given option.
  """
  # The hint of an error also names the options that every set has.
  parameters = inspect.signature(rows).parameters.values()
  general = [p.name for p in parameters if p.default is not p.empty]
  for option in given:
    if option not in published.options or option == "seed":
      allowed = [*(set(published.options) - {"seed"}), *general]
      hint = base.nearest(option, allowed)
      raise InputError(f"task {published.name}: no option {option!r}{hint}")
  return {**published.options, **given}


def _template(published: schema.Set, template: str | None) -> str:
  """Returns the text of a template, given by name or as text."""
  if template is None:
    template = next(iter(published.templates))
  if template in published.templates:
    return published.templates[template]
  if "{question}" in template:
    return template
  hint = base.nearest(template, list(published.templates))
  raise InputError(
    f"{published.name}: no template {template!r}, and as a text it lacks"
    f" {{question}}{hint}"
  )


def _folder(manual_dir: str | None, name: str) -> str | None:
  """Returns a set's subfolder of manual_dir if it exists, else manual_dir."""
  if manual_dir is None:
    return None
  subfolder = epath.Path(manual_dir).expanduser() / name
  return str(subfolder) if subfolder.exists() else manual_dir


def _evaluation_set(name: str, **shared: Any) -> "Rows":
  """Returns the validation split of another set."""
  published = getattr(base.resolve(name), "SET", None)
  if published is None:
    raise InputError(
      f"{name} is not a published set, so it cannot be named in against or"
      " validation"
    )
  try:
    return rows(published, "validation", **shared)
  except InputError as error:
    raise InputError(
      f"{error}; the problems of {name} are to be kept out of train: give"
      " its files, or against=[] to keep them in"
    ) from error


class Rows:
  """Rows of a build; prompts are formatted on access.

  Attributes:
    task: name of the task.
    name: name of the build, which changes with its content.
    refused: number of refused rows by reason, without the near-duplicates
      that train leaves out.
  """

  def __init__(
    self,
    source: Any,
    task: str,
    name: str,
    template: str,
    meta: Mapping[str, Any],
    refused: Mapping[str, int],
  ):
    self.refused = dict(refused)
    self.task = task
    self.name = name
    self._source = source
    self._template = template
    self._meta = dict(meta)

  def __len__(self) -> int:
    return len(self._source)

  def question(self, index: int) -> str:
    """Returns a question without the text of the template."""
    return self._source[index]["question"].decode()

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < len(self):
      raise IndexError(index)
    record = self._source[index]
    reference, meta, asks = (
      json.loads(record[key]) for key in ("reference", "meta", "asks")
    )
    prompt = self._template
    # The question is filled in last: it may contain braces.
    asks["question"] = record["question"].decode()
    for name, text in asks.items():
      prompt = prompt.replace(f"{{{name}}}", text)
    shown = tuple(text.decode() for text in record["demonstrations"])
    return base.Row(self.task, prompt, reference, {**meta, **self._meta}, shown)


def reports(published: schema.Set, data_dir: str) -> list[dict[str, Any]]:
  """Returns the reports of all builds of a set, oldest first."""
  top = epath.Path(data_dir).expanduser() / reader.Published.name
  paths = top.glob(f"{published.name}-*/{reader.VERSION}/report.json")
  # The pattern also matches sets whose name continues with "-".
  paths = [
    path
    for path in paths
    if path.parent.parent.name.rpartition("-")[0] == published.name
  ]
  paths = sorted(paths, key=lambda path: path.stat().mtime)
  return [json.loads(path.read_text()) for path in paths]
