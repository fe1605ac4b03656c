"""Text to token ids and back: sentencepiece and Hugging Face tokenizers.

Both classes answer to one protocol (`Tokenizer`). The surprise: `decode` drops
special tokens but `encode` never makes them, so text that merely looks like a
special token survives a round trip.
"""

from collections.abc import Iterable, Mapping
import hashlib
import io
import itertools
import json
import os
import re
import tempfile
from typing import Any, Protocol

from etils import epath

from progrpo_jax import errors
from progrpo_jax.rewards import thinking
from progrpo_jax.text import chat

_SPACE = "\u2581"  # sentencepiece's sign for a space
# A text of words, numbers, spaces and code, for a digest of how it is coded.
_PROBE = "What is 12 + 345?  Naïvely: def f(x):\n  return x ** 2"
_CONFIG_FILE = "tokenizer_config.json"
_HF_FILES = ("tokenizer.json", _CONFIG_FILE)
_MODEL_FILE = "tokenizer.model"
_GENERATION_FILE = "generation_config.json"
# Where models that see keep their chat template.
_PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
# What a tokenizer may be made of; weights are not.
_KINDS = (".json", ".jinja", ".model", ".txt")
_TEMPLATES = "additional_chat_templates"


class Tokenizer(Protocol):
  """What the rest of the program knows of a tokenizer.

  Attributes:
    pad_id: fills rows; masks say what is real, so it may equal a stop id.
    stop_ids: any of these ends a response; the first one is written at the
      end of a demonstration.
    vocab_size: number of ids; the model's may be larger (padded).
    opens_thought: whether a prompt ends inside of a thought, so that the
      response begins there.
  """

  pad_id: int
  stop_ids: tuple[int, ...]
  vocab_size: int
  opens_thought: bool

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""

  def encode_prompt(self, text: str) -> tuple[list[int], list[bool]]:
    """Ids of a prompt as the model reads it, and which are the user's."""

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids, special tokens removed but for the tags of thoughts."""

  def pieces(self) -> list[tuple[str, int]]:
    """The vocabulary: each piece and its id, in the order of the ids."""

  def save(self, directory: str) -> None:
    """Writes the files that `load` reads."""


def digest(tokenizer: Tokenizer) -> str:
  """Hexadecimal digits that differ where two tokenizers do.

  Of vocabulary, special ids, and how a text is coded with the template around
  it; not of the files, which other versions of a library write otherwise.
  """
  what = [
      tokenizer.pieces(), tokenizer.pad_id, list(tokenizer.stop_ids),
      tokenizer.encode_prompt(_PROBE)]
  return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


class SentencePieceTokenizer:
  """A sentencepiece `.model` file; prompts begin with BOS if it has one."""

  opens_thought = False

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
    self._bytes = [processor.piece_to_id(f"<0x{b:02X}>") for b in range(256)]
    self._spells = all(map(processor.is_byte, self._bytes))
    # Llama 2's is one: it reads "a" as " a".
    self._puts_space = processor.normalize("a").startswith(_SPACE)

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
    try:
      return cls(epath.Path(path).read_bytes())
    except errors.InputError as e:
      raise errors.InputError(f"{path}: {e}") from e

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""
    text = _valid(text)
    if not self._spells:
      return self._processor.encode(text)
    # The sign that sentencepiece writes for a space would come back as one.
    first, *parts = text.split(_SPACE)
    ids = self._processor.encode(first)
    for part in parts:
      ids += self._spell(_SPACE)
      if self._puts_space:  # which is right where the text has one itself
        word, space, part = part.partition(" ")
        ids += self._spell(word)
        ids += self._processor.encode(part) if part else self._spell(space)
      else:
        ids += self._processor.encode(part)
    return ids

  def _spell(self, text: str) -> list[int]:
    """Ids of the bytes of a text."""
    return [self._bytes[b] for b in text.encode()]

  def encode_prompt(self, text: str) -> tuple[list[int], list[bool]]:
    """Ids with BOS in front, and which of them are the user's."""
    ids = self.encode(text)
    return self._bos + ids, [False] * len(self._bos) + [True] * len(ids)

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids; special ids and those past the vocabulary drop out."""
    return self._processor.decode([
        int(i) for i in ids
        if 0 <= i < self.vocab_size and i not in self._silent])

  def pieces(self) -> list[tuple[str, int]]:
    """Pieces by id."""
    return [
        (self._processor.id_to_piece(i), i) for i in range(self.vocab_size)]

  def save(self, directory: str) -> None:
    """Writes `tokenizer.model`."""
    _write(epath.Path(directory) / _MODEL_FILE, self._model)


class HFTokenizer:
  """A tokenizer in a Hugging Face directory; nothing is downloaded.

  A prompt cannot play a role: no special token, and no other token that the
  chat template writes, is ever made of the user's text: it is spelled out like
  any text. The tags of thoughts are the exception. They give nobody a role,
  prompts speak of them, and `decode` keeps them, for verifiers to find.
  """

  def __init__(
      self, local: str, *, chat_template: str = "auto",
      chat_template_options: Mapping[str, Any] | None = None,
      system_prompt: str | None = None, where: str | None = None):
    """Reads the directory.

    Args:
      local: directory with `tokenizer.json`, or with files that
        transformers makes one of.
      chat_template: "auto" wraps prompts in the tokenizer's own template if
        it has one, "own" demands that it has one, "none" leaves prompts
        bare, a name takes that one of several; anything else is itself a
        Jinja template, which writes BOS if there is to be one.
      chat_template_options: variables that the template reads.
      system_prompt: first message of the chat; needs a template.
      where: what errors call the directory, if not `local`.

    Raises:
      InputError: no usable tokenizer; or the template is missing, fails, or
        does not read an option.
    """
    self._path = where or local
    self._tokenizer = _read_tokenizer(local, self._path)
    source = self._pick_template(chat_template)
    self._chat = None
    if source is not None:
      self._chat = chat.ChatTemplate(
          source, self._tokenizer.special_tokens_map, self._path,
          system_prompt=system_prompt, options=chat_template_options)
    elif system_prompt is not None or chat_template_options:
      name = "chat_template_options" if system_prompt is None else (
          "system_prompt")
      raise errors.InputError(
          f"{self._path}: {name} needs a chat template, and there is none")
    self.opens_thought = self._chat is not None and self._chat.opens_thought
    self.vocab_size = len(self._tokenizer)
    self._added = {
        i: token for i, token in self._tokenizer.added_tokens_decoder.items()
        if token.content not in thinking.TAGS}
    self.stop_ids = self._find_stop_ids(local)
    pad = self._tokenizer.pad_token_id
    self.pad_id = self.stop_ids[0] if pad is None else pad
    self._silent = frozenset(
        i for i, token in self._added.items()
        if token.special or i in self.stop_ids)
    self._control = self._find_control()
    self._newline, _ = self._plain("\n")
    self._before = self._find_bare_head()

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone; what looks like a special token is text."""
    text = _valid(text)
    return self._code(text, 0, len(text))[0]

  def encode_prompt(self, text: str) -> tuple[list[int], list[bool]]:
    """Ids with template or BOS, and which of them are the user's."""
    text = _valid(text)
    if self._chat is not None:
      return self._code(*self._chat.wrap(text))
    ids, user = self._code(text, 0, len(text))
    return [*self._before, *ids], [*[False] * len(self._before), *user]

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids with the tags of thoughts.

    Special ids, stop ids and those past the vocabulary drop out.
    """
    return self._tokenizer.decode(
        [int(i) for i in ids
         if 0 <= i < self.vocab_size and i not in self._silent],
        skip_special_tokens=False, clean_up_tokenization_spaces=False)

  def pieces(self) -> list[tuple[str, int]]:
    """Pieces by id."""
    return sorted(self._tokenizer.get_vocab().items(), key=lambda x: x[1])

  def save(self, directory: str) -> None:
    """Writes the tokenizer's files, with its chat template and stop ids."""
    directory = epath.Path(directory)
    stops = list(self.stop_ids)
    generation = dict(
        eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=self.pad_id)
    with tempfile.TemporaryDirectory() as local:
      self._tokenizer.save_pretrained(local)
      _make_common(os.path.join(local, _CONFIG_FILE))
      there = directory / _GENERATION_FILE
      _write_json(os.path.join(local, _GENERATION_FILE), (
          _read_json(there) if there.exists() else {}) | generation)
      for folder, _, files in os.walk(local):
        for file in files:
          source = epath.Path(folder) / file
          _write(
              directory / source.relative_to(local), source.read_bytes())

  def _pick_template(self, choice: str) -> str | None:
    """The Jinja text, or None for bare prompts."""
    own = self._tokenizer.chat_template or None
    named = own if isinstance(own, dict) else {}
    if choice == "none":
      return None
    if choice in named:
      return named[choice]
    if choice in ("auto", "own"):
      if named:
        if "default" not in named:
          raise errors.InputError(
              f"{self._path}: none of the tokenizer's chat templates is the "
              "default one; set config.model.chat_template to 'none' or one "
              f"of {', '.join(map(repr, sorted(named)))}")
        return named["default"]
      if own is None and choice == "own":
        raise errors.InputError(
            f"{self._path}: the tokenizer has no chat template")
      return own
    if "{" not in choice:
      known = ["auto", "own", "none", *sorted(named)]
      raise errors.InputError(
          f"chat_template {choice!r} must be {', '.join(map(repr, known))} or "
          "a Jinja template")
    return choice

  def _find_stop_ids(self, local: str) -> tuple[int, ...]:
    """What ends an answer: first of all what the chat template ends it with.

    Then the tokenizer's EOS, and those of `generation_config.json`. A base
    checkpoint may have a template whose <|im_end|> neither of these names.
    """
    ids = [self._end_of_turn(), self._tokenizer.eos_token_id]
    file = os.path.join(local, _GENERATION_FILE)
    if os.path.exists(file):
      eos = _read_json(file).get("eos_token_id")
      eos = eos if isinstance(eos, list) else [eos]
      if not all(i is None or type(i) is int and i >= 0 for i in eos):
        raise errors.InputError(
            f"{self._path}: eos_token_id in {_GENERATION_FILE} must be a token "
            f"id or a list of them, not {eos!r}")
      ids += eos
    ids = tuple(dict.fromkeys(int(i) for i in ids if i is not None))
    if not ids:
      raise errors.InputError(
          f"{self._path}: neither the tokenizer nor generation_config.json "
          "nor a chat template names an end-of-text token: responses could "
          "not end")
    return ids

  def _end_of_turn(self) -> int | None:
    """The token that the chat template writes right behind an answer."""
    if self._chat is None:
      return None
    for i in self._plain(self._chat.answer_end)[0]:
      if i in self._added:
        return i
      if self._tokenizer.decode([i]).strip():
        return None
    return None

  def _find_control(self) -> dict[int, str]:
    """Ids that no text of a user's may be coded as, and how they look."""
    source, frame = "", []
    if self._chat is not None:
      source = self._chat.source
      # A template may build its tokens: '<|' + message['role'] + '|>'.
      for part in (self._chat.head, self._chat.tail, self._chat.answer_end):
        frame += self._plain(part)[0]
    return {
        i: token.content for i, token in self._added.items()
        if not token.content.isspace()
        and (token.special or i in frame or token.content in source)}

  def _find_bare_head(self) -> list[int]:
    """What the tokenizer itself puts before a bare text, such as BOS.

    What it puts behind is left out: a response follows a prompt, and behind
    an end token there is none.
    """
    coded = self._tokenizer(
        "a", add_special_tokens=True, return_special_tokens_mask=True)
    ids, special = coded["input_ids"], coded["special_tokens_mask"]
    own = [n for n, frame in enumerate(special) if not frame]
    if own:
      return ids[:own[0]]
    return [i for i in ids if i not in self.stop_ids]

  def _code(
      self, text: str, start: int, end: int) -> tuple[list[int], list[bool]]:
    """Ids of a text, and which are of the user's part, text[start:end].

    Where a control token would come of that part, the text is cut within it
    and coded piece by piece, so that it is spelled out. Text without such is
    coded in one piece, as transformers would.
    """
    cuts = {0}
    while True:
      ids, spans = self._code_pieces(text, sorted(cuts))
      forged = {
          self._cut(text, span, i, start, end)
          for i, span in zip(ids, spans) if i in self._control} - {None}
      if not forged:
        break
      cuts |= forged
    # A template's token may have swallowed spaces of the user's.
    user = [
        lo < end and hi > start and i not in self._control
        for i, (lo, hi) in zip(ids, _filled(spans, len(text)))]
    return ids, user

  def _cut(
      self, text: str, span: tuple[int, int], token: int, start: int,
      end: int) -> int | None:
    """Where to cut a control token, None if it is the template's own."""
    lo, hi = span
    content = self._control[token]
    at = text.find(content, lo, hi)  # spaces around it may belong to the span
    if at >= 0:
      lo, hi = at, at + len(content)
    if lo >= end or hi <= start:
      return None
    if hi - lo < 2:
      raise errors.InputError(
          f"{self._path}: the prompt holds {content!r}, which this tokenizer "
          "can only read as a special token")
    return lo + 1

  def _code_pieces(
      self, text: str, cuts: list[int],
  ) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and spans of a text that is cut at the given places, 0 first."""
    ids, spans = self._plain(text[:cuts[1]] if cuts[1:] else text)
    for lo, hi in itertools.pairwise([*cuts[1:], len(text)]):
      # Some tokenizers put a space before what they take for a beginning.
      piece, places = self._plain("\n" + text[lo:hi])
      size = len(self._newline)
      shift = lo - 1
      if piece[:size] != self._newline or any(a < 1 for a, _ in places[size:]):
        piece, places = self._plain(text[lo:hi])
        size, shift = 0, lo
      ids += piece[size:]
      spans += [(a + shift, b + shift) for a, b in places[size:]]
    return ids, spans

  def _plain(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and spans of a text, what looks like a special token being one."""
    coded = self._tokenizer(
        text, add_special_tokens=False, verbose=False,
        return_offsets_mapping=True)
    return coded["input_ids"], coded["offset_mapping"]


def _read_tokenizer(local: str, where: str):
  """The tokenizer of transformers in a directory, with its chat template.

  Raises:
    InputError: there is none, or none of the fast kind.
  """
  # Only its tokenizers are used; it need not say that PyTorch is missing.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  import transformers
  # AutoTokenizer goes by the model's type and may replace the rules of
  # tokenizer.json by those of that type's usual tokenizer.
  kind = transformers.AutoTokenizer
  if os.path.exists(os.path.join(local, "tokenizer.json")):
    kind = transformers.PreTrainedTokenizerFast
  try:
    found = kind.from_pretrained(local, local_files_only=True)
  except Exception as e:  # the parser of tokenizer.json raises no other
    raise errors.InputError(f"{where}: no usable tokenizer: {e}") from e
  if not found.is_fast:
    raise errors.InputError(
        f"{where}: the tokenizer has no tokenizer.json, so that the user's "
        "part of a prompt cannot be found; convert it with transformers")
  for name in _PROCESSOR_FILES:
    file = os.path.join(local, name)
    if not found.chat_template and os.path.exists(file):
      found.chat_template = template = _read_json(file).get("chat_template")
      if isinstance(template, list):
        found.chat_template = {t["name"]: t["template"] for t in template}
  return found


def _filled(spans: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
  """Spans of a text's tokens; an empty one becomes the gap that it lies in.

  Many a tokenizer leaves spaces out of its spans, so that a token of nothing
  else is told from its neighbours alone.
  """
  filled, end = [], 0
  for n, (lo, hi) in enumerate(spans):
    if lo == hi:
      following = (a for a, b in spans[n + 1:] if a < b)
      lo, hi = end, max(end, next(following, size))
    else:
      end = hi
    filled.append((lo, hi))
  return filled


def _make_common(file: str) -> None:
  """Makes a tokenizer's config one that version 4 of transformers reads too.

  Many a vLLM is built on that, and does not know the names of version 5;
  version 5 knows these.
  """
  content = _read_json(file)
  content["tokenizer_class"] = "PreTrainedTokenizerFast"
  if isinstance(content.get("extra_special_tokens"), list):
    content["additional_special_tokens"] = content.pop("extra_special_tokens")
  for key in ("is_local", "local_files_only"):  # of this process
    content.pop(key, None)
  _write_json(file, content)


def load(
    path: str, *, chat_template: str = "auto",
    chat_template_options: Mapping[str, Any] | None = None,
    system_prompt: str | None = None) -> Tokenizer:
  """Reads the tokenizer of a directory, or a `.model` file.

  A directory with `tokenizer.json` or `tokenizer_config.json` is a Hugging
  Face tokenizer; one with `tokenizer.model` alone is sentencepiece. The path
  is local, or a URL such as gs://bucket/model. The options: see `HFTokenizer`.

  Raises:
    InputError: no tokenizer there, or a template was asked of one without.
  """
  place, path = epath.Path(path), os.fspath(path)
  if any((place / f).exists() for f in _HF_FILES):
    options = dict(
        chat_template=chat_template, system_prompt=system_prompt,
        chat_template_options=chat_template_options, where=path)
    if "://" not in path:
      return HFTokenizer(path, **options)
    with tempfile.TemporaryDirectory() as local:
      _copy(place, local)
      return HFTokenizer(local, **options)
  file = place if place.is_file() else place / _MODEL_FILE
  if not place.exists():
    raise errors.InputError(f"{path}: no such file or directory")
  if not file.exists():
    raise errors.InputError(
        f"{path}: no tokenizer; looked for {', '.join(_HF_FILES)} and "
        f"{_MODEL_FILE}")
  if (chat_template not in ("auto", "none") or chat_template_options
      or system_prompt is not None):
    raise errors.InputError(
        f"{file}: a sentencepiece tokenizer takes no chat template, no "
        "options of one and no system prompt")
  return SentencePieceTokenizer.load(file)


def _copy(directory: epath.Path, local: str) -> None:
  """Copies what a tokenizer may be made of."""
  for found in directory.iterdir():
    if found.name == _TEMPLATES:
      os.makedirs(os.path.join(local, _TEMPLATES), exist_ok=True)
      _copy(found, os.path.join(local, _TEMPLATES))
    elif found.suffix in _KINDS:
      _write(epath.Path(local) / found.name, found.read_bytes())


def _valid(text: str) -> str:
  """The text with lone surrogates, which no UTF-8 can spell, replaced."""
  return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _write(path: epath.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if "://" in os.fspath(path):  # a bucket has no halves of files
    path.write_bytes(content)
    return
  part = path.with_name(f"{path.name}.{os.getpid()}.part")
  part.write_bytes(content)
  part.replace(path)


def _write_json(path: epath.PathLike, content: dict) -> None:
  """Writes an object as people read it."""
  _write(path, (json.dumps(
      content, indent=2, ensure_ascii=False) + "\n").encode())


def _read_json(path: epath.PathLike) -> dict:
  """The object in a JSON file."""
  try:
    content = json.loads(epath.Path(path).read_text(encoding="utf-8"))
  except ValueError as e:
    raise errors.InputError(f"{path}: not JSON: {e}") from e
  if not isinstance(content, dict):
    raise errors.InputError(f"{path}: not a JSON object")
  return content
