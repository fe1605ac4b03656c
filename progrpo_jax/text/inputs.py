"""What every tokenizer does with a text or a chat before it encodes them."""

from collections.abc import Mapping, Sequence
import re

from progrpo_jax import errors


def valid(text: str) -> str:
  """Replaces lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
  return re.sub("[\ud800-\udfff]", "\ufffd", text)


def refuse_context(context: Sequence[Mapping[str, str]]) -> None:
  """Refuses messages before a prompt where nothing says how to write them."""
  if context:
    raise errors.InputError(
      f"a prompt of {len(context) + 1} messages needs a chat template, and this"
      " policy has none: set config.model.chat_template"
    )
