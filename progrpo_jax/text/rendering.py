"""Chat templates as programs of strangers: run in a worker, by `chat` alone.

A template may loop for ever or write more than there is memory. Its rules
(Jinja's sandbox, the filters that templates may count on) are those of
transformers, whose import is what a worker is slow to start with.
"""

from collections.abc import Sequence
import re
from typing import Any

from jinja2 import meta, sandbox
from transformers.utils import chat_template_utils

# A template that writes more than this around what it is given has run away.
_MAX_CHARACTERS = 1_000_000

# Marks in a template of what the model is to learn; Jinja does not know them.
_MARKS = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")


def render(
    program: str, messages: Sequence[dict[str, str]], variables: dict[str, Any],
) -> dict[str, str]:
  """Returns {"text": the chat}, or what `_tried` says of a failure."""
  given = sum(len(m["content"]) for m in messages)

  def rendered() -> dict[str, str]:
    (text,), _ = chat_template_utils.render_jinja_template(
        conversations=[list(messages)], chat_template=program, **variables)
    if len(text) > given + _MAX_CHARACTERS:
      return {"limit": f"wrote {len(text):,} characters"}
    return {"text": text}

  return _tried(rendered)


def variables(program: str) -> dict[str, Any]:
  """Returns {"names": those that a template reads and does not always set}."""

  def parsed() -> dict[str, Any]:
    environment = sandbox.ImmutableSandboxedEnvironment(
        extensions=["jinja2.ext.loopcontrols"])
    tree = environment.parse(_MARKS.sub("", program))
    return {"names": sorted(meta.find_undeclared_variables(tree))}

  return _tried(parsed)


def _tried(work) -> dict[str, Any]:
  """Returns what work returns, {"limit": ...} or {"error": what it raised}."""
  try:
    return work()
  except MemoryError:
    return {"limit": "took more memory than it may"}
  except Exception as error:  # a stranger's program may raise anything
    return {"error": str(error)[:2000]}
