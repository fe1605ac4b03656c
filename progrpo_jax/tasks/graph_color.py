"""Graph colouring: give every vertex a colour that no neighbour has.

  full     prompt  Please provide a coloring for this graph such that every
                   vertex is not connected to a vertex of the same color. ...
                   Vertices: [0, 1, 2, 3] Edges: [(0, 3), (1, 2)] ...
           answer  <answer>{"0": 1, "1": 1, "2": 2, "3": 2}</answer>
  compact  prompt  "4/3 0-3 1-2=" (vertices / colours, then the edges)
           answer  "1122" (one digit per vertex)

Compact prompts take up to nine colours.
"""

from collections.abc import Iterator
import json
import random
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import logic
from progrpo_jax.tasks import base, reasoning_gym

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"

_MAX_STEPS = 20_000  # search steps over all demonstrations of a problem


def solve(entry: dict, limit: int, rng: random.Random) -> list[str]:
  """Returns up to `limit` colourings, found by random backtracking."""
  puzzle = entry["metadata"]["puzzle"]
  colourings = {reference(entry)}
  # Each search starts afresh, since consecutive results of one search differ
  # in few vertices. Searches may repeat a colouring, hence four per result.
  for _ in range(4 * limit):
    if len(colourings) >= limit:
      break
    steps = iter(range(_MAX_STEPS // (4 * limit)))
    colouring = next(_colourings(puzzle, rng, steps), None)
    if colouring:
      colourings.add(_dump(colouring))
  colourings = sorted(colourings)  # a set's order changes between processes
  return rng.sample(colourings, min(limit, len(colourings)))


def _colourings(
  puzzle: dict, rng: random.Random, steps: Iterator[int]
) -> Iterator[dict[int, int]]:
  """Yields colourings, vertex -> colour, until the steps are used up."""
  neighbours: dict[int, set[int]] = {v: set() for v in puzzle["vertices"]}
  for u, v in puzzle["edges"]:
    neighbours[u].add(v)
    neighbours[v].add(u)
  colours = puzzle["color_options"]
  # Vertices with many neighbours first: dead ends show early.
  order = sorted(neighbours, key=lambda v: -len(neighbours[v]))
  colouring: dict[int, int] = {}

  def place(index: int) -> Iterator[dict[int, int]]:
    if index == len(order):
      yield dict(colouring)
      return
    vertex = order[index]
    taken = {colouring.get(n) for n in neighbours[vertex]}
    for colour in rng.sample(colours, len(colours)):
      if colour in taken or next(steps, None) is None:
        continue
      colouring[vertex] = colour
      yield from place(index + 1)
      del colouring[vertex]

  return place(0)


def _dump(colouring: dict[Any, int]) -> str:
  """Returns a colouring in the scorer's format, JSON with sorted vertices."""
  ordered = sorted((int(v), c) for v, c in colouring.items())
  return json.dumps({str(v): c for v, c in ordered})


def reference(entry: dict) -> str:
  """Returns the generator's colouring."""
  return _dump(entry["metadata"]["possible_answer"])


def canonical(completion: str, row: base.Row) -> str:
  """Returns the colours, numbered in order of appearance.

  Colourings that differ only by a permutation of the colours become equal.
  """
  metadata = row.meta["metadata"]
  answer = logic.extract(completion, whole=True)
  answer = logic.expand_graph_color(answer, metadata)
  try:
    colouring = json.loads(answer)
    colours = [colouring[str(v)] for v in metadata["puzzle"]["vertices"]]
    numbers: dict[Any, int] = {}
    return " ".join(
      str(numbers.setdefault(c, len(numbers) + 1)) for c in colours
    )
  except (ValueError, KeyError, TypeError, RecursionError):
    return answer


def _prompt(entry: dict) -> str:
  """Returns the compact prompt, such as "4/3 0-3 1-2="."""
  puzzle = entry["metadata"]["puzzle"]
  edges = "".join(f" {u}-{v}" for u, v in puzzle["edges"])
  return f"{len(puzzle['vertices'])}/{puzzle['num_colors']}{edges}="


def _shorten(answer: str, entry: dict) -> str:
  """Returns a colouring as one digit per vertex."""
  del entry
  return "".join(str(c) for c in json.loads(answer).values())


def _check(options: dict[str, Any]) -> None:
  """Raises InputError for more colours than there are digits."""
  if options.get("num_colors", 3) > 9:
    raise InputError("graph_color: the compact template takes up to 9 colours")


_SPEC = reasoning_gym.Spec(
  dataset="graph_color",
  defaults={
    "num_colors": 3,
    "min_num_vertices": 5,
    "max_num_vertices": 8,
    "edge_probability": 0.3,
  },
  keep=("puzzle", "possible_answer"),
  identity=_prompt,
  solve=solve,
  reference=reference,
  compact_prompt=_prompt,
  compact_answer=_shorten,
  check=_check,
)


def load(split: str, **options: Any) -> reasoning_gym.Rows:
  """Returns a split; options of `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "graph_color", split, **options)
