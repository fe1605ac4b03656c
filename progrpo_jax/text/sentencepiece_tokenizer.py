"""Tokenizers of sentencepiece, and the training of their vocabularies."""

from collections.abc import Iterable, Mapping, Sequence
import io
from typing import Any

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.text import files, inputs

_SPACE = "\u2581"  # sentencepiece's character for a space


class SentencePieceTokenizer:
  """A sentencepiece tokenizer; prompts begin with BOS if the model has one."""

  opens_thought = False

  def __init__(self, model: bytes):
    """Reads a model.

    Args:
      model: content of a `.model` file.

    Raises:
      InputError: the bytes are not a model, or the model has no </s>.
    """
    import sentencepiece

    self._model = model
    try:
      processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as e:
      raise errors.InputError("not a sentencepiece model") from e
    if processor.eos_id() < 0:
      raise errors.InputError(
        "the sentencepiece model has no </s>: responses could not end"
      )
    self._processor = processor
    self.stop_ids = (processor.eos_id(),)
    self.generation: dict[str, Any] = {}  # a `.model` file has none
    self.pad_id = max(processor.pad_id(), 0)
    self.vocab_size = processor.get_piece_size()
    self.bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
    self._bos = [] if self.bos_id is None else [self.bos_id]
    # Ids that `decode` drops.
    self._silent = frozenset(
      i
      for i in range(self.vocab_size)
      if processor.is_control(i) or processor.is_unknown(i)
    )
    # Their texts in a prompt stay plain text.
    self._control = [
      processor.id_to_piece(i)
      for i in range(self.vocab_size)
      if processor.is_control(i)
    ]
    # Ids of the 256 single bytes, if the model has them.
    self._bytes = [processor.piece_to_id(f"<0x{b:02X}>") for b in range(256)]
    self._spells = all(map(processor.is_byte, self._bytes))
    # Whether the model puts a space before a text: Llama 2's reads "a" as " a".
    self._puts_space = processor.normalize("a").startswith(_SPACE)

  @classmethod
  def train(
    cls,
    texts: Iterable[str],
    path: str | None = None,
    *,
    vocab_size: int | None = None,
    model_type: str = "char",
    byte_fallback: bool = True,
  ) -> "SentencePieceTokenizer":
    """Trains a vocabulary; the same texts give the same bytes.

    With `byte_fallback` any text survives encoding and decoding: the vocabulary
    has 256 pieces for single bytes, and text is not normalised.

    Args:
      texts: training texts.
      path: `.model` file to write, or None.
      vocab_size: largest number of ids, special tokens and bytes included;
        None keeps every character of the texts ("char" only).
      model_type: kind of vocabulary: "char", "bpe" or "unigram".
      byte_fallback: whether characters that are not in the texts are encoded
        as bytes; otherwise they become <unk> and are lost.

    Returns:
      Tokenizer with ids 0 <pad>, 1 <s>, 2 </s>, 3 <unk>.

    Raises:
      InputError: an argument is invalid, or training failed.
    """
    import sentencepiece

    if model_type not in ("char", "bpe", "unigram"):
      raise errors.InputError(
        f"model_type {model_type!r} must be 'char', 'bpe' or 'unigram'"
      )
    if vocab_size is None and model_type != "char":
      raise errors.InputError(f"model_type {model_type!r} needs a vocab_size")
    texts = [inputs.valid(t) for t in texts]
    characters = len(set("".join(texts)))
    if not characters:
      raise errors.InputError("no text to train a vocabulary on")
    # Special tokens, then bytes; the limit is soft, so one id to spare costs
    # nothing.
    base = 4 + (256 if byte_fallback else 0)
    if vocab_size is None:
      vocab_size = base + characters + 1
    buffer = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=buffer,
        model_type=model_type,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        # The trainer refuses a limit under 10 bytes.
        max_sentence_length=max(10, *(len(t.encode()) + 1 for t in texts)),
        num_threads=1,
        minloglevel=2,
      )
    except RuntimeError as e:
      raise errors.InputError(f"sentencepiece: {e}") from e
    tokenizer = cls(buffer.getvalue())
    if path is not None:
      places.write(path, tokenizer._model)
    return tokenizer

  @classmethod
  def load(cls, path: str) -> "SentencePieceTokenizer":
    """Reads a `.model` file."""
    try:
      return cls(epath.Path(path).read_bytes())
    except errors.InputError as e:
      raise errors.InputError(f"{path}: {e}") from e

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""
    text = inputs.valid(text)
    if not self._spells:
      return self._processor.encode(text)
    # A literal "\u2581" would be decoded as a space, so it is encoded as bytes
    # and the text around it piece by piece.
    first, *parts = text.split(_SPACE)
    ids = self._processor.encode(first)
    for part in parts:
      ids += self._spell(_SPACE)
      if self._puts_space:
        # Encoding a piece adds a space, which is right only where the text has
        # one: the word up to the next space is encoded as bytes too.
        word, space, part = part.partition(" ")
        ids += self._spell(word)
        ids += self._processor.encode(part) if part else self._spell(space)
      else:
        ids += self._processor.encode(part)
    return ids

  def _spell(self, text: str) -> list[int]:
    """Ids of the UTF-8 bytes of a text."""
    return [self._bytes[b] for b in text.encode()]

  def encode_prompt(
    self, text: str, context: Sequence[Mapping[str, str]] = ()
  ) -> tuple[list[int], list[bool]]:
    """Ids with BOS in front, and a flag per id: True for the user's text."""
    inputs.refuse_context(context)
    ids = self.encode(text)
    return self._bos + ids, [False] * len(self._bos) + [True] * len(ids)

  def encode_reply(self, text: str) -> list[int]:
    """Ids of the text alone."""
    return self.encode(text)

  def markup(self, text: str) -> str:
    """A control token whose text the text holds, or ""."""
    return next((token for token in self._control if token in text), "")

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids, without special ids and ids outside the vocabulary."""
    return self._processor.decode(
      [
        int(i)
        for i in ids
        if 0 <= i < self.vocab_size and i not in self._silent
      ]
    )

  def pieces(self) -> list[tuple[str, int]]:
    """Pieces by id."""
    return [(self._processor.id_to_piece(i), i) for i in range(self.vocab_size)]

  def save(self, directory: str) -> None:
    """Writes `tokenizer.model`."""
    places.write(epath.Path(directory) / files.MODEL, self._model)
