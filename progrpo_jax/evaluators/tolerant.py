"""Tolerant verdicts: correctness of answers in a wrong format.

A base policy often puts its answer in a box where `<answer>` tags were asked
for, or in plain text, so part of what training gains is format alone (ProRL,
https://arxiv.org/abs/2505.24864, appendix F.1). The tolerant verdict extracts
the final answer of a text, writes it in the formats verifiers read and asks
the same verifier again. The strict verdict is not changed.
"""

from collections.abc import Iterator, Sequence
import re

import numpy as np

from progrpo_jax.rollout import verify as verify_lib
from progrpo_jax.tasks import base

# The formats verifiers read. All are tried, since a task does not tell which
# one it wants; none changes the answer.
_FORMS = ("<answer>{}</answer>", "\\boxed{{{}}}", "{}")

_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SAID = re.compile(
  r"\banswer(?:\s+is)?(?:\s*[:=]|(?<=is))\s*(\S[^\n]*)", re.IGNORECASE
)
_FENCED = re.compile(r"```[^\n]*\n(.*?)\n?```", re.DOTALL)
_THOUGHT = "</think>"
_MAX_ROUNDS = 3  # nested wrappings removed from around an answer


def answer(text: str) -> str:
  """Returns the final answer of a completion, "" if it has none.

  Only text after the last `</think>` is read. The answer is the first of these
  that exists: the content of the last `<answer>` tag (closed or not), the
  content of the last \\boxed{}, the rest of the line after the last "answer
  is" or "answer:", the last fenced block, the last line. Boxes, dollars,
  asterisks, back-quotes and a final full stop around it are removed.
  """
  text = text.rpartition(_THOUGHT)[2]
  tagged = _TAG.findall(text)
  if tagged:
    return _bare(tagged[-1])
  boxed = _boxed(text)
  if boxed is not None:
    return _bare(boxed)
  for pattern in (_SAID, _FENCED):
    matches = pattern.findall(text)
    if matches:
      return _bare(matches[-1])
  lines = text.strip().splitlines()
  return _bare(lines[-1]) if lines else ""


def forms(text: str) -> list[str]:
  """Returns the answer of a completion in each format a verifier may want.

  Empty if there is no answer; without a format equal to the text itself, which
  the strict verdict has covered.
  """
  final = answer(text)
  written = [form.format(final) for form in _FORMS] if final else []
  return [form for form in written if form != text]


def verify(
  pool,
  rows: Sequence[base.Row],
  texts_XG: Sequence[Sequence[str]],
  correct_XG,
  valid_XG,
) -> np.ndarray:
  """Verifies wrong samples again in other formats.

  Args:
    pool: pool of verifiers.
    rows: problems.
    texts_XG: text of each sample.
    correct_XG: bool, strict verdict.
    valid_XG: bool, False where the verifier failed; these samples are not
      verified again.

  Returns:
    bool [X, G]: correct by the strict verdict or in any format.
  """
  # The pool strips the thought first; None means it was not ended.
  tolerant_XG = np.array(correct_XG, bool)
  answers_XG = [[pool.answer(text) for text in texts] for texts in texts_XG]
  asked = list(_again(rows, answers_XG, tolerant_XG, valid_XG))
  if asked:
    verified = verify_lib.verify(
      pool,
      [rows[x] for x, _, _ in asked],
      [[form] for _, _, form in asked],
      whole=False,
    )
    for (x, n, _), (right,) in zip(asked, verified.correct_PG):
      tolerant_XG[x, n] |= right
  return tolerant_XG


def _again(rows, answers_XG, correct_XG, valid_XG) -> Iterator:
  """Yields (problem, sample, text) of every further verification.

  Samples whose thought was not ended (answer None) are skipped: they have no
  answer in any format.
  """
  for x in range(len(rows)):
    for n, text in enumerate(answers_XG[x]):
      if valid_XG[x][n] and not correct_XG[x, n] and text is not None:
        for form in forms(text):
          yield x, n, form


def _boxed(text: str) -> str | None:
  """Returns the content of the last box with balanced braces, or None."""
  for start in reversed([m.end() for m in _BOX.finditer(text)]):
    depth = 1
    for at in range(start, len(text)):
      depth += (text[at] == "{") - (text[at] == "}")
      if depth == 0:
        return text[start:at]
  return None


def _bare(text: str) -> str:
  """Removes boxes, marks and a full stop around an answer."""
  for _ in range(_MAX_ROUNDS):
    text = text.strip().strip("$*`").strip()
    if text.endswith(".") and not text.endswith(".."):
      text = text[:-1].rstrip()
    box = _BOX.match(text)
    if box and _boxed(text) is not None:
      text = _boxed(text)
  return text
