"""CodeContests: problems of Codeforces, AtCoder, CodeChef and others.

  prompt  Vipul is a hardworking super-hero who maintains the bracket ratio
          of all the strings in the world. ... The program reads from
          standard input and writes to standard output. ...
  answer  ```python
          for _ in range(int(input())): ...
          ```

Li et al. 2022 (AlphaCode), as the hub's deepmind/code_contests has it:
columns description, public_tests, private_tests, generated_tests (each with
lists input and output), solutions (with lists language and solution; 3 is
Python 3) and cf_rating, the rating of a problem of Codeforces, 0 where it has
none, by which an evaluation rates the policy. The published test is
validation. Problems that show an image, as
"<image>" in their text, are left out. Option `generated` adds the tests that
were made by mutation. The time limits of single tests are not used: what
counts is `time_limit_s` for all tests together.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER
_PYTHON3 = 3


def _python(solutions: Any) -> list[str]:
  """Returns the solutions in Python 3."""
  if not isinstance(solutions, Mapping):
    return []
  pairs = zip(solutions.get("language") or (), solutions.get("solution") or ())
  return [code for language, code in pairs if language == _PYTHON3]


def _rating(record: dict[str, Any]) -> dict[str, int]:
  """Returns the problem's rating by its name, nothing where it has none."""
  value = record.get("cf_rating") or 0
  if isinstance(value, bool) or not isinstance(value, int) or value < 0:
    raise schema.BadRow(f"cf_rating {value!r:.50} is no rating")
  return {"rating": value} if value else {}


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Joins the kinds of tests."""
  question = schema.text(record, "description")
  if "<image>" in question:
    raise schema.LeftOut("it shows an image")
  kinds = ["public_tests", "private_tests"]
  kinds += ["generated_tests"] if options["generated"] else []
  joined: dict[str, list] = {"input": [], "output": []}
  for kind in kinds:
    tests = record.get(kind) or {}
    if not isinstance(tests, Mapping):
      raise schema.BadRow(f"{kind} is no record of inputs and outputs")
    for side, values in joined.items():
      values += tests.get(side) or []
  made = programs.problem(
      question, joined, "tests", solutions=_python(record.get("solutions")),
      max_tests=options["max_tests"])
  made.meta.update(_rating(record))
  return made


SET = schema.Set(
    name="code_contests",
    domain="code",
    repo="deepmind/code_contests",
    verifier=VERIFIER,
    files=lambda _: (
        schema.File("train", "data/train-*.parquet"),
        schema.File("validation", "data/test-*.parquet")),
    columns=("description", "public_tests"),
    row=_row,
    templates=texts.CODE,
    meta=programs.META,
    options={"generated": True, "max_tests": 20},
    against=programs.AGAINST,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
