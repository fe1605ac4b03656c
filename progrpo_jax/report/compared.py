"""A comparison of runs as an object, which a notebook shows as it is."""

from collections.abc import Iterable, Mapping, Sequence
import os
from typing import Any

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.report import (
  comparison,
  html,
  readings,
  sections,
  tables,
  verdict,
)
from progrpo_jax.storage import metrics, outputs


class Comparison:
  """Several runs side by side.

  A notebook shows it as its verdict and its tables.

  Attributes:
    groups: {label: loaded runs}, the seeds of one method under its label.
    base: loaded evaluation of the base policy, or None.
    dataset: evaluation set; None for the first one.
    summary: {label: entry}, see `comparison.analyse`.
    verdict: paired differences of pass@k in words, see `verdict.Verdict`.
  """

  def __init__(
    self,
    workdirs: Sequence[str | os.PathLike] | Mapping[str, Any],
    *,
    labels: Sequence[str] | None = None,
    base: str | os.PathLike | metrics.Record | None = None,
    dataset: str | None = None,
  ):
    """Loads the runs and compares them.

    Args:
      workdirs: runs or their workdirs; or {label: one, or several, which
        count as seeds of one method}.
      labels: a name for each workdir, the same for seeds of one method; None
        for the directories' names.
      base: workdir or JSON file of the base policy's evaluation, or the
        record of a run, such as `load_run(workdir).record_until(0)`.
      dataset: evaluation set; None for the first one.

    Raises:
      InputError: numbers of labels and workdirs differ, a run is twice under
        one label or cannot be read, or no run has the dataset.
    """
    if isinstance(workdirs, Mapping):
      pairs = [
        (label, place)
        for label, places_ in workdirs.items()
        for place in _several(places_)
      ]
    else:
      workdirs = _several(workdirs)
      pairs = list(zip(_names(workdirs, labels), workdirs, strict=True))
    if not pairs:
      raise errors.InputError("there are no workdirs to compare")
    _check_different(pairs)
    self.groups: dict[str, list[metrics.Record]] = {}
    for label, place in pairs:
      self.groups.setdefault(label, []).append(metrics.load(place, damage=[]))
    if base and not isinstance(base, metrics.Record):
      base = readings.load_base(places.argument("base", base))
    self.base = base or None
    self.dataset = dataset
    self.summary = comparison.analyse(
      self.groups, base=self.base, dataset=dataset
    )
    self.verdict = verdict.of(self.summary)

  @property
  def tables(self) -> list[tables.Table]:
    """Bounds, paired differences, regimes and more, see `report.tables`."""
    return tables.of(self.summary)

  @property
  def runs(self) -> list[metrics.Record]:
    """All runs, in the order of their labels."""
    return sum(self.groups.values(), [])

  def write_page(self, path: str | os.PathLike) -> epath.Path:
    """Writes the comparison as one HTML page; returns its path.

    Raises:
      InputError: the file belongs to a run.
    """
    return html.write_comparison(
      self.groups, path, base=self.base, dataset=self.dataset
    )

  def write_json(self, path: str | os.PathLike) -> epath.Path:
    """Writes entries with their methods' sentences; returns the path.

    Raises:
      InputError: the file belongs to a run.
    """
    outputs.check(path)
    path = epath.Path(path)
    places.make_directory(path.parent)
    entries = {
      label: {**entry, "verdict": verdict.of_method(label, entry)}
      for label, entry in self.summary.items()
    }
    places.write_json(path, metrics.plain(entries))
    return path

  def __repr__(self) -> str:
    lines = [self.verdict.headline, *self.verdict.more, self.verdict.limits]
    return "\n".join(filter(None, lines))

  def _repr_html_(self) -> str:
    """Returns the opening, the tables and the folded tables of the page."""
    return (
      sections.verdict_box(self.summary)
      + sections.comparison_tables(self.groups, self.base, self.dataset)
      + sections.boundary(self.summary, "")
    )


def _check_different(pairs: Iterable[tuple[str, str]]) -> None:
  """Refuses a run that would count as two seeds of a method."""
  seen = set()
  for label, place in pairs:
    where = place.rstrip("/")
    if not places.is_remote(place):
      where = os.path.realpath(place)
    if (label, where) in seen:
      raise errors.InputError(
        f"{place} is twice under the label {label!r}: the runs of a label are "
        "its seeds, each another run"
      )
    seen.add((label, where))


def _several(places_: Any) -> list[str]:
  """Returns one place or several as a list of texts."""
  if isinstance(places_, str | os.PathLike):
    places_ = [places_]
  if not isinstance(places_, Iterable):
    raise errors.InputError(
      f"workdirs = {places_!r:.100}: must be runs, or their workdirs"
    )
  return [places.argument("workdirs", place) for place in places_]


def _names(
  workdirs: Sequence[str], labels: Sequence[str] | None
) -> Sequence[str]:
  """Returns a label for each workdir."""
  if labels is None:
    names = [os.path.basename(os.path.normpath(path)) for path in workdirs]
    # Equal names by default (a/seed0, b/seed0) do not mean one method.
    if len(set(names)) < len(names):
      names = [os.fspath(epath.Path(path)) for path in workdirs]
    return names
  is_list = isinstance(labels, Iterable) and not isinstance(labels, str)
  if not is_list or not all(isinstance(name, str) for name in labels):
    raise errors.InputError(
      f"labels = {labels!r:.100}: must be a list of texts"
    )
  names = [name.strip() for name in labels]
  if len(names) != len(workdirs) or not all(names):
    raise errors.InputError(
      f"--labels has {len(names)} names for {len(workdirs)} workdirs: "
      f"{','.join(labels)}"
    )
  return names
