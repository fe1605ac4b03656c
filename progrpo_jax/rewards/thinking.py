"""Separates the answer of a completion from its thinking section.

Policies such as DeepSeek-R1 and Qwen3 write a thinking section between
`<think>` and `</think>` before they answer. Text in that section is not an
answer, even if it looks like one, so verifiers see only what follows it.
"""

OPEN, CLOSE = "<think>", "</think>"
TAGS = (OPEN, CLOSE)

# "auto": the answer follows the thinking section, if there is one. "required":
# there must be one. "off": the tags are ordinary text.
MODES = ("auto", "required", "off")


def answer(
  completion: str, mode: str = "auto", *, inside: bool = False
) -> str | None:
  """Returns the part of a completion that holds the answer.

  This is the text after the last `</think>`, or the whole completion if it has
  no thinking section. If a section is opened and not closed, by the completion
  or the prompt, there is no answer.

  Args:
    completion: text of the model.
    mode: one of MODES.
    inside: whether the prompt opens a thinking section.

  Returns:
    The text, or None if there is no answer.

  Raises:
    ValueError: the mode is unknown.
  """
  if mode not in MODES:
    raise ValueError(f"thinking {mode!r} is not one of {MODES}")
  if mode == "off":
    return completion
  _, closed, rest = completion.rpartition(CLOSE)
  if OPEN in rest:
    return None
  if closed:
    return rest
  return None if inside or mode == "required" else completion


def opens(text: str) -> bool:
  """Returns whether a text ends inside of a thinking section."""
  return text.rfind(OPEN) > text.rfind(CLOSE)
