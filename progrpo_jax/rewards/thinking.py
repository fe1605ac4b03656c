"""Where the answer stands in a completion that thinks first.

Policies such as DeepSeek-R1 and Qwen3 write a thought between `<think>` and
`</think>` before they answer. What stands in a thought is no answer, however
much it looks like one: a verifier is shown what comes after it.
"""

OPEN, CLOSE = "<think>", "</think>"
TAGS = (OPEN, CLOSE)

# "auto": after the thought, if there is one. "required": after the thought,
# and there must be one. "off": the tags are text like any other.
MODES = ("auto", "required", "off")


def answer(
    completion: str, mode: str = "auto", *, inside: bool = False
) -> str | None:
  """Returns the text in which the answer is looked for, None if there is none.

  It is what follows the last `</think>`, and all of a completion that has no
  thought. A thought that was begun and not ended leaves no answer: whoever
  wrote the thought's beginning, and however many were ended before.

  Args:
    completion: text of the model.
    mode: one of MODES.
    inside: whether the prompt has opened a thought, so that the completion
      begins in the midst of it.
  """
  if mode not in MODES:
    raise ValueError(f"thinking {mode!r} is none of {MODES}")
  if mode == "off":
    return completion
  _, closed, rest = completion.rpartition(CLOSE)
  if OPEN in rest:
    return None
  if closed:
    return rest
  return None if inside or mode == "required" else completion


def opens(text: str) -> bool:
  """Says whether a text ends inside of a thought."""
  return text.rfind(OPEN) > text.rfind(CLOSE)
