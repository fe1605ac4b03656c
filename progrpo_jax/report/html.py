"""One self-contained HTML page of a run, or of several runs side by side.

The page makes no network requests: style, script, figures and rollouts are
inside it, and its content policy forbids everything else. What a model wrote
is treated as hostile: it enters the page only as escaped JSON, which the script
turns into text, never into markup.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
import hashlib
import html
import importlib.resources
import os
import re
import statistics
import sys
import time
from typing import Any

from etils import epath
import matplotlib.figure

from progrpo_jax import places
from progrpo_jax.report import (
  answers,
  comparison,
  curves,
  live,
  markup,
  passk,
  readings,
  rollouts,
  sections,
  tables,
)
from progrpo_jax.report import svg as svg_lib
from progrpo_jax.storage import metrics, outputs

# (key of the config, its label in the header).
_FACTS = (
  ("method", "method"),
  ("algo.advantage", "advantage"),
  ("algo.loss", "loss"),
  ("algo.arm.alpha", "ARM α"),
  ("algo.num_generations", "group size"),
  ("algo.beta", "β"),
  ("model.init_from", "from"),
  ("seed", "seed"),
)
_RUN_FIGURES = (
  (
    curves.reward,
    "Mean reward of the completions sampled for training. Thin: each step; "
    "thick: running mean. Where a method has several seeds: their mean and "
    "range.",
  ),
  (
    curves.rewards_by_task,
    "Mean reward of each task's completions. A task with few prompts per step "
    "is noisy; a task that was not drawn in a step has no value there.",
  ),
  (
    curves.rewards_by_function,
    "Mean value of each reward function over its task's completions, before "
    "weighting. Completions for which it returned no value do not count.",
  ),
  (
    curves.correct,
    "Share of completions the verifier accepts, before any reward shaping.",
  ),
  (
    curves.entropy,
    "Mean entropy of the policy at the sampled tokens. A fall to near zero "
    "means that exploration has ended.",
  ),
  (
    curves.kl,
    "KL divergence of the policy from its reference. A dashed line marks each "
    "step after which the reference was set to the policy.",
  ),
  (
    passk.pass_at_k,
    "Unbiased pass@k of the last evaluation; the band is the 95% interval.",
  ),
  (
    passk.pass_at_k_over_steps,
    "pass@k of each evaluation. If it falls at large k while pass@1 rises, the "
    "policy is losing diversity.",
  ),
  (
    curves.arm,
    "Above: prompt confidence minus answer confidence, mean and standard "
    "deviation over completions. Below: share of groups ARM re-weights, and "
    "share of advantages whose sign it changes.",
  ),
  (
    curves.completion_length,
    "Tokens per completion, and the share that reached the length limit.",
  ),
  (
    curves.clip_ratio,
    "Share of tokens whose probability ratio left the trust region.",
  ),
  (
    curves.timing,
    "Seconds per step by stage. Each bar is a median over its steps; in a "
    "comparison, over all steps of a run, as in the table. The first step "
    "includes compilation.",
  ),
)
_EXPLORATION_FIGURES = (
  (
    curves.entropy_quantiles,
    "Above: median entropy of the sampled tokens, with the band from the 10% "
    "to the 90% quantile; its upper edge shows how much exploration is left. "
    "Below: share of tokens that are nearly certain.",
  ),
  (
    curves.covariance,
    "Above: mean covariance of log-probability and advantage over tokens; the "
    "entropy falls while it is positive. Below: share of tokens with a large "
    "covariance, which make up most of the mean.",
  ),
  (
    curves.reward_spread,
    "Standard deviation of the rewards within a group, without which the "
    "group has no gradient: mean over groups, with the band from the 10% to "
    "the 90% quantile.",
  ),
  (
    curves.kl_share,
    "Norm of the KL's gradient as a share of the sum of both gradients' norms. "
    "At one half the KL weighs as much as the rewards. A dashed line marks "
    "each reset.",
  ),
)


def write_report(
  workdir: str | os.PathLike, path: str | os.PathLike | None = None
) -> epath.Path:
  """Writes the page of one run.

  Args:
    workdir: workdir of the run.
    path: file to write; None for `report.html` in the workdir.

  Returns:
    The path of the page.

  Raises:
    InputError: the workdir is missing or holds no metrics, or the file belongs
      to a run.
  """
  run = metrics.load(workdir, damage=[])
  path = epath.Path(path) if path else run.path / "report.html"
  outputs.check(path)
  groups = {run.name: [run]}
  # Steps judged a warning or a collapse are shaded in every figure over steps.
  judged = sections.stretches(run)
  spans = [
    (first, last, sections.LEVELS[level][1])
    for level, first, last, _ in judged
    if level
  ]
  data = rollouts.collect(run)
  parts = (
    ("figures", "Training", _figures(_RUN_FIGURES, groups, spans=spans)),
    (
      "exploration",
      "Exploration",
      _figures(_EXPLORATION_FIGURES, groups, name="e", spans=spans),
    ),
    ("resets", "Reference resets", sections.resets(run)),
    ("evaluations", "Evaluations", sections.evaluations(run)),
    ("rollouts", "Rollouts", rollouts.browser(data)),
    ("config", "Configuration", sections.config(run.config)),
  )
  _write(
    path,
    title=run.name,
    header=_header(
      "run report",
      run.name,
      _facts(run) + sections.banner(judged) + sections.damage([run]),
      _numbers(run),
      parts,
    ),
    parts=parts,
    data={"rollouts": data} if data["groups"] else {},
  )
  say_damage([run])
  return path


def write_comparison(
  groups: readings.RunsByLabel,
  path: str | os.PathLike,
  *,
  base: metrics.Record | None = None,
  dataset: str | None = None,
) -> epath.Path:
  """Writes the page of several loaded runs side by side.

  Args:
    groups: {label: loaded runs}, the seeds of one method under its label.
    path: file to write.
    base: the base policy as a loaded run, or None.
    dataset: evaluation set to show; None for the first one.

  Returns:
    The path of the page.

  Raises:
    InputError: the file belongs to a run.
  """
  path = epath.Path(path)
  outputs.check(path)
  summary = comparison.analyse(groups, base=base, dataset=dataset)
  pairs = answers.collect(groups, base=base, dataset=dataset)
  # The base and the set are bound here; other figures need neither.
  first = (
    (
      lambda groups: passk.pass_at_k(groups, base=base, dataset=dataset),
      "Unbiased pass@k of the last evaluation; the bands are 95% intervals.",
    ),
    (
      lambda groups: passk.pass_at_k_over_steps(groups, dataset=dataset),
      "pass@k of each evaluation.",
    ),
    *((f, c) for f, c in _RUN_FIGURES if f is curves.entropy),
  )
  bins = (
    (
      lambda groups: passk.pass1_histogram(groups, base, dataset),
      "Number of problems by pass@1 in the last evaluation; a bin includes its "
      "lower end, the last bin also 100%.",
    ),
  )
  shown = (passk.pass_at_k, passk.pass_at_k_over_steps, curves.entropy)
  rest = [(f, c) for f, c in _RUN_FIGURES if f not in shown]
  parts = (
    ("glance", "pass@k and entropy", _figures(first, groups, name="g")),
    ("answers", "Answers side by side", answers.browser(pairs)),
    (
      "table",
      "Side by side",
      sections.comparison_tables(groups, base, dataset),
    ),
    (
      "boundary",
      "Bounds and bins",
      sections.boundary(summary, _figures(bins, groups, name="b")),
    ),
    ("figures", "Curves", _figures(rest, groups)),
    (
      "exploration",
      "Exploration",
      _figures(_EXPLORATION_FIGURES, groups, name="e"),
    ),
    ("runs", "Runs", sections.links(groups, path)),
  )
  count = sum(map(len, groups.values()))
  facts = f"<p class='note'>{count} runs, {len(groups)} methods</p>"
  facts += sections.damage([run for runs in groups.values() for run in runs])
  _write(
    path,
    title="Comparison",
    header=_header(
      "comparison",
      " · ".join(groups),
      facts,
      sections.verdict_box(summary),
      parts,
    ),
    parts=parts,
    data={"answers": pairs} if pairs["rows"] else {},
  )
  return path


def _resource(name: str) -> str:
  folder = importlib.resources.files("progrpo_jax.report")
  return (folder / name).read_text(encoding="utf-8")


def _write(
  path: epath.Path,
  *,
  title: str,
  header: str,
  parts: Sequence[tuple[str, str, str]],
  data: Mapping[str, Any] | None = None,
) -> None:
  """Fills the page's template and writes the page.

  `data` maps the name of a part of the script to its data.

  One pass over the template: a filled-in text that looks like a field stays
  as it is.
  """
  # The content policy runs this one script and no other, by its hash. Each
  # part of it has a scope of its own.
  parts_of_script = [_resource("page.js"), f"{{\n{_resource('curves.js')}}}\n"]
  scripts = ""
  for name, content in (data or {}).items():
    parts_of_script.append(f"{{\n{_resource(f'{name}.js')}}}\n")
    scripts += (
      f'<script type="application/json" id="{name}-data">'
      f"{markup.embed(content)}</script>\n"
    )
  script = "\n" + "".join(parts_of_script)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
  policy = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    f"script-src 'sha256-{digest.decode()}'"
  )
  scripts += f"<script>{script}</script>"
  body = "\n".join(
    f'<section id="{name}"><h2>{heading}</h2>\n{content}</section>'
    for name, heading, content in parts
    if content
  )
  fields = {
    "policy": policy,
    "title": markup.text(title),
    "style": _resource("page.css"),
    "header": header,
    "body": body,
    "footer": f"Written by progrpo_jax, {time.strftime('%Y-%m-%d %H:%M')}.",
    "scripts": scripts,
  }
  page = re.sub(
    r"\{\{(\w+)\}\}", lambda match: fields[match[1]], _resource("page.html")
  )
  places.make_directory(path.parent)
  places.write(path, page)


def _header(
  kind: str,
  name: str,
  facts: str,
  numbers: str,
  parts: Sequence[tuple[str, str, str]],
) -> str:
  """Returns the title, facts and key numbers, and links to the sections."""
  links = "".join(
    f'<li><a href="#{anchor}">{heading}</a></li>'
    for anchor, heading, content in parts
    if content
  )
  return (
    f'<header class="page"><p class="eyebrow">{kind}</p>'
    f"<h1>{markup.text(name)}</h1>\n{facts}\n{numbers}</header>\n"
    f'<nav aria-label="Parts of the page"><ul>{links}</ul></nav>'
  )


def _facts(run: metrics.Record) -> str:
  """Returns the main settings of a run as chips."""
  flat = sections.flatten(run.config)
  facts = [(label, flat[key]) for key, label in _FACTS if flat.get(key)]
  chips = "".join(
    f"<li><span>{markup.text(label)}</span> <b>{markup.text(value)}</b></li>"
    for label, value in facts
  )
  return f'<ul class="chips" aria-label="The run">{chips}</ul>' if chips else ""


def _numbers(run: metrics.Record) -> str:
  """Returns the key numbers of a run as cards."""
  cards = []  # (name, value, small print)
  if ends := readings.ending(run, "reward"):
    note = f"from {ends[0]:.3f}; means of ten steps"
    cards.append(("final reward", f"{ends[1]:.3f}", note))
  cards += _pass_cards(run)
  if ends := readings.ending(run, "entropy"):
    cards.append(("entropy", f"{ends[1]:.3f}", f"from {ends[0]:.3f}"))
  resets = curves.reset_steps(run)
  if any("ref_reset/reset" in row for row in run.metrics):
    note = f"last at step {resets[-1]}" if resets else "of the reference"
    cards.append(("resets", str(len(resets)), note))
  last = run.metrics[-1]
  if isinstance(last.get("num_tokens"), int | float):
    tokens = _count(last["num_tokens"])
    cards.append(("tokens", tokens, f"in {last['step']} steps"))
  _, seconds = metrics.series(run.metrics, "timing_s/step")
  if len(seconds):
    note = f"median {readings.median_seconds([run]):.2f} s a step"
    cards.append(("time", live.duration(seconds.sum()), note))
  _, rates = metrics.series(run.metrics, "perf/tokens_per_second")
  _, shares = metrics.series(run.metrics, "perf/mfu")
  if len(rates):
    rate = f"{statistics.median(rates):,.0f}"
    note = "median of steps"
    if len(shares):
      note += f", MFU {statistics.median(shares):.1%}"
    cards.append(("tokens a second", rate, note))
  items = "".join(
    f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
    for name, value, note in cards
  )
  return f'<dl class="numbers">{items}</dl>'


def _pass_cards(run: metrics.Record) -> list[tuple[str, str, str]]:
  """Returns cards of pass@k in the last evaluation of the first set."""
  dataset = readings.default_set({run.name: [run]})
  if dataset is None:
    return []
  entry = comparison.summarise({run.name: [run]}, dataset=dataset)[run.name]
  first = run.evals[0]
  cards = []
  for k in readings.shown_ks([run], dataset):
    value, note = tables.pass_cell(entry, str(k))
    start = first.get(f"eval/{dataset}/pass@{k}")
    if start is not None and first["step"] != entry["step"]:
      note += f"; from {start:.3f}"
    cards.append((f"pass@{k}", value, note))
  return cards


def _figures(
  drawn: Iterable[
    tuple[
      Callable[[readings.RunsByLabel], matplotlib.figure.Figure | None], str
    ]
  ],
  groups: readings.RunsByLabel,
  name: str = "f",
  spans: Sequence[tuple[int, int, str]] = (),
) -> str:
  """Returns the figures that have data, each with its caption.

  `name` keeps ids in the SVG unique between sections; `spans` are the steps to
  shade.
  """
  result = []
  for index, (draw, caption) in enumerate(drawn):
    figure = draw(groups)
    if figure is not None:
      curves.shade(figure, spans)
      label = html.escape(figure.axes[0].get_title(loc="left"))
      svg = svg_lib.to_svg(figure, f"{name}{index}", label)
      result.append(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>")
  return f'<div class="figures">{"".join(result)}</div>' if result else ""


def say_damage(runs: Sequence[metrics.Record]) -> None:
  """Prints the parts of the runs' files that were unreadable, to stderr."""
  for line in sections.damage_lines(runs):
    print(f"damaged, left out: {live.printable(line)}", file=sys.stderr)


def _count(number: float) -> str:
  """Returns a count in three digits: 12.3 k, 4.56 M."""
  for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.3g} {unit}"
  return f"{number:.0f}"
