"""Compares the verifier of mathematics with Math-Verify on a common set.

The set is math_pairs.jsonl and math_forms.jsonl, whose verdicts are right by
test_math.py. Every row on which Math-Verify says something else stands in
math_verify_differences.jsonl with a reason, in which "here" is the verifier of
this project and "there" is Math-Verify, and with a judgement: its verdict here
is "right", or "arguable" where a careful reader could decide either way. From
the project's root:

  python -m tests.rewards.beside_math_verify

prints the rows that are missing there and those that have gone, in about
four minutes.
"""

import json
import pathlib

from math_verify import parse, verify

HERE = pathlib.Path(__file__).resolve().parent
_LIMIT_S = 6
SETS = ("math_pairs.jsonl", "math_forms.jsonl")


def read(name):
  """Returns the rows of a file beside this one."""
  lines = (HERE / name).read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]


def common_set():
  """Returns (kind, reference, completion, right verdict) of all rows."""
  return [
    (
      row["kind"],
      row["reference"],
      row["completion"],
      bool(row.get("expected", row.get("correct"))),
    )
    for name in SETS
    for row in read(name)
  ]


def math_verify(reference, completion):
  """Returns Math-Verify's verdict, as its documentation calls it."""
  # It wants LaTeX between signs; of a bare one it takes the last number.
  gold, answer = (
    parse(text, parsing_timeout=_LIMIT_S)
    for text in (f"${reference}$", completion)
  )
  if not gold:
    gold = parse(reference, parsing_timeout=_LIMIT_S)
  return bool(verify(gold, answer, timeout_seconds=_LIMIT_S))


def differences(rows):
  """Yields the rows on which Math-Verify says something else."""
  for kind, reference, completion, right in rows:
    if math_verify(reference, completion) != right:
      yield kind, reference, completion, right


def main():
  listed = {
    (r["reference"], r["completion"])
    for r in read("math_verify_differences.jsonl")
  }
  now = {
    (reference, completion)
    for _, reference, completion, _ in differences(common_set())
  }
  for name, rows in (("missing", now - listed), ("gone", listed - now)):
    for reference, completion in sorted(rows):
      print(name, json.dumps([reference, completion], ensure_ascii=False))


if __name__ == "__main__":
  main()
