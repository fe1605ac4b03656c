"""Live progress of a run or of other long work.

On a terminal it is a view that redraws itself in place; elsewhere (a log file,
a pipe, CI) it is a plain line now and then, without control codes.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import math
import os
import statistics
import sys
import time
from typing import Any

import rich.console
import rich.live
import rich.markup
import rich.panel
import rich.progress
import rich.progress_bar
import rich.table
import rich.text

from progrpo_jax.devices import hosts
from progrpo_jax.storage import metrics as metrics_lib

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = (
  ("reward", "reward", "{:.3f}"),
  ("correct", "correct", "{:.1%}"),
  ("entropy", "entropy", "{:.3f}"),
  ("kl", "KL", "{:.4f}"),
  ("completions/mean_length", "length", "{:.0f}"),
  ("perf/tokens_per_second", "tokens/s", "{:,.0f}"),
  ("perf/mfu", "MFU", "{:.1%}"),
)
# Verifier failures during a step, shown if not 0: (metric, word).
_FAILED = (
  ("verifier/masked", "masked"),
  ("verifier/timeouts", "timeouts"),
  ("verifier/crashes", "crashes"),
  ("verifier/refused", "refused"),
)
# 1, 0 and 0 in a step that could use its whole batch.
_WHOLE = ("dynamic_sampling/filled_frac", "skipped_updates", "empty_updates")
_STAGES = ("sample", "verify", "score", "update")
_STAGE_STYLES = ("blue", "magenta", "cyan", "green")
# By the number logged as `collapse/level`: word and colour.
_LEVELS = (("ok", "blue"), ("warning", "yellow"), ("collapse", "bold red"))


class _Console(rich.console.Console):
  """A console whose reader may go away, as `head` does: the work goes on."""

  def on_broken_pipe(self) -> None:
    """Replaces rich's method, which ends the process."""
    self.quiet = True
    # Python would fail at its end to flush what is left for the pipe.
    with contextlib.suppress(OSError, ValueError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Mute:
  """The view of every host but the first: it prints messages only."""

  def __init__(self, name: str):
    self._name = name

  def phase(self, name: str) -> None:
    """Shows nothing."""

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Shows nothing."""

  eval = step

  def message(self, text: str) -> None:
    """Prints a line."""
    print(f"{self._name}: {text}", flush=True)


class LiveView:
  """The live view of a run; a context manager.

  The time left is estimated from the steps this view has seen, not from steps
  before the run was resumed.
  """

  def __init__(
    self,
    total_steps: int,
    title: str,
    *,
    console: rich.console.Console | None = None,
    every_s: float = 10.0,
  ):
    """Prepares a view.

    Args:
      total_steps: number of steps of the run.
      title: title of the view.
      console: rich console; None for a new one on stdout.
      every_s: seconds between plain lines where there is no terminal.
    """
    self._total = total_steps
    self._title = title
    self._console = console or _Console()
    self._every_s = every_s
    self._first = None  # the step before the first one this view has seen
    self._step = 0
    self._phase = "starting"
    self._compiled = set()  # phases of which a line said that they compile
    self._metrics = {}
    self._eval = (None, {})
    self._level, self._reason = 0, ""
    self._messages = collections.deque(maxlen=4)
    self._history = collections.defaultdict(
      lambda: collections.deque(maxlen=240)
    )
    self._seconds = collections.deque(maxlen=20)
    self._evaluations = []
    self._live = None
    self._last_line = -math.inf
    self._line_step = None  # step of that line

  def __enter__(self) -> "LiveView":
    self._start = self._phase_start = time.monotonic()
    if self._console.is_terminal:
      self._live = rich.live.Live(
        console=self._console, get_renderable=self._render, refresh_per_second=4
      )
      self._live.start(refresh=True)
    else:
      self._print(f"{self._title}: {self._total} steps")
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is None:
      self.phase("done")
    if self._live:
      self._live.stop()
    elif self._metrics and self._line_step != self._step:
      self._print(self._line())

  def phase(self, name: str) -> None:
    """Shows the phase that runs now, e.g. `view.phase("sample")`.

    Compiling a phase may take minutes: without a terminal, a line says so once.
    """
    self._phase = name
    self._phase_start = time.monotonic()
    if (
      not self._live
      and name.startswith("compiling ")
      and name not in self._compiled
    ):
      self._compiled.add(name)
      self._print(f"{name} …")

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Shows the metrics of a finished step."""
    if self._first is None:
      self._first = step - 1
    self._step = step
    self._metrics = dict(metrics)
    self._count_seconds()
    for name in ("reward", "entropy"):
      value = _number(metrics.get(name))
      if value is not None:
        self._history[name].append(value)
    level = _number(metrics.get("collapse/level"))
    # The last judged level stays through steps that were not judged.
    if level is not None:
      self._level = min(round(level), len(_LEVELS) - 1)
      self._reason = printable(metrics.get("collapse/reason") or "")
    now = time.monotonic()
    if not self._live and now - self._last_line >= self._every_s:
      self._print(self._line())
      self._last_line, self._line_step = now, self._step

  def _count_seconds(self) -> None:
    """Takes the times of the last step, for `_time_left`."""
    step, compiled, evaluated = (
      _number(self._metrics.get(f"timing_s/{name}")) or 0.0
      for name in ("step", "compile", "evaluate")
    )
    # A step that compiles, as the first one, is no measure of the others.
    if compiled:
      return
    if step:
      self._seconds.append(step - evaluated)
    if evaluated:
      self._evaluations.append(evaluated)

  def eval(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Shows the metrics of an evaluation."""
    self._eval = (step, dict(metrics))
    for name, value in _pass_ends(metrics):
      self._history[name].append(value)
    if not self._live:
      self._print(f"evaluation at step {step}: {_pass_text(metrics)}")

  def message(self, text: str) -> None:
    """Adds a message, e.g. "reference reset at step 40"."""
    self._messages.append(printable(text))
    if not self._live:
      self._print(text)

  def _print(self, text: str) -> None:
    # Text from runs may hold markup and control codes: neither is interpreted.
    self._console.print(
      printable(text), markup=False, highlight=False, soft_wrap=True
    )

  def _time_left(self) -> float | None:
    """Seconds until the last step, or None before a step can be measured.

    A step to come takes the median of the last ones that compiled nothing, and
    its share of the evaluations among them.
    """
    if not self._seconds:
      return None
    step = statistics.median(self._seconds)
    if self._evaluations:
      share = len(self._evaluations) / max(self._step - self._first, 1)
      step += share * statistics.median(self._evaluations)
    return step * max(self._total - self._step, 0)

  def _line(self) -> str:
    """Returns the state of the run in one plain line."""
    parts = [f"step {self._step}/{self._total}"]
    for name, label, form in _SHOWN:
      value = _number(self._metrics.get(name))
      if value is not None:
        parts.append(f"{label} {form.format(value)}")
    parts += self._function_texts()
    seconds = _number(self._metrics.get("timing_s/step"))
    if seconds is not None:
      parts.append(f"{seconds:.1f} s/step")
    compiling = _number(self._metrics.get("timing_s/compile"))
    if compiling and compiling >= 1:
      parts.append(f"{compiling:.0f} s compiling")
    parts.append(f"left {duration(self._time_left())}")
    parts += filter(None, (self._failed(), *self._left_out()))
    if self._level:
      parts.append(_LEVELS[self._level][0].upper())
    return "  ".join(parts)

  def _function_texts(self) -> list[str]:
    """Mean and spread of each reward function in the last step, as texts."""
    shown = []
    for name in metrics_lib.functions(self._metrics):
      mean = _number(self._metrics.get(f"rewards/{name}/mean"))
      std = _number(self._metrics.get(f"rewards/{name}/std"))
      if mean is not None and std is not None:
        shown.append(f"{name} {mean:.3f} ± {std:.3f}")
    return shown

  def _functions(self) -> rich.text.Text | list[str]:
    """Returns a row of the reward functions, or [] if there are none."""
    shown = self._function_texts()
    return shown and rich.text.Text(
      f"reward functions  {'  '.join(map(printable, shown))}"
    )

  def _failed(self) -> str:
    """Verifier failures in the last step as a text, "" if there were none."""
    counts = [
      f"{count:.0f} {word}"
      for name, word in _FAILED
      if (count := _number(self._metrics.get(name)))
    ]
    return f"verifier: {', '.join(counts)}" if counts else ""

  def _left_out(self) -> list[str]:
    """Texts on the parts of the last step's batch that were not used."""
    filled, skipped, empty = (
      _number(self._metrics.get(name)) for name in _WHOLE
    )
    parts = []
    if filled is not None and filled < 1:
      parts.append(f"batch {filled:.1%} full")
    if empty:
      parts.append(f"no token to learn from in {empty:.1%} of the updates")
    # Empty updates are among the skipped ones; the rest were not finite.
    if skipped and skipped > (empty or 0):
      parts.append(f"{skipped - (empty or 0):.1%} of the updates not finite")
    return parts

  def _render(self) -> rich.panel.Panel:
    """Returns the whole view as one panel."""
    body = rich.table.Table.grid(padding=(0, 0), expand=True)
    body.add_row(self._header())
    body.add_row("")
    body.add_row(self._numbers())
    # Rows without anything to show take no space.
    rows = (
      self._functions(),
      self._alarm(),
      self._curves(),
      self._stages(),
      self._evaluation(),
    )
    for row in rows:
      if row:
        body.add_row(row)
    for text in filter(None, (self._failed(), *self._left_out())):
      body.add_row(rich.text.Text(text, style="yellow"))
    for text in self._messages:
      body.add_row(rich.text.Text(f"• {text}", style="dim"))
    return rich.panel.Panel(
      body,
      title=rich.text.Text(printable(self._title), style="bold"),
      title_align="left",
      border_style=_LEVELS[self._level][1],
      padding=(0, 1),
    )

  def _header(self) -> rich.table.Table:
    """Returns the progress bar, times and the current phase."""
    grid = rich.table.Table.grid(padding=(0, 2), expand=True)
    # Step and phase keep their width; the bar takes the space that is left.
    for _ in range(2):
      grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    now = time.monotonic()
    grid.add_row(
      rich.text.Text(f"step {self._step}/{self._total}", style="bold"),
      rich.text.Text(
        f"{self._phase} {now - self._phase_start:.0f}s", style="yellow"
      ),
      rich.progress_bar.ProgressBar(
        total=max(self._total, 1), completed=self._step
      ),
      f"{duration(now - self._start)} gone, {duration(self._time_left())} left",
    )
    return grid

  def _numbers(self) -> rich.table.Table | rich.text.Text:
    """Returns the last step's main numbers, names above values."""
    grid = rich.table.Table.grid(padding=(0, 3))
    shown = [
      (label, form.format(value))
      for name, label, form in _SHOWN
      if (value := _number(self._metrics.get(name))) is not None
    ]
    if not shown:
      return rich.text.Text("waiting for the first step", style="dim")
    grid.add_row(*(rich.text.Text(label, style="dim") for label, _ in shown))
    grid.add_row(*(rich.text.Text(text, style="bold") for _, text in shown))
    return grid

  def _alarm(self) -> rich.text.Text | None:
    """Returns the last verdict on the run, or None if all is well."""
    if not self._level:
      return None
    word, style = _LEVELS[self._level]
    return rich.text.Text(f"▲ {word}  {self._reason}".rstrip(), style=style)

  def _curves(self) -> rich.table.Table | None:
    """Returns sparklines of reward, entropy and pass@k, or None.

    pass@k has one point per evaluation, the others one per step.
    """
    grid = rich.table.Table.grid(padding=(0, 1))
    styles = {"reward": "green", "entropy": "cyan"}
    names = [*styles, *(name for name in self._history if name not in styles)]
    for name in names:
      values = self._history[name]
      spread = f"{min(values, default=0):.3f} … {max(values, default=0):.3f}"
      if name not in styles:
        spread = f"{values[0]:.3f} to {values[-1]:.3f}"
      if len(values) > 1:
        grid.add_row(
          rich.text.Text(name, style="dim"),
          rich.text.Text(sparkline(values, 40), styles.get(name, "magenta")),
          rich.text.Text(spread, style="dim"),
        )
    return grid if grid.row_count else None

  def _stages(self) -> rich.text.Text | None:
    """Returns the last step's seconds per stage as one bar, or None."""
    seconds = [
      _number(self._metrics.get(f"timing_s/{stage}")) or 0.0
      for stage in _STAGES
    ]
    if not sum(seconds):
      return None
    # A bar of about 30 characters, then the seconds in the same colours.
    text = rich.text.Text("time    ", style="dim")
    for value, style in zip(seconds, _STAGE_STYLES, strict=True):
      text.append("█" * round(30 * value / sum(seconds)), style=style)
    text.append(" ")
    for stage, value, style in zip(
      _STAGES, seconds, _STAGE_STYLES, strict=True
    ):
      text.append(f" {stage} {value:.2f}s", style=style)
    compiling = _number(self._metrics.get("timing_s/compile"))
    if compiling and compiling >= 1:
      text.append(f"  {compiling:.0f}s of it compiling", style="yellow")
    return text

  def _evaluation(self) -> rich.text.Text | None:
    """Returns a row of the last evaluation, or None."""
    step, values = self._eval
    if step is None:
      return None
    text = rich.text.Text(f"eval at step {step}  ", style="dim")
    return text.append(_pass_text(values), style="bold")


@contextlib.contextmanager
def progress(
  title: str,
  total: int,
  *,
  console: rich.console.Console | None = None,
  every_s: float = 10.0,
) -> Iterator[Callable[..., None]]:
  """Yields a function `tick(n=1, note="")` that reports finished parts.

  A progress bar on a terminal, plain lines elsewhere, nothing on hosts other
  than the first.

  Args:
    title: title of the bar.
    total: number of parts.
    console: rich console; None for a new one on stdout.
    every_s: seconds between plain lines.
  """
  if not hosts.is_first():
    yield lambda n=1, note="": None
    return
  console = console or _Console()
  if console.is_terminal:
    with _bar(console) as bar:
      task = bar.add_task(printable(title), total=total, note="")
      yield lambda n=1, note="": bar.update(
        task, advance=n, note=printable(note)
      )
    return
  yield _Lines(printable(title), total, console, every_s)


def _bar(console: rich.console.Console) -> rich.progress.Progress:
  """Returns an empty progress bar with columns for title, count and note."""
  return rich.progress.Progress(
    rich.progress.TextColumn("{task.description}", markup=False),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeRemainingColumn(),
    rich.progress.TextColumn("{task.fields[note]}", markup=False),
    console=console,
  )


class _Lines:
  """Progress as plain lines: the first, the last and some between."""

  def __init__(
    self, title: str, total: int, console: rich.console.Console, every_s: float
  ):
    self._title, self._total = title, total
    self._console, self._every_s = console, every_s
    self._done, self._last_line = 0, -math.inf

  def __call__(self, n: int = 1, note: str = "") -> None:
    self._done += n
    now = time.monotonic()
    last = self._done >= self._total
    if last or now - self._last_line >= self._every_s:
      self._last_line = now
      text = f"{self._title} {self._done}/{self._total} {printable(note)}"
      self._console.print(
        text.rstrip(), markup=False, highlight=False, soft_wrap=True
      )


def sparkline(values: Iterable[float], width: int = 40) -> str:
  """Returns values as a row of at most `width` block characters."""
  values = list(values)
  # Each character is the mean of `size` neighbours.
  size = math.ceil(len(values) / width)
  bins = [values[i : i + size] for i in range(0, len(values), size or 1)]
  means = [sum(b) / len(b) for b in bins]
  if not means:
    return ""
  low, high = min(means), max(means)
  scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
  return "".join(_BARS[round((value - low) * scale)] for value in means)


def duration(seconds: float | None) -> str:
  """Returns seconds as text: `42 s`, `3 min 05 s`, `2 h 07 min`."""
  if seconds is None:
    return "?"
  seconds = round(seconds)
  if seconds < 60:
    return f"{seconds} s"
  minutes, seconds = divmod(seconds, 60)
  if minutes < 60:
    return f"{minutes} min {seconds:02d} s"
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes:02d} min"


def printable(text: object) -> str:
  """Makes control codes visible, so that text cannot steer a terminal."""
  return "".join(
    c if c.isprintable() or c == " " else _visible(c) for c in str(text)
  )


def _visible(character: str) -> str:
  """Returns U+2400 + code for C0 codes, U+FFFD for other unprintable ones."""
  code = ord(character)
  return chr(0x2400 + code) if code < 32 else "\ufffd"


def _number(value: Any) -> float | None:
  """Returns a value as a finite float; None if absent, text or not finite."""
  if value is None or isinstance(value, str):
    return None
  value = float(value)
  return value if math.isfinite(value) else None


def _pass_text(values: Mapping[str, Any]) -> str:
  """Returns an evaluation as text: `countdown pass@1 0.412  pass@8 0.733`.

  With the number of problems if it was logged, and with bounds in place of a
  pass@k for which too few problems have enough samples.
  """
  numbers = {name: _number(value) for name, value in values.items()}
  texts = collections.defaultdict(dict)  # {group: {k: text}}
  for name in numbers:
    group, _, rest = name.rpartition("/pass@")
    k, _, end = rest.partition("/")
    if k.isdigit() and end in ("", "at_least"):
      if shown := _pass_value(numbers, f"{group}/pass@{k}"):
        texts[group][int(k)] = f"pass@{k} {shown}"
  return "   ".join(
    f"{group.removeprefix('eval/')} "
    + "  ".join(text for _, text in sorted(texts[group].items()))
    + _problems_text(numbers, group)
    for group in texts
  )


def _pass_ends(values: Mapping[str, Any]) -> list[tuple[str, float]]:
  """Returns [("pass@k", value)] at the lowest and a high k of the first set.

  The high k is at most half of the samples, as in the regimes of a comparison:
  above it, pass@k is nearly whether any sample is right.
  """
  measured = {}  # {set: {k: value}}
  for name, value in values.items():
    group, _, k = name.rpartition("/pass@")
    if k.isdigit() and (number := _number(value)) is not None:
      measured.setdefault(group, {})[int(k)] = number
  for group, by_k in measured.items():
    samples = _number(values.get(f"{group}/num_samples")) or 2 * max(by_k)
    ks = [k for k in by_k if 2 * k <= samples] or [min(by_k)]
    return [(f"pass@{k}", by_k[k]) for k in sorted({min(ks), max(ks)})]
  return []


def _pass_value(numbers: Mapping[str, float | None], name: str) -> str:
  """Returns a pass@k or its bounds as text, "" if there is neither.

  With its number of problems where that is smaller than the number tried.
  """
  least, most = numbers.get(f"{name}/at_least"), numbers.get(f"{name}/at_most")
  problems = numbers.get(f"{name}/num_problems")
  if None not in (least, most):
    return f"{least:.3f} to {most:.3f} (not enough samples)"
  if numbers.get(name) is None:
    return ""
  tried = numbers.get(f"{name.rpartition('/pass@')[0]}/num_problems")
  few = problems is not None and tried is not None and problems < tried
  return f"{numbers[name]:.3f}" + (f" ({problems:.0f} problems)" if few else "")


def _problems_text(numbers: Mapping[str, float | None], group: str) -> str:
  """Returns the numbers of problems tried and left out as text."""
  tried = numbers.get(f"{group}/num_problems")
  left_out = numbers.get(f"{group}/left_out")
  text = "" if tried is None else f"  of {tried:.0f} problems"
  return text + (f", {left_out:.0f} left out" if left_out else "")
