import random

from progrpo_jax.rewards import logic
from progrpo_jax.tasks import base, graph_color

PUZZLE = {
  "vertices": [0, 1, 2, 3],
  "edges": [[0, 1], [1, 2], [2, 3]],
  "num_colors": 3,
  "color_options": [1, 2, 3],
}
METADATA = {
  "puzzle": PUZZLE,
  "possible_answer": {"0": 1, "1": 2, "2": 1, "3": 2},
}


def test_solutions_are_right_and_distinct():
  texts = graph_color.solve({"metadata": METADATA}, 6, random.Random(0))
  assert len(set(texts)) == 6
  for text in texts:
    assert logic.verdict("graph_color", text, "", METADATA) == 1.0


def test_canonical_form_ignores_the_names_of_colours():
  row = base.Row("graph_color", "", "", {"metadata": METADATA})
  one = base.canonical("1212", row)
  assert one == base.canonical("3131", row)
  assert one == base.canonical('{"0": 2, "1": 1, "2": 2, "3": 1}', row)
  assert one != base.canonical("1213", row)
  assert base.canonical("what?", row) == "what?"
