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

_MAX_STEPS = 20_000  # of the search, over all demonstrations of a problem


def solve(entry: dict, limit: int, rng: random.Random) -> list[str]:
  """Returns up to `limit` colourings, found by backtracking at random."""
  puzzle = entry["metadata"]["puzzle"]
  found = {reference(entry)}
  for _ in range(4 * limit):
    if len(found) >= limit:
      break
    steps = iter(range(_MAX_STEPS // (4 * limit)))
    colouring = next(_colourings(puzzle, rng, steps), None)
    if colouring:
      found.add(_dump(colouring))
  found = sorted(found)
  return rng.sample(found, min(limit, len(found)))


def _colourings(
    puzzle: dict, rng: random.Random, steps: Iterator[int]
) -> Iterator[dict[int, int]]:
  """Yields colourings in a random order until the steps are used up."""
  neighbours: dict[int, set[int]] = {v: set() for v in puzzle["vertices"]}
  for u, v in puzzle["edges"]:
    neighbours[u].add(v)
    neighbours[v].add(u)
  colours = puzzle["color_options"]
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
  """Writes a colouring in the scorer's format."""
  ordered = sorted((int(v), c) for v, c in colouring.items())
  return json.dumps({str(v): c for v, c in ordered})


def reference(entry: dict) -> str:
  """Returns the generator's own colouring."""
  return _dump(entry["metadata"]["possible_answer"])


def canonical(completion: str, row: base.Row) -> str:
  """Returns the colouring with the colours renamed in order of appearance."""
  metadata = row.meta["metadata"]
  answer = logic.extract(completion, whole=True)
  answer = logic.expand_graph_color(answer, metadata)
  try:
    colouring = json.loads(answer)
    colours = [colouring[str(v)] for v in metadata["puzzle"]["vertices"]]
    names: dict[Any, int] = {}
    return " ".join(str(names.setdefault(c, len(names) + 1)) for c in colours)
  except (ValueError, KeyError, TypeError, RecursionError):
    return answer


def _prompt(entry: dict) -> str:
  """Writes "4/3 0-3 1-2="."""
  puzzle = entry["metadata"]["puzzle"]
  edges = "".join(f" {u}-{v}" for u, v in puzzle["edges"])
  return f"{len(puzzle['vertices'])}/{puzzle['num_colors']}{edges}="


def _shorten(answer: str, entry: dict) -> str:
  """Writes a colouring as one digit per vertex."""
  del entry
  return "".join(str(c) for c in json.loads(answer).values())


def _check(options: dict[str, Any]) -> None:
  """Refuses more colours than there are digits."""
  if options.get("num_colors", 3) > 9:
    raise InputError("graph_color: the compact template takes 9 colours")


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
  """Returns a split; options as in `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "graph_color", split, **options)
