"""The options and the rows of a published data set.

A set's own module says what it is (`sets.Set`), `reader` builds it. Files
come from `manual_dir` where that is given, else from the hub through TFDS's
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
    **own: Any,
) -> base.Source:
  """Returns a split of a set, building its data where that is not done.

  Args:
    published: the set.
    split: "train" or "validation".
    data_dir: where builds are kept.
    seed: decides what the set leaves to chance, the order of options.
    manual_dir: a folder with the files, in place of a download, or with a
      folder of the set's name that holds them; sets that are named in
      `against` and `validation` are looked for there likewise.
    revision: of the hub's repository.
    template: a name of the set's templates, or a text with {question} in it.
    validation: evaluation sets that stand in for the set's own validation.
    validation_share: of the questions, about how many are held out where the
      set has no validation of its own; which ones depends on their text.
    against: evaluation sets whose near-duplicates train leaves out, beside
      those of `validation` and of the set itself; the set's list if None.
    ngram: words of an n-gram, see `overlap`; 0 compares nothing.
    overlap_share: what makes a near-duplicate.
    max_bad_share: the largest share of bad rows.
    max_prompt_chars: a longer question is a bad row.
    max_reference_chars: and so is a longer reference, as JSON.
    verifier_options: changes of the verifier's arguments.
    **own: options of the set.
  """
  options = _own_options(published, own)
  if "seed" in options:
    options["seed"] = seed
  shape = _template(published, template)
  shared = {
      "data_dir": data_dir, "seed": seed, "manual_dir": manual_dir,
      "revision": revision}
  if split not in published.splits:
    raise InputError(
        f"{published.name} is for evaluation: it has no split {split!r}")
  if split == "validation" and validation:
    return base.Chain([_other(name, **shared) for name in validation])
  if "train" not in published.splits or not ngram:
    others = ()
  else:
    listed = published.against if against is None else tuple(against)
    others = tuple(dict.fromkeys((*validation, *listed)))
  config = reader.Config(
      published=published,
      options=options,
      found=reader.find(
          published, options, _folder(manual_dir, published.name), revision),
      held_out=validation_share,
      others=tuple(_other(name, **shared) for name in others),
      ngram=ngram,
      overlap_share=overlap_share,
      max_bad_share=max_bad_share,
      max_chars=(max_prompt_chars, max_reference_chars),
      data_dir=data_dir,
  )
  built = builder.prepare(reader.Published, config, data_dir)
  meta = {**published.meta, **(verifier_options or {})}
  return Rows(
      built.as_data_source(split), published.name, config.name, shape, meta,
      _refused(built, split))


def _refused(built: Any, split: str) -> dict[str, int]:
  """Returns what the report of a build says of rows that are not in it."""
  report = json.loads((epath.Path(built.data_dir) / "report.json").read_text())
  account = report["splits"][split]
  bad = {"bad": account["bad"]} if account["bad"] else {}
  return bad | account["left_out"]


def _own_options(
    published: schema.Set, own: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns all options of a set, or raises InputError."""
  parameters = inspect.signature(rows).parameters.values()
  general = [p.name for p in parameters if p.default is not p.empty]
  for option in own:
    if option not in published.options or option == "seed":
      known = [*(set(published.options) - {"seed"}), *general]
      hint = base.nearest(option, known)
      raise InputError(f"task {published.name}: no option {option!r}{hint}")
  return {**published.options, **own}


def _template(published: schema.Set, template: str | None) -> str:
  """Returns the text of a template."""
  if template is None:
    template = next(iter(published.templates))
  if template in published.templates:
    return published.templates[template]
  if "{question}" in template:
    return template
  hint = base.nearest(template, list(published.templates))
  raise InputError(
      f"{published.name}: no template {template!r}, nor does it have"
      f" {{question}} in it{hint}"
  )


def _folder(manual_dir: str | None, name: str) -> str | None:
  """Returns the folder with a set's files: its own, if there is one."""
  if manual_dir is None:
    return None
  own = epath.Path(manual_dir).expanduser() / name
  return str(own) if own.exists() else manual_dir


def _other(name: str, **shared: Any) -> "Rows":
  """Returns the problems of an evaluation set, named by another set."""
  published = getattr(base.resolve(name), "SET", None)
  if published is None:
    raise InputError(f"{name} is no published set that one can leave out")
  try:
    return rows(published, "validation", **shared)
  except InputError as error:
    raise InputError(
        f"{error}; {name} is needed to keep its problems out of train: give"
        " its files, or against=[] to leave nothing out"
    ) from error


class Rows:
  """Rows of a build, formatted as they are read.

  Attributes:
    task: the task's name.
    name: the build's name, which changes with what is in it.
    refused: why rows of its files are not in it -> how many; near-duplicates
      that train leaves out are no part of this.
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
    """Returns a question without what a template adds."""
    return self._source[index]["question"].decode()

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < len(self):
      raise IndexError(index)
    record = self._source[index]
    reference, meta, asks = (
        json.loads(record[key]) for key in ("reference", "meta", "asks"))
    prompt = self._template
    # The question comes last: it may hold braces of its own.
    asks["question"] = record["question"].decode()
    for name, text in asks.items():
      prompt = prompt.replace(f"{{{name}}}", text)
    shown = tuple(text.decode() for text in record["demonstrations"])
    return base.Row(
        self.task, prompt, reference, {**meta, **self._meta}, shown)


def reports(published: schema.Set, data_dir: str) -> list[dict[str, Any]]:
  """Returns the reports of the builds of a set, the oldest first."""
  top = epath.Path(data_dir).expanduser() / reader.Published.name
  found = top.glob(f"{published.name}-*/{reader.VERSION}/report.json")
  found = [path for path in found if _is_of(path, published)]
  found = sorted(found, key=lambda path: path.stat().mtime)
  return [json.loads(path.read_text()) for path in found]


def _is_of(path: epath.Path, published: schema.Set) -> bool:
  """Says whether a report is of a set, and not of one of a longer name."""
  return path.parent.parent.name.rpartition("-")[0] == published.name
