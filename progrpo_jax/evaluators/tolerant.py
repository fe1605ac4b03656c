"""The answer of a completion that missed the format, and its verdict.

A base policy boxes its answer where `<answer>` tags were asked for, or just
says it; part of what training gains on it is the format alone (ProRL,
https://arxiv.org/abs/2505.24864, appendix F.1). The tolerant verdict finds
the one answer that the text ends on, writes it as the verifier wants it and
asks the same verifier. The strict verdict stays what it is.
"""

from collections.abc import Iterator, Sequence
import re

import numpy as np

from progrpo_jax.rollout import verify as verify_lib
from progrpo_jax.tasks import base

# One answer in the forms that verifiers read; which of them is the wanted one
# is the verifier's business. None of them changes the answer.
_FORMS = ("<answer>{}</answer>", "\\boxed{{{}}}", "{}")

_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SAID = re.compile(
    r"\banswer(?:\s+is)?(?:\s*[:=]|(?<=is))\s*(\S[^\n]*)", re.IGNORECASE)
_FENCED = re.compile(r"```[^\n]*\n(.*?)\n?```", re.DOTALL)
_THOUGHT = "</think>"
_MAX_ROUNDS = 3  # of wrappings around an answer


def answer(text: str) -> str:
  """Returns the one answer that a completion comes to, "" if it has none.

  After any `</think>`, the first of these that is there: the last `<answer>`
  tag (also one left open), the last \\boxed{}, what follows the last "answer
  is" or "answer:" on its line, the last fenced block, the last line. Boxes,
  dollars, asterisks, back-quotes and a full stop around it are taken off.
  """
  text = text.rpartition(_THOUGHT)[2]
  tagged = _TAG.findall(text)
  if tagged:
    return _bare(tagged[-1])
  boxed = _boxed(text)
  if boxed is not None:
    return _bare(boxed)
  for pattern in (_SAID, _FENCED):
    found = pattern.findall(text)
    if found:
      return _bare(found[-1])
  lines = text.strip().splitlines()
  return _bare(lines[-1]) if lines else ""


def forms(text: str) -> list[str]:
  """Returns the answer of a completion in each form a verifier may want."""
  found = answer(text)
  written = [form.format(found) for form in _FORMS] if found else []
  return [form for form in written if form != text]


def verify(
    pool, rows: Sequence[base.Row], texts_XN: Sequence[Sequence[str]],
    correct_XN, valid_XN,
) -> np.ndarray:
  """Asks again about the samples whose strict verdict is wrong.

  Args:
    pool: verifies.
    rows: the problems.
    texts_XN: the samples.
    correct_XN: bool, the strict verdict.
    valid_XN: bool, False where the verifier failed; not asked again.

  Returns:
    bool [X, N]: right by the strict verdict, or in some form.
  """
  tolerant_XN = np.array(correct_XN, bool)
  answers_XN = [[pool.answer(text) for text in texts] for texts in texts_XN]
  asked = list(_again(rows, answers_XN, tolerant_XN, valid_XN))
  if asked:
    _, correct, _, _ = verify_lib.verify(
        pool, [rows[x] for x, _, _ in asked], [[form] for _, _, form in asked],
        whole=False)
    for (x, n, _), (right,) in zip(asked, correct):
      tolerant_XN[x, n] |= right
  return tolerant_XN


def _again(rows, answers_XN, correct_XN, valid_XN) -> Iterator:
  """Yields (problem, sample, form) of all that is to be asked.

  A thought that was not ended is no missed format: it gives no answer.
  """
  for x in range(len(rows)):
    for n, text in enumerate(answers_XN[x]):
      if valid_XN[x][n] and not correct_XN[x, n] and text is not None:
        for form in forms(text):
          yield x, n, form


def _boxed(text: str) -> str | None:
  """Returns what stands in the last box whose braces close, or None."""
  for start in reversed([m.end() for m in _BOX.finditer(text)]):
    depth = 1
    for at in range(start, len(text)):
      depth += (text[at] == "{") - (text[at] == "}")
      if depth == 0:
        return text[start:at]
  return None


def _bare(text: str) -> str:
  """Takes off what is often written around an answer."""
  for _ in range(_MAX_ROUNDS):
    text = text.strip().strip("$*`").strip()
    if text.endswith(".") and not text.endswith(".."):
      text = text[:-1].rstrip()
    box = _BOX.match(text)
    if box and _boxed(text) is not None:
      text = _boxed(text)
  return text
