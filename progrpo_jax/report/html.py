"""One self-contained HTML page of a run, or of several runs side by side.

The page asks the network for nothing: style, script, figures and rollouts are
inside it, and its content policy forbids the rest. What a model wrote is
hostile until shown otherwise: it enters the page only as escaped JSON, which
the script turns into text, never into markup.
"""

import base64
import hashlib
import html
import importlib.resources
import itertools
import json
import os
import re
import sys
import time
import urllib.parse

from etils import epath

from progrpo_jax import places
from progrpo_jax.report import comparison, figures, live, tables
from progrpo_jax.storage import metrics

# What the rollout browser holds at most.
MAX_STEPS = 10
MAX_PROMPTS = 24
MAX_COMPLETIONS = 32
MAX_CHARACTERS = 4000
_MAX_EVALUATIONS = 40

# Ends of the names that stand beside a measure and say what it rests on.
_BESIDE = ("/low", "/high", "/num_problems", "/at_least", "/at_most")

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
    figures.reward,
    "Mean reward of the completions sampled for training. Thin: each step; "
    "thick: running mean. Where a method has several seeds: their mean and "
    "range.",
  ),
  (
    figures.rewards_by_task,
    "Mean reward of each task's completions. A task with few prompts a step is "
    "noisy; one that was not drawn in a step has no value there.",
  ),
  (
    figures.rewards_by_function,
    "Mean of what each reward function says of its task's completions, before "
    "it is weighted; a completion of which it has no opinion does not count.",
  ),
  (
    figures.correct,
    "Share of the completions that the verifier accepts, before any shaping.",
  ),
  (
    figures.entropy,
    "Mean entropy of the policy where it sampled. A fall to near zero means "
    "that exploration has ended.",
  ),
  (
    figures.kl,
    "Distance of the policy from its reference; a dashed line marks each step "
    "that ended with the reference set to the policy.",
  ),
  (
    figures.pass_at_k,
    "Unbiased pass@k of the last evaluation; the band is the 95% interval.",
  ),
  (
    figures.pass_at_k_over_steps,
    "pass@k of each evaluation. Falling at large k while pass@1 rises means "
    "that the policy narrows.",
  ),
  (
    figures.arm,
    "Above: prompt confidence minus answer confidence, mean and standard "
    "deviation over completions. Below: share of groups that ARM "
    "re-weights, and of advantages whose sign it changes.",
  ),
  (
    figures.completion_length,
    "Tokens per completion, and the share that reached the length limit.",
  ),
  (
    figures.clip_ratio,
    "Share of tokens whose probability ratio left the trust region.",
  ),
  (
    figures.timing,
    "Seconds of a step by stage. A bar is the median of its steps; where runs "
    "are compared, of all steps of a run, as in the table. The first step "
    "compiles.",
  ),
)
_EXPLORATION_FIGURES = (
  (
    figures.entropy_quantiles,
    "Above: median entropy of the sampled tokens, and the band from the 10% to "
    "the 90% quantile; what is left to explore sits at its upper edge. Below: "
    "share of tokens that are all but certain.",
  ),
  (
    figures.covariance,
    "Above: mean covariance of log-probability and advantage over tokens; the "
    "entropy falls while it is positive. Below: share of tokens whose "
    "covariance is large, which make up most of it.",
  ),
  (
    figures.reward_spread,
    "Standard deviation of the rewards within a group, the only thing that "
    "teaches: mean over the groups, and the band from the 10% to the 90% "
    "quantile.",
  ),
  (
    figures.kl_share,
    "Norm of the KL's gradient, as a share of the sum of both norms. Near one "
    "half the reference weighs as much as the rewards; a dashed line marks "
    "each reset.",
  ),
)
# By the number that `collapse/level` logs: word, colour of its shade.
_LEVELS = (
  ("ok", None),
  ("warning", figures.PALETTE[4]),
  ("collapse", figures.PALETTE[1]),
)
_MAX_ALARMS = 5


def write_report(workdir, path=None):
  """Writes the page of one run and returns its path.

  `path` is `report.html` in the workdir unless given.
  """
  run = metrics.load(workdir, damage=[])
  path = epath.Path(path) if path else run.path / "report.html"
  groups = {run.name: [run]}
  stretches = _stretches(run)
  spans = [
    (first, last, _LEVELS[level][1])
    for level, first, last, _ in stretches
    if level
  ]
  rollouts = _rollouts(run)
  parts = (
    ("figures", "Training", _figures(_RUN_FIGURES, groups, spans=spans)),
    (
      "exploration",
      "Exploration",
      _figures(_EXPLORATION_FIGURES, groups, name="e", spans=spans),
    ),
    ("resets", "Reference resets", _resets(run)),
    ("evaluations", "Evaluations", _evaluations(run)),
    ("rollouts", "Rollouts", _browser(rollouts)),
    ("config", "Configuration", _config(run.config)),
  )
  _write(
    path,
    title=run.name,
    header=_header(
      "run report",
      run.name,
      _facts(run) + _banner(stretches) + _damage([run]),
      _numbers(run),
      parts,
    ),
    parts=parts,
    data=rollouts,
  )
  say_damage([run])
  return path


def write_comparison(runs, path, base=None, dataset=None):
  """Writes the page of several runs side by side and returns its path.

  `runs` maps a label to its workdirs, the seeds of that method; `base` is the
  evaluation of the policy that all started from: a workdir or a file of it.
  """
  path = epath.Path(path)
  groups = {
    label: [metrics.load(workdir, damage=[]) for workdir in workdirs]
    for label, workdirs in runs.items()
  }
  base = comparison.load_base(base) if base else None
  path = write_loaded_comparison(groups, path, base=base, dataset=dataset)
  say_damage([run for runs in groups.values() for run in runs])
  return path


def write_loaded_comparison(groups, path, *, base=None, dataset=None):
  """`write_comparison` of runs that are loaded already."""
  path = epath.Path(path)
  drawn = (
    (
      lambda groups: figures.pass_at_k(groups, base=base, dataset=dataset),
      "Unbiased pass@k of the last evaluation; the bands are 95% intervals.",
    ),
    (
      lambda groups: figures.pass_at_k_over_steps(groups, dataset=dataset),
      "pass@k of each evaluation.",
    ),
    (
      lambda groups: figures.pass1_histogram(groups, base, dataset),
      "How many problems of the last evaluation are solved in each tenth of "
      "their samples; a bin holds its lower end, the last one also 100%.",
    ),
    *((f, c) for f, c in _RUN_FIGURES if not f.__name__.startswith("pass_at")),
  )
  parts = (
    ("table", "Side by side", _comparison_tables(groups, base, dataset)),
    ("boundary", "Boundary", _boundary(groups, base, dataset)),
    ("figures", "Curves", _figures(drawn, groups)),
    (
      "exploration",
      "Exploration",
      _figures(_EXPLORATION_FIGURES, groups, name="e"),
    ),
    ("runs", "Runs", _links(groups, path)),
  )
  count = sum(map(len, groups.values()))
  facts = f"<p class='note'>{count} runs, {len(groups)} methods</p>"
  facts += _damage([run for runs in groups.values() for run in runs])
  _write(
    path,
    title="Comparison",
    header=_header("comparison", " · ".join(groups), facts, "", parts),
    parts=parts,
  )
  return path


def text(value):
  """Any text as HTML: escaped, and without characters that HTML forbids."""
  clean = "".join(
    c if c in "\n\t" or c.isprintable() else live.printable(c)
    for c in str(value)
  )
  return html.escape(clean)


def embed(value):
  """JSON that cannot end the <script> element that holds it."""
  coded = json.dumps(metrics.plain(value), separators=(",", ":"))
  return coded.replace("<", "\\u003c")


def _resource(name):
  folder = importlib.resources.files("progrpo_jax.report")
  return (folder / name).read_text(encoding="utf-8")


def _write(path, *, title, header, parts, data=None):
  """Fills the template once, so that no filled-in text is filled again."""
  script = _resource("page.js") if data and data["groups"] else ""
  policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
  scripts = ""
  if script:
    script = f"\n{script}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
    policy += f"; script-src 'sha256-{digest.decode()}'"
    scripts = (
      '<script type="application/json" id="rollout-data">'
      f"{embed(data)}</script>\n<script>{script}</script>"
    )
  body = "\n".join(
    f'<section id="{name}"><h2>{heading}</h2>\n{content}</section>'
    for name, heading, content in parts
    if content
  )
  fields = {
    "policy": policy,
    "title": text(title),
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
  path.write_text(page, encoding="utf-8")


def _header(kind, name, facts, numbers, parts):
  links = "".join(
    f'<li><a href="#{anchor}">{heading}</a></li>'
    for anchor, heading, content in parts
    if content
  )
  return (
    f'<header class="page"><p class="eyebrow">{kind}</p>'
    f"<h1>{text(name)}</h1>\n{facts}\n{numbers}</header>\n"
    f'<nav aria-label="Parts of the page"><ul>{links}</ul></nav>'
  )


def _facts(run):
  """What kind of run it is, from its config, as chips."""
  flat = _flatten(run.config)
  known = [(label, flat[key]) for key, label in _FACTS if flat.get(key)]
  chips = "".join(
    f"<li><span>{text(label)}</span> <b>{text(value)}</b></li>"
    for label, value in known
  )
  return f'<ul class="chips" aria-label="The run">{chips}</ul>' if chips else ""


def _numbers(run):
  """The key numbers as cards."""
  cards = []
  if found := comparison.ending(run, "reward"):
    note = f"from {found[0]:.3f}; means of ten steps"
    cards.append(("final reward", f"{found[1]:.3f}", note))
  cards += _pass_cards(run)
  if found := comparison.ending(run, "entropy"):
    cards.append(("entropy", f"{found[1]:.3f}", f"from {found[0]:.3f}"))
  resets = figures.reset_steps(run)
  if any("ref_reset/reset" in row for row in run.metrics):
    note = f"last at step {resets[-1]}" if resets else "of the reference"
    cards.append(("resets", str(len(resets)), note))
  last = run.metrics[-1]
  if isinstance(last.get("num_tokens"), int | float):
    tokens = _count(last["num_tokens"])
    cards.append(("tokens", tokens, f"in {last['step']} steps"))
  _, seconds = metrics.series(run.metrics, "timing_s/step")
  if len(seconds):
    note = f"median {comparison.median_seconds([run]):.2f} s a step"
    cards.append(("time", live.duration(seconds.sum()), note))
  items = "".join(
    f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
    for name, value, note in cards
  )
  return f'<dl class="numbers">{items}</dl>'


def _pass_cards(run):
  dataset = comparison.default_set({run.name: [run]})
  if dataset is None:
    return []
  entry = comparison.summarise({run.name: [run]}, dataset=dataset)[run.name]
  first = run.evals[0]
  cards = []
  for k in comparison.shown_ks([run], dataset):
    value, note = tables.pass_cell(entry, str(k))
    start = first.get(f"eval/{dataset}/pass@{k}")
    if start is not None and first["step"] != entry["step"]:
      note += f"; from {start:.3f}"
    cards.append((f"pass@{k}", value, note))
  return cards


def _figures(drawn, groups, name="f", spans=()):
  """The figures that have something to show, each with its explanation.

  `name` keeps the ids of one part from those of another; `spans` of steps are
  shaded.
  """
  result = []
  for index, (draw, caption) in enumerate(drawn):
    figure = draw(groups)
    if figure is not None:
      figures.shade(figure, spans)
      label = html.escape(figure.axes[0].get_title(loc="left"))
      svg = figures.to_svg(figure, f"{name}{index}", label)
      result.append(
        f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"
      )
  return f'<div class="figures">{"".join(result)}</div>' if result else ""


def _stretches(run):
  """[(level, first step, last step, reason)] of the steps that were judged."""
  judged = [
    row
    for row in run.metrics
    if isinstance(row.get("collapse/level"), int | float)
  ]
  result = []
  for level, rows in itertools.groupby(judged, key=_level):
    rows = list(rows)
    reasons = [row.get("collapse/reason") for row in rows]
    last = next((reason for reason in reversed(reasons) if reason), "")
    result.append((level, rows[0]["step"], rows[-1]["step"], last))
  return result


def _level(row):
  return min(max(round(row["collapse/level"]), 0), len(_LEVELS) - 1)


def _banner(stretches):
  """What was wrong with the run, where anything was, latest first."""
  alarms = [stretch for stretch in reversed(stretches) if stretch[0]]
  if not alarms:
    return ""
  end, first, last, _ = stretches[-1]
  word, color = _LEVELS[end or max(level for level, *_ in alarms)]
  title = (
    f"{word.capitalize()} at the last step, {last}, since step {first}"
    if end
    else f"Flagged on the way, but not at the last step, {last}"
  )
  items = "".join(
    f"<li><b>{_LEVELS[level][0]}</b>, {_from_to(first, last)}"
    f"{': ' if reason else ''}{text(reason)}</li>"
    for level, first, last, reason in alarms[:_MAX_ALARMS]
  )
  rest = len(alarms) - _MAX_ALARMS
  more = f"<li>and {rest} earlier</li>" if rest > 0 else ""
  style = (
    f"border: 1px solid {_css(color)}; border-left-width: .5rem; "
    "border-radius: 10px; background: var(--card); padding: .7rem 1rem; "
    "margin: 1rem 0 0"
  )
  return (
    f'<div class="alarm" role="note" style="{style}"><b>{title}</b>'
    f'<ul style="margin: .3rem 0 0; padding-left: 1.2rem">{items}{more}</ul>'
    '<p class="note" style="margin: .3rem 0 0">These steps are shaded in the '
    "figures.</p></div>"
  )


def _damage(runs):
  """What of the files could not be read, and is therefore not on the page."""
  lines = [line for run in runs for line in run.damage or ()]
  if not lines:
    return ""
  items = "".join(f"<li>{text(line)}</li>" for line in lines[:_MAX_ALARMS])
  rest = len(lines) - _MAX_ALARMS
  more = f"<li>and {rest} more</li>" if rest > 0 else ""
  return (
    '<div class="alarm" role="note"><b>Files are damaged; what could not be '
    f"read is left out</b><ul>{items}{more}</ul></div>"
  )


def say_damage(runs):
  """Prints what of the files of runs could not be read and was left out."""
  for line in [line for run in runs for line in run.damage or ()]:
    print(f"damaged, left out: {live.printable(line)}", file=sys.stderr)


def _from_to(first, last):
  return f"step {first}" if first == last else f"steps {first} to {last}"


def _resets(run):
  """A table of the resets of the reference, with what led to each."""
  rows = {row["step"]: row for row in run.metrics}
  steps = figures.reset_steps(run)
  if not steps:
    return ""
  before = dict(zip(steps, [0, *steps], strict=False))
  shown = [steps[i] for i in _spread(len(steps), _MAX_EVALUATIONS)]
  columns = (
    ("kl", "KL before", 4),
    ("kl_share", "its part in the gradient", 3),
    ("entropy", "entropy", 3),
    ("reward", "reward", 3),
  )
  columns = [c for c in columns if any(c[0] in rows[s] for s in shown)]
  told = any(rows[step].get("ref_reset/reason") for step in shown)
  body = "".join(
    f'<tr><th scope="row">step {step}</th><td>{step - before[step]}</td>'
    + "".join(_number_cell(rows[step].get(n), d) for n, _, d in columns)
    + (f"<td>{text(rows[step].get('ref_reset/reason', ''))}</td>" * told)
    + "</tr>"
    for step in shown
  )
  names = ["after steps", *(label for _, label, _ in columns)]
  names += ["because"] * told
  head = "".join(f'<th scope="col">{name}</th>' for name in names)
  left_out = len(steps) - len(shown)
  note = f" {left_out} resets between them left out." if left_out else ""
  return (
    '<p class="note">Where the reference became the policy; the numbers are '
    f"those of the step that ended with it.{note}</p>"
    '<div class="scroll"><table><thead><tr><th scope="col"></th>'
    f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
  )


def _number_cell(value, digits):
  if not isinstance(value, int | float):
    return "<td>–</td>"
  return f"<td>{value:.{digits}f}</td>"


def _evaluations(run):
  """A table for every evaluation set, a row a step."""
  return "".join(_evaluation_table(run, name) for name in comparison.sets(run))


def _evaluation_table(run, dataset):
  prefix = f"eval/{dataset}/"
  rows = [r for r in run.evals if any(key.startswith(prefix) for key in r)]
  # A long run: first and last stay, the others are thinned out evenly.
  chosen = [rows[i] for i in _spread(len(rows), _MAX_EVALUATIONS)]
  columns = [(f"pass@{k}", f"pass@{k}") for k in comparison.ks(run, dataset)]
  columns += [
    (name, text(name.replace("_", " "))) for name in _extras(rows, prefix)
  ]
  head = "".join(f'<th scope="col">{label}</th>' for _, label in columns)
  body = "".join(
    f'<tr><th scope="row">step {row["step"]}</th>'
    + "".join(_evaluation_cell(row, prefix + name) for name, _ in columns)
    + "</tr>"
    for row in chosen
  )
  last = rows[-1]
  size = (
    f"{last[f'{prefix}num_problems']:.0f} problems, "
    f"{last[f'{prefix}num_samples']:.0f} samples each. "
    if last.get(f"{prefix}num_problems") and last.get(f"{prefix}num_samples")
    else ""
  )
  if last.get(f"{prefix}left_out"):
    size += f"{tables.left_out_note(last[f'{prefix}left_out'])}. ".capitalize()
  left_out = len(rows) - len(chosen)
  note = f"{left_out} evaluations between them left out." if left_out else ""
  return (
    f'<h3>{text(dataset)}</h3><p class="note">{size}{note}</p>'
    f'<div class="scroll"><table><thead><tr><th scope="col"></th>{head}</tr>'
    f"</thead><tbody>{body}</tbody></table></div>"
  )


def _extras(rows, prefix):
  """What else was measured on the set besides pass@k, in the files' order."""
  keys = dict.fromkeys(key for row in rows for key in row)
  names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
  return [
    name
    for name in names
    if not name.startswith(("pass@", "num_", "left_out"))
    and not name.endswith(_BESIDE)
  ]


def _evaluation_cell(row, name):
  value = row.get(name)
  least, most = row.get(f"{name}/at_least"), row.get(f"{name}/at_most")
  if None not in (least, most):
    return (
      f"<td>{least:.3f} to {most:.3f}<small>not enough samples: "
      f"{row[f'{name}/num_problems']:.0f} problems</small></td>"
    )
  if value is None:
    return "<td>–</td>"
  if isinstance(value, str):
    return f"<td>{text(value)}</td>"
  low, high = row.get(f"{name}/low"), row.get(f"{name}/high")
  interval = "" if None in (low, high) else f"{low:.3f} to {high:.3f}"
  digits = 3 if abs(value) < 10 else 1
  problems = row.get(f"{name}/num_problems")
  if problems is not None and problems != row.get(_tried(name)):
    interval += f", {problems:.0f} problems"
  small = f"<small>{interval}</small>" if interval else ""
  return f"<td>{value:.{digits}f}{small}</td>"


def _tried(name):
  """The key of the problems that were tried, given one of pass@k."""
  return f"{name.partition('/pass@')[0]}/num_problems"


def _comparison_tables(groups, base, dataset):
  """A table for each evaluation set, the asked or first one on top."""
  names = [dataset] if dataset else []
  for run in [run for runs in groups.values() for run in runs]:
    names += comparison.sets(run)
  names = list(dict.fromkeys(names)) or [None]
  return "".join(
    _comparison_table(groups, base, name, len(names) > 1) for name in names
  )


def _comparison_table(groups, base, dataset, headed):
  summary = comparison.summarise(groups, base=base, dataset=dataset)
  runs = [run for runs in groups.values() for run in runs]
  ks = [str(k) for k in comparison.shown_ks(runs, dataset)]
  columns = (
    ("entropy", "entropy", 3),
    ("distinct_correct", "distinct correct", 2),
    ("mean_length", "length", 0),
    ("reward", "final reward", 3),
    ("seconds_per_step", "s/step", 2),
  )
  columns = [
    column
    for column in columns
    if any(entry[column[0]] is not None for entry in summary.values())
  ]
  best = {
    k: max(
      (e["pass@k"][k][0] for e in summary.values() if k in e["pass@k"]),
      default=None,
    )
    for k in ks
  }
  colors = dict(zip(groups, range(len(groups)), strict=True))
  rows = []
  for label, entry in summary.items():
    cells = [_interval_cell(entry, k, best[k]) for k in ks]
    cells += [
      f"<td>{'–' if entry[n] is None else format(entry[n], f'.{d}f')}</td>"
      for n, _, d in columns
    ]
    index = colors.get(label)
    color = _color(index)
    seeds = f" <small>{entry['seeds']} seeds</small>"
    rows.append(
      f'<tr><th scope="row"><span class="swatch" style="background:{color}">'
      f"</span>{text(label)}{seeds if entry['seeds'] > 1 else ''}</th>"
      f"{''.join(cells)}</tr>"
    )
  names = [f"pass@{k}" for k in ks] + [label for _, label, _ in columns]
  head = "".join(f'<th scope="col">{name}</th>' for name in names)
  kinds = "; ".join(
    f"{label}: {entry['interval']}"
    for label, entry in summary.items()
    if entry["interval"]
  )
  heading = f"<h3>{text(dataset)}</h3>" if headed else ""
  where = f"Last evaluation on {text(dataset)}. " if dataset else ""
  if problems := tables.problems_note(summary):
    where += f"{text(problems)}. "
  return (
    f'{heading}<p class="note">{where}The small numbers are 95% intervals '
    f"({text(kinds) or 'none measured'}); the best mean is bold.</p>"
    '<div class="scroll"><table><thead><tr><th scope="col">method</th>'
    f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
  )


def _boundary(groups, base, dataset):
  """What the samples tell of what the policies can reach, table by table."""
  summary = comparison.analyse(groups, base=base, dataset=dataset)
  return "".join(map(_boundary_table, tables.of(summary)))


def _boundary_table(table):
  head = "".join(f'<th scope="col">{text(name)}</th>' for name in table.columns)
  rows = []
  for cells in table.rows:
    name, *rest = (
      text(shown) + (f"<small>{text(small)}</small>" if small else "")
      for shown, small in cells
    )
    values = "".join(f"<td>{cell}</td>" for cell in rest)
    rows.append(f'<tr><th scope="row">{name}</th>{values}</tr>')
  return (
    f'<h3 id="boundary-{table.name}">{text(table.title)}</h3>'
    f'<p class="note">{text(table.note)}</p>'
    f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
    f"<tbody>{''.join(rows)}</tbody></table></div>"
  )


def _interval_cell(entry, k, best):
  value, small = tables.pass_cell(entry, k)
  is_best = k in entry["pass@k"] and entry["pass@k"][k][0] == best
  name = ' class="best"' if is_best else ""
  small = f"<small>{text(small)}</small>" if small else ""
  return f"<td{name}>{value}{small}</td>"


def _color(index):
  """The colour of a label as the figures have it."""
  if index is None:
    return f"var(--base, {figures.BASE})"
  return _css(figures.PALETTE[index % len(figures.PALETTE)])


def _css(color):
  """A colour of the palette, which dark pages replace."""
  return f"var(--c{figures.PALETTE.index(color)}, {color})"


def _links(groups, path):
  """Where each run lies, with a link to its own page where it has one."""
  rows = []
  for label, runs in groups.items():
    for run in runs:
      page = run.path / "report.html"
      name = text(os.fspath(run.path))
      both_here = not places.is_remote(path) and not places.is_remote(page)
      if both_here and page.exists():
        relative = os.path.relpath(page, path.parent)
        link = html.escape(urllib.parse.quote(relative.replace(os.sep, "/")))
        name = f'<a href="{link}">{name}</a>'
      last = run.metrics[-1]["step"]
      rows.append(
        f'<tr><th scope="row">{text(label)}</th><td>{name}</td>'
        f"<td>{last} steps</td><td>{_state(run)}</td></tr>"
      )
  return (
    '<div class="scroll"><table class="words"><thead><tr><th>method</th>'
    "<th>workdir</th><th>length</th><th>state</th></tr></thead>"
    f"<tbody>{''.join(rows)}</tbody></table></div>"
  )


def _state(run):
  """How a run stood at its last step."""
  stretches = _stretches(run)
  if not stretches:
    return "–"
  level, first, _, reason = stretches[-1]
  if not level:
    return "ok"
  return f"{_LEVELS[level][0]} since step {first}: {text(reason)}"


def _config(config):
  """The resolved config, and first what differs from its defaults."""
  config = dict(config)
  defaults = config.pop("defaults", None)
  defaults = _flatten(defaults) if isinstance(defaults, dict) else {}
  flat = _flatten(config)
  if not flat:
    return '<p class="note">The workdir holds no config.json.</p>'
  changed = {
    key: value
    for key, value in flat.items()
    if defaults and (key not in defaults or defaults[key] != value)
  }
  top = ""
  if defaults:
    rows = "".join(
      f"<tr><th>{text(key)}</th><td>{text(json.dumps(value))}</td>"
      f"<td>{text(json.dumps(defaults.get(key)))}</td></tr>"
      for key, value in changed.items()
    )
    top = (
      '<div class="scroll"><table class="words"><thead><tr><th>changed</th>'
      f"<th>value</th><th>default</th></tr></thead><tbody>{rows}</tbody>"
      "</table></div>"
    )
  rows = "".join(
    f"<tr><th>{text(key)}</th><td>{text(json.dumps(value))}</td></tr>"
    for key, value in flat.items()
  )
  return (
    f"{top}<details><summary>All {len(flat)} settings</summary>"
    f'<div class="scroll"><table class="words"><tbody>{rows}</tbody></table>'
    "</div></details>"
  )


def _flatten(config, prefix=""):
  """{"group.key": value} of a nested config."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat |= _flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def _rollouts(run):
  """What the rollout browser shows, within the limits, and what it leaves."""
  groups, left_out = [], []
  sources = (
    ("training", run.rollout_steps(), run.rollouts),
    ("evaluation", run.eval_sample_steps(), run.eval_samples),
  )
  for source, steps, read in sources:
    chosen = [steps[i] for i in _spread(len(steps), MAX_STEPS)]
    if len(chosen) < len(steps):
      left_out.append(f"{len(chosen)} of {len(steps)} steps of {source}")
    records = {step: read(step) for step in chosen}
    seen = _times_seen(records.values())
    for step, rows in records.items():
      if len(rows) > MAX_PROMPTS:
        left_out.append(
          f"{MAX_PROMPTS} of {len(rows)} prompts of {source} step {step}"
        )
      # Prompts that other steps have too come first: they can be compared.
      rows = sorted(rows, key=lambda row: -seen[_key(row)])[:MAX_PROMPTS]
      rows = [_row(row) for row in rows]
      if rows:
        groups.append({"source": source, "step": step, "rows": rows})
  return {"groups": groups, "left_out": left_out}


def _spread(count, limit):
  """At most `limit` indices below `count`, evenly, with first and last."""
  if count <= limit:
    return list(range(count))
  return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def _times_seen(steps):
  seen = {}
  for rows in steps:
    for key in {_key(row) for row in rows}:
      seen[key] = seen.get(key, 0) + 1
  return seen


def _key(row):
  """A name of the prompt that is the same at every step."""
  told = json.dumps([row.get("prompt"), row.get("reference")], default=str)
  return hashlib.sha256(told.encode()).hexdigest()[:12]


def _verdict(completion):
  """Right, wrong, or unknown where the verifier failed."""
  if completion.get("status", "ok") != "ok":
    return "unknown"
  return "correct" if completion.get("correct") else "wrong"


def _row(row):
  completions = row["completions"]
  # Counts are of all samples; of many only the first are shown.
  verdicts = [_verdict(completion) for completion in completions]
  letters = _answer_letters(completions)
  reference = row.get("reference")
  if not isinstance(reference, str):
    reference = "" if reference is None else json.dumps(reference)
  return {
    "key": _key(row),
    "task": str(row.get("task") or row.get("set") or ""),
    "prompt": _short(row.get("prompt", "")),
    "reference": _short(reference),
    "c_prompt": row.get("c_prompt"),
    "samples": len(completions),
    "correct": verdicts.count("correct"),
    "unknown": verdicts.count("unknown"),
    "distinct": len(set(letters.values())),
    "completions": [
      {
        **{
          key: completion.get(key)
          for key in (
            "reward",
            "advantage",
            "base_advantage",
            "c_answer",
            "length",
            "finished",
          )
        },
        "verdict": verdicts[index],
        "text": _short(completion.get("text", "")),
        "answer": letters.get(index),
      }
      for index, completion in enumerate(completions[:MAX_COMPLETIONS])
    ],
  }


def _short(value):
  value = str(value)
  if len(value) <= MAX_CHARACTERS:
    return value
  left = len(value) - MAX_CHARACTERS
  return f"{value[:MAX_CHARACTERS]}\n[… {left} characters left out]"


def _answer_letters(completions):
  """{index: letter} of the correct completions; the same answer, the same one.

  The answer is what stands in the last <answer> or \\boxed{}, else everything.
  """
  letters, found = {}, {}
  for index, completion in enumerate(completions):
    if _verdict(completion) == "correct":
      answer = _answer(str(completion.get("text", "")))
      number = found.setdefault(answer, len(found))
      letters[index] = chr(65 + number) if number < 26 else f"Z{number}"
  return letters


def _answer(completion):
  tagged = re.findall(r"<answer>(.*?)</answer>", completion, flags=re.DOTALL)
  boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", completion)
  answer = (tagged or boxed or [completion])[-1]
  return re.sub(r"\s+", "", answer)


def _browser(rollouts):
  """The frame that the page's script fills."""
  if not rollouts["groups"]:
    return '<p class="note">The workdir holds no rollouts.</p>'
  left_out = rollouts["left_out"]
  note = (
    f" To keep the page small it holds {text('; '.join(left_out[:4]))}"
    f"{' and more such cuts' if len(left_out) > 4 else ''}; the workdir has "
    "them all."
    if left_out
    else ""
  )
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
    "The bars show the advantage, grey as the reward gives it and coloured as "
    "trained on; letters name the correct answers that are written "
    "differently, of which the tables above count as one what the task takes "
    "for equal. Counts are of all samples whose verdict is known. Arrow keys "
    f"walk through the prompts.{note}</p>"
    f'<div class="controls">{controls}<label class="grow">search prompts and '
    'completions<input type="search" id="search"></label></div>'
    '<p class="note" id="count" aria-live="polite"></p>'
    '<div class="browser"><ul class="prompts" id="prompts" '
    'aria-label="Prompts"></ul><div id="detail"></div></div>'
    "<noscript><p>The rollout browser needs JavaScript.</p></noscript>"
  )


def _options(everything, *names):
  rest = "".join(f'<option value="{n}">{n}</option>' for n in names)
  return f'<option value="">{everything}</option>{rest}'


def _count(number):
  """12.3 k, 4.56 M: a count in three digits."""
  for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.3g} {unit}"
  return f"{number:.0f}"
