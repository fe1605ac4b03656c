"""Text to token ids and back: what a tokenizer is, and which a directory has.

`SentencePieceTokenizer` and `HFTokenizer` implement the protocol `Tokenizer`.
`decode` drops special tokens and `encode` never produces them, so text that
looks like a special token survives a round trip.
"""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import os
import tempfile
from typing import Any, Protocol

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.text import files, hf_tokenizer, sentencepiece_tokenizer

# Text with words, numbers, spaces and code; its ids are part of the digest.
_PROBE = "What is 12 + 345?  Naïvely: def f(x):\n  return x ** 2"


class Tokenizer(Protocol):
  """Interface of tokenizers.

  Attributes:
    pad_id: id of padding; may equal a stop id, because masks tell padding from
      tokens.
    bos_id: id that begins a text, or None; `encode_prompt` knows where it goes.
    stop_ids: ids that end a response; the first one ends demonstrations.
    vocab_size: number of ids; the model's vocabulary may be larger (padded).
    opens_thought: whether prompts end inside a thought, so that responses begin
      there.
    generation: entries of a `generation_config.json`, such as how to sample,
      that its directory came with.
  """

  pad_id: int
  bos_id: int | None
  stop_ids: tuple[int, ...]
  vocab_size: int
  opens_thought: bool
  generation: Mapping[str, Any]

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""

  def encode_prompt(
    self, text: str, context: Sequence[Mapping[str, str]] = ()
  ) -> tuple[list[int], list[bool]]:
    """Encodes a prompt as the model reads it.

    Args:
      text: text of the user.
      context: messages before it, each with "role" and "content"; they require
        a chat template.

    Returns:
      (ids, user): ids with template or BOS, and a flag per id that is True for
      the user's text, which the context is not.

    Raises:
      InputError: there is a context and no chat template, or the template does
        not write it.
    """

  def encode_reply(self, text: str) -> list[int]:
    """Ids of a message that follows a stop token of the policy.

    With what the chat template writes between an answer's stop token and the
    message, and up to the next answer. Without a template: the text's alone.
    """

  def markup(self, text: str) -> str:
    """A control token whose text a user's text holds, or "".

    It does not become that token: it is encoded as plain text.
    """

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids without special tokens; tags of thoughts are kept."""

  def pieces(self) -> list[tuple[str, int]]:
    """The vocabulary as (piece, id) pairs, sorted by id."""

  def save(self, directory: str) -> None:
    """Writes the files that `load` reads."""


def digest(tokenizer: Tokenizer) -> str:
  """Digest of what a tokenizer does, as 16 hexadecimal digits.

  Hashes the vocabulary, the special ids and the ids of a text with its
  template. Files are not hashed, since versions of a library write them
  differently.
  """
  behaviour = [
    tokenizer.pieces(),
    tokenizer.pad_id,
    list(tokenizer.stop_ids),
    tokenizer.encode_prompt(_PROBE),
  ]
  return hashlib.sha256(json.dumps(behaviour).encode()).hexdigest()[:16]


def load(
  path: str,
  *,
  chat_template: str = "auto",
  chat_template_options: Mapping[str, Any] | None = None,
  system_prompt: str | None = None,
) -> Tokenizer:
  """Reads the tokenizer of a directory, or a `.model` file.

  A directory with `tokenizer.json` or `tokenizer_config.json` is a Hugging
  Face tokenizer; one with only `tokenizer.model` is sentencepiece.

  Args:
    path: local path, or a URL such as gs://bucket/model.
    chat_template: choice of the template, as for `HFTokenizer`.
    chat_template_options: variables for the template.
    system_prompt: system message of the chat.

  Raises:
    InputError: there is no tokenizer, or template, options or a system prompt
      were given for a sentencepiece tokenizer.
  """
  place, path = epath.Path(path), os.fspath(path)
  if any((place / f).exists() for f in files.HF):
    # transformers reads local files only: remote ones are copied first.
    options = dict(
      chat_template=chat_template,
      system_prompt=system_prompt,
      chat_template_options=chat_template_options,
      where=path,
    )
    if not places.is_remote(path):
      return hf_tokenizer.HFTokenizer(path, **options)
    with tempfile.TemporaryDirectory() as local:
      files.copy(place, local)
      return hf_tokenizer.HFTokenizer(local, **options)
  # Otherwise sentencepiece: a `.model` file, or a directory with one.
  file = place if place.is_file() else place / files.MODEL
  if not place.exists():
    raise errors.InputError(f"{path}: no such file or directory")
  if not file.exists():
    raise errors.InputError(
      f"{path}: no tokenizer; looked for {', '.join(files.HF)} and "
      f"{files.MODEL}"
    )
  if (
    chat_template not in ("auto", "none")
    or chat_template_options
    or system_prompt is not None
  ):
    raise errors.InputError(
      f"{file}: a sentencepiece tokenizer takes no chat template, no "
      "options of one and no system prompt"
    )
  return sentencepiece_tokenizer.SentencePieceTokenizer.load(file)


def has_template(directory) -> bool:
  """Returns whether a directory has a chat template for its tokenizer.

  Raises:
    InputError: its configuration cannot be read.
  """
  place = epath.Path(directory)
  file = place / files.CONFIG
  return (place / "chat_template.jinja").exists() or bool(
    file.exists() and places.read_json(file).get("chat_template")
  )


def bos_piece(directory) -> str:
  """Returns what a text must begin with for transformers to read it as we do.

  transformers puts no BOS before a text where it reads a sentencepiece model.

  Args:
    directory: directory of a tokenizer, or of nothing.

  Returns:
    The piece of BOS; "" where transformers adds it, or where there is none.
  """
  place = epath.Path(directory)
  if any((place / f).exists() for f in files.HF):
    return ""
  if not (place / files.MODEL).exists():
    return ""
  tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer.load(
    place / files.MODEL
  )
  if tokenizer.bos_id is None:
    return ""
  piece, _ = tokenizer.pieces()[tokenizer.bos_id]
  return piece
