"""Rendering of untrusted chat templates; `chat` runs it in a worker process.

A template may loop forever or write more text than fits into memory. Jinja's
sandbox and the filters available to templates are those of transformers, whose
import takes most of a worker's start-up time.
"""

from collections.abc import Sequence
import re
from typing import Any

from jinja2 import meta, sandbox
from transformers.utils import chat_template_utils

# Characters that a template may write besides the messages.
_MAX_CHARACTERS = 1_000_000

# {% generation %} tags of transformers, which mark trainable text; plain Jinja
# cannot parse them.
_MARKS = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")


def render(
  program: str, messages: Sequence[dict[str, str]], variables: dict[str, Any]
) -> dict[str, str]:
  """Renders a chat.

  Args:
    program: Jinja template.
    messages: {"role", "content"} of each message.
    variables: further variables of the template.

  Returns:
    {"text": chat}, or the failure as in `_tried`.
  """
  given = sum(len(m["content"]) for m in messages)

  def render_text() -> dict[str, str]:
    (text,), _ = chat_template_utils.render_jinja_template(
      conversations=[list(messages)], chat_template=program, **variables
    )
    if len(text) > given + _MAX_CHARACTERS:
      return {"limit": f"wrote {len(text):,} characters"}
    return {"text": text}

  return _tried(render_text)


def variables(program: str) -> dict[str, Any]:
  """Finds the variables that a template reads without always setting them.

  Args:
    program: Jinja template.

  Returns:
    {"names": sorted names}, or the failure as in `_tried`.
  """

  def undeclared_names() -> dict[str, Any]:
    environment = sandbox.ImmutableSandboxedEnvironment(
      extensions=["jinja2.ext.loopcontrols"]
    )
    tree = environment.parse(_MARKS.sub("", program))
    return {"names": sorted(meta.find_undeclared_variables(tree))}

  return _tried(undeclared_names)


def _tried(work) -> dict[str, Any]:
  """Calls `work` and turns its exceptions into a result.

  Returns:
    Result of `work`; {"limit": reason} if memory ran out, or
    {"error": message} for any other exception.
  """
  try:
    return work()
  except MemoryError:
    return {"limit": "took more memory than allowed"}
  except Exception as error:  # an untrusted program may raise anything
    return {"error": str(error)[:2000]}
