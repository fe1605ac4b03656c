"""Text to token ids and back: sentencepiece and Hugging Face tokenizers.

Both classes answer to one protocol (`Tokenizer`). The surprise: `decode` drops
special tokens but `encode` never makes them, so text that merely looks like a
special token survives a round trip through the sentencepiece tokenizer.
"""

from collections.abc import Iterable
import io
import json
import os
import re
from typing import Protocol

from progrpo_jax import errors

# What stands in the place of the user's text while a chat template's own
# text is found out.
_PROBE = "PROBE-OF-THE-CHAT-TEMPLATE"
_SPACE = "\u2581"  # sentencepiece's sign for a space
_HF_FILES = ("tokenizer.json", "tokenizer_config.json")
_MODEL_FILE = "tokenizer.model"


class Tokenizer(Protocol):
  """What the rest of the program knows of a tokenizer.

  Attributes:
    pad_id: fills rows; masks say what is real, so it may equal a stop id.
    stop_ids: any of these ends a response; the first one is written at the
      end of a demonstration.
    vocab_size: number of ids; the model's may be larger (padded).
  """

  pad_id: int
  stop_ids: tuple[int, ...]
  vocab_size: int

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""

  def encode_prompt(self, text: str) -> tuple[list[int], list[bool]]:
    """Ids of a prompt as the model reads it, and which are the user's."""

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids, special tokens removed."""

  def save(self, directory: str) -> None:
    """Writes the files that `load` reads."""


class SentencePieceTokenizer:
  """A sentencepiece `.model` file; prompts begin with BOS if it has one."""

  def __init__(self, model: bytes):
    """Reads a serialised model, as `train` and a `.model` file hold it."""
    import sentencepiece
    self._model = model
    try:
      processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as e:
      raise errors.InputError("not a sentencepiece model") from e
    if processor.eos_id() < 0:
      raise errors.InputError(
          "the sentencepiece model has no </s>: responses could not end")
    self._processor = processor
    self.stop_ids = (processor.eos_id(),)
    self.pad_id = max(processor.pad_id(), 0)
    self.vocab_size = processor.get_piece_size()
    self._bos = [processor.bos_id()] if processor.bos_id() >= 0 else []
    self._silent = frozenset(
        i for i in range(self.vocab_size)
        if processor.is_control(i) or processor.is_unknown(i))
    space = [
        processor.piece_to_id(f"<0x{b:02X}>") for b in _SPACE.encode()]
    self._space = (
        space if all(processor.is_byte(i) for i in space) else None)

  @classmethod
  def train(
      cls, texts: Iterable[str], path: str | None = None, *,
      vocab_size: int | None = None, model_type: str = "char",
      byte_fallback: bool = True,
  ) -> "SentencePieceTokenizer":
    """Trains a vocabulary on the texts; the same texts give the same bytes.

    With `byte_fallback` any text survives encode and decode: 256 pieces
    stand for single bytes, and the text is not normalised.

    Args:
      texts: to count characters or pieces in.
      path: of the `.model` file to write, if any.
      vocab_size: upper limit, special tokens and bytes included; None keeps
        every character of the texts (`char` only).
      model_type: "char", "bpe" or "unigram".
      byte_fallback: whether characters not in the texts are spelled as bytes
        (otherwise they become <unk> and are lost).

    Returns:
      The tokenizer, with ids 0 <pad>, 1 <s>, 2 </s>, 3 <unk>.
    """
    import sentencepiece
    if model_type not in ("char", "bpe", "unigram"):
      raise errors.InputError(
          f"model_type {model_type!r} must be 'char', 'bpe' or 'unigram'")
    if vocab_size is None and model_type != "char":
      raise errors.InputError(f"model_type {model_type!r} needs a vocab_size")
    texts = [_valid(t) for t in texts]
    characters = len(set("".join(texts)))
    if not characters:
      raise errors.InputError("no text to train a vocabulary on")
    base = 4 + (256 if byte_fallback else 0)
    if vocab_size is None:
      vocab_size = base + characters + 1
    buffer = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
          sentence_iterator=iter(texts), model_writer=buffer,
          model_type=model_type, vocab_size=vocab_size,
          hard_vocab_limit=False, byte_fallback=byte_fallback,
          character_coverage=1.0, normalization_rule_name="identity",
          add_dummy_prefix=False, remove_extra_whitespaces=False,
          pad_id=0, bos_id=1, eos_id=2, unk_id=3,
          # The trainer refuses a limit under 10 bytes.
          max_sentence_length=max(10, *(len(t.encode()) + 1 for t in texts)),
          num_threads=1, minloglevel=2)
    except RuntimeError as e:
      raise errors.InputError(f"sentencepiece: {e}") from e
    tokenizer = cls(buffer.getvalue())
    if path is not None:
      _write(path, tokenizer._model)
    return tokenizer

  @classmethod
  def load(cls, path: str) -> "SentencePieceTokenizer":
    """Reads a `.model` file."""
    with open(path, "rb") as f:
      model = f.read()
    try:
      return cls(model)
    except errors.InputError as e:
      raise errors.InputError(f"{path}: {e}") from e

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""
    text = _valid(text)
    if self._space is None:
      return self._processor.encode(text)
    # The sign that sentencepiece writes for a space would come back as one.
    ids = []
    for i, part in enumerate(text.split(_SPACE)):
      ids += (self._space if i else []) + self._processor.encode(part)
    return ids

  def encode_prompt(self, text: str) -> tuple[list[int], list[bool]]:
    """Ids with BOS in front, and which of them are the user's."""
    ids = self.encode(text)
    return self._bos + ids, [False] * len(self._bos) + [True] * len(ids)

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids; special ids and those past the vocabulary drop out."""
    return self._processor.decode([
        int(i) for i in ids
        if 0 <= i < self.vocab_size and i not in self._silent])

  def save(self, directory: str) -> None:
    """Writes `tokenizer.model`."""
    os.makedirs(directory, exist_ok=True)
    _write(os.path.join(directory, _MODEL_FILE), self._model)


class HFTokenizer:
  """A tokenizer in a local Hugging Face directory; nothing is downloaded."""

  def __init__(
      self, path: str, *, chat_template: str = "auto",
      system_prompt: str | None = None):
    """Reads the directory.

    Args:
      path: directory with `tokenizer.json`.
      chat_template: "auto" wraps prompts in the tokenizer's own template if
        it has one, "own" demands that it has one, "none" leaves prompts
        bare; anything else is itself a Jinja template.
      system_prompt: first message of the chat; needs a template.
    """
    # Only its tokenizers are used; it need not say that PyTorch is missing.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers
    # AutoTokenizer goes by the model's type and may replace the rules of
    # tokenizer.json by those of that type's usual tokenizer.
    kind = transformers.AutoTokenizer
    if os.path.exists(os.path.join(path, "tokenizer.json")):
      kind = transformers.PreTrainedTokenizerFast
    try:
      self._tokenizer = kind.from_pretrained(path, local_files_only=True)
    except Exception as e:  # the parser of tokenizer.json raises no other
      raise errors.InputError(f"{path}: no usable tokenizer: {e}") from e
    if not self._tokenizer.is_fast:
      raise errors.InputError(
          f"{path}: the tokenizer has no tokenizer.json, so that the user's "
          "part of a prompt cannot be found; convert it with transformers")
    self._path = path
    self._template = self._pick_template(chat_template)
    if system_prompt is not None and self._template is None:
      raise errors.InputError(
          f"{path}: system_prompt needs a chat template, and there is none")
    self._system = system_prompt
    self._frame = None if self._template is None else self._probe()
    self.vocab_size = len(self._tokenizer)
    self.stop_ids = self._find_stop_ids()
    pad = self._tokenizer.pad_token_id
    self.pad_id = self.stop_ids[0] if pad is None else pad

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""
    return self._tokenizer(
        _valid(text), add_special_tokens=False, verbose=False)["input_ids"]

  def encode_prompt(self, text: str) -> tuple[list[int], list[bool]]:
    """Ids with template or BOS, and which of them are the user's."""
    text = _valid(text)
    start, end = 0, len(text)
    if self._frame is not None:
      head, tail = self._frame
      text = self._render(text)
      if not (text.startswith(head) and text.endswith(tail)
              and len(text) >= len(head) + len(tail)):
        raise errors.InputError(
            f"{self._path}: the chat template changes with the prompt, so "
            f"that the user's part cannot be found in {text[:200]!r}")
      start, end = len(head), len(text) - len(tail)
    coded = self._tokenizer(
        text, add_special_tokens=self._frame is None, verbose=False,
        return_offsets_mapping=True)
    # A token of spaces may have an empty span, set to the end of the spaces.
    user = [
        start < hi <= end if lo == hi else lo < end and hi > start
        for lo, hi in coded["offset_mapping"]]
    return coded["input_ids"], user

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids; special ids and those past the vocabulary drop out."""
    return self._tokenizer.decode(
        [int(i) for i in ids if 0 <= i < self.vocab_size],
        skip_special_tokens=True, clean_up_tokenization_spaces=False)

  def save(self, directory: str) -> None:
    """Writes the tokenizer's files, its chat template among them."""
    self._tokenizer.save_pretrained(directory)

  def _pick_template(self, choice: str) -> str | None:
    """The Jinja text, or None for bare prompts."""
    own = self._tokenizer.chat_template
    if isinstance(own, dict):
      own = own.get("default")
    if choice == "none":
      return None
    if choice == "auto":
      return own
    if choice == "own":
      if own is None:
        raise errors.InputError(
            f"{self._path}: the tokenizer has no chat template")
      return own
    if "{" not in choice:
      raise errors.InputError(
          f"chat_template {choice!r} must be 'auto', 'own', 'none' or a Jinja "
          "template")
    return choice

  def _render(self, text: str) -> str:
    """The chat as text, up to where the model's answer begins."""
    import jinja2
    chat = [{"role": "user", "content": text}]
    if self._system is not None:
      chat.insert(0, {"role": "system", "content": self._system})
    try:
      return self._tokenizer.apply_chat_template(
          chat, chat_template=self._template, add_generation_prompt=True,
          tokenize=False)
    except jinja2.TemplateError as e:
      raise errors.InputError(
          f"{self._path}: the chat template failed: {e}") from e

  def _probe(self) -> tuple[str, str]:
    """The template's text before and after the user's."""
    parts = self._render(_PROBE).split(_PROBE)
    if len(parts) != 2:
      raise errors.InputError(
          f"{self._path}: the chat template writes the user's text "
          f"{len(parts) - 1} times; it must do so once")
    return parts[0], parts[1]

  def _find_stop_ids(self) -> tuple[int, ...]:
    """The tokenizer's EOS, then those of `generation_config.json`."""
    ids = [self._tokenizer.eos_token_id]
    file = os.path.join(self._path, "generation_config.json")
    if os.path.exists(file):
      eos = _read_json(file).get("eos_token_id")
      ids += eos if isinstance(eos, list) else [eos]
    ids = tuple(dict.fromkeys(int(i) for i in ids if i is not None))
    if not ids:
      raise errors.InputError(
          f"{self._path}: neither the tokenizer nor generation_config.json "
          "names an end-of-text token: responses could not end")
    return ids


def load(
    path: str, *, chat_template: str = "auto",
    system_prompt: str | None = None) -> Tokenizer:
  """Reads the tokenizer of a directory, or a `.model` file.

  A directory with `tokenizer.json` or `tokenizer_config.json` is a Hugging
  Face tokenizer; one with `tokenizer.model` alone is sentencepiece.
  `chat_template` and `system_prompt`: see `HFTokenizer`.

  Raises:
    InputError: no tokenizer there, or a template was asked of one without.
  """
  path = os.fspath(path)
  if any(os.path.exists(os.path.join(path, f)) for f in _HF_FILES):
    return HFTokenizer(
        path, chat_template=chat_template, system_prompt=system_prompt)
  file = path if os.path.isfile(path) else os.path.join(path, _MODEL_FILE)
  if not os.path.exists(path):
    raise errors.InputError(f"{path}: no such file or directory")
  if not os.path.isfile(file):
    raise errors.InputError(
        f"{path}: no tokenizer; looked for {', '.join(_HF_FILES)} and "
        f"{_MODEL_FILE}")
  if chat_template not in ("auto", "none") or system_prompt is not None:
    raise errors.InputError(
        f"{file}: a sentencepiece tokenizer takes no chat template and no "
        "system prompt")
  return SentencePieceTokenizer.load(file)


def _valid(text: str) -> str:
  """The text with lone surrogates, which no UTF-8 can spell, replaced."""
  return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _write(path: str, content: bytes) -> None:
  """Writes a file whole or not at all."""
  with open(path + ".part", "wb") as f:
    f.write(content)
  os.replace(path + ".part", path)


def _read_json(path: str) -> dict:
  """The object in a JSON file."""
  try:
    with open(path, encoding="utf-8") as f:
      content = json.load(f)
  except ValueError as e:
    raise errors.InputError(f"{path}: not JSON: {e}") from e
  if not isinstance(content, dict):
    raise errors.InputError(f"{path}: not a JSON object")
  return content
