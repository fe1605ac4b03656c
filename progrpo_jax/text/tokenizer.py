"""Text to token ids and back: sentencepiece and Hugging Face tokenizers.

Both classes implement the protocol `Tokenizer`. `decode` drops special tokens
and `encode` never produces them, so text that looks like a special token
survives a round trip.
"""

from collections.abc import Iterable, Mapping, Sequence
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

_SPACE = "\u2581"  # sentencepiece's character for a space
# Text with words, numbers, spaces and code; its ids are part of the digest.
_PROBE = "What is 12 + 345?  Naïvely: def f(x):\n  return x ** 2"
_CONFIG_FILE = "tokenizer_config.json"
_HF_FILES = ("tokenizer.json", _CONFIG_FILE)
_MODEL_FILE = "tokenizer.model"
_GENERATION_FILE = "generation_config.json"
# Files in which vision models keep their chat template.
_PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
# Extensions of the files of a tokenizer, which exclude weights.
_KINDS = (".json", ".jinja", ".model", ".txt")
_TEMPLATES = "additional_chat_templates"


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
  """

  pad_id: int
  bos_id: int | None
  stop_ids: tuple[int, ...]
  vocab_size: int
  opens_thought: bool

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
    texts = [_valid(t) for t in texts]
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
    _refuse_context(context)
    ids = self.encode(text)
    return self._bos + ids, [False] * len(self._bos) + [True] * len(ids)

  def encode_reply(self, text: str) -> list[int]:
    """Ids of the text alone."""
    return self.encode(text)

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
    _write(epath.Path(directory) / _MODEL_FILE, self._model)


class HFTokenizer:
  """A tokenizer in a local Hugging Face directory; nothing is downloaded.

  User text cannot imitate the chat's markup: it is never encoded as a special
  token or as another added token that the template writes, but as plain text.
  The tags of thoughts (<think>) are an exception: they do not change roles,
  prompts mention them, and `decode` keeps them for verifiers.
  """

  def __init__(
    self,
    local: str,
    *,
    chat_template: str = "auto",
    chat_template_options: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
    where: str | None = None,
  ):
    """Reads the directory.

    Args:
      local: local directory with `tokenizer.json`, or with files that
        transformers converts to it.
      chat_template: "auto" uses the tokenizer's template if it has one; "own"
        requires it; "none" uses no template; the name of a template picks one
        of several; any other text is a Jinja template, which must write BOS
        itself if the model needs it.
      chat_template_options: variables for the template.
      system_prompt: system message of the chat; requires a template.
      where: name of the directory in error messages; None is `local`.

    Raises:
      InputError: there is no usable tokenizer, or the template is missing,
        fails, or does not read an option.
    """
    self._path = where or local
    # The template: its rendered text is needed for the ids below.
    self._tokenizer = _read_tokenizer(local, self._path)
    source = self._pick_template(chat_template)
    self._chat = None
    if source is not None:
      self._chat = chat.ChatTemplate(
        source,
        self._tokenizer.special_tokens_map,
        self._path,
        system_prompt=system_prompt,
        options=chat_template_options,
      )
    elif system_prompt is not None or chat_template_options:
      name = (
        "chat_template_options" if system_prompt is None else ("system_prompt")
      )
      raise errors.InputError(
        f"{self._path}: {name} needs a chat template, and there is none"
      )
    self.opens_thought = self._chat is not None and self._chat.opens_thought
    self.vocab_size = len(self._tokenizer)
    # Added tokens without the tags of thoughts, which count as plain text.
    self._added = {
      i: token
      for i, token in self._tokenizer.added_tokens_decoder.items()
      if token.content not in thinking.TAGS
    }
    self.stop_ids = self._find_stop_ids(local)
    self.bos_id = self._tokenizer.bos_token_id
    pad = self._tokenizer.pad_token_id
    self.pad_id = self.stop_ids[0] if pad is None else pad
    # Ids that `decode` drops, ids that user text must not become, and the ids
    # of a newline and of what precedes a text without template.
    self._silent = frozenset(
      i
      for i, token in self._added.items()
      if token.special or i in self.stop_ids
    )
    self._control = self._find_control()
    self._newline, _ = self._plain("\n")
    self._before = self._find_bare_head()

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone; text like a special token stays plain text."""
    text = _valid(text)
    return self._code(text, 0, len(text))[0]

  def encode_prompt(
    self, text: str, context: Sequence[Mapping[str, str]] = ()
  ) -> tuple[list[int], list[bool]]:
    """Ids with template or BOS, and a flag per id: True for the user's text."""
    text = _valid(text)
    if self._chat is not None and context:
      before = [{**m, "content": _valid(m["content"])} for m in context]
      written, spans = self._chat.wrap_chat(before, text)
      return self._code(written, *spans[-1], spans[:-1])
    _refuse_context(context)
    if self._chat is not None:
      return self._code(*self._chat.wrap(text))
    ids, user = self._code(text, 0, len(text))
    return [*self._before, *ids], [*[False] * len(self._before), *user]

  def encode_reply(self, text: str) -> list[int]:
    """Ids of a message after a stop token, with the template around it."""
    text = _valid(text)
    if self._chat is None:
      return self.encode(text)
    head, tail = self._chat.reply_pieces
    ids, _ = self._code(head + text + tail, len(head), len(head) + len(text))
    # The stop token that the policy wrote takes the place of the template's.
    return ids[1:] if ids and ids[0] in self.stop_ids else ids

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids, including the tags of thoughts.

    Special ids, stop ids and ids outside the vocabulary are dropped.
    """
    return self._tokenizer.decode(
      [
        int(i)
        for i in ids
        if 0 <= i < self.vocab_size and i not in self._silent
      ],
      skip_special_tokens=False,
      clean_up_tokenization_spaces=False,
    )

  def pieces(self) -> list[tuple[str, int]]:
    """Pieces by id."""
    return sorted(self._tokenizer.get_vocab().items(), key=lambda x: x[1])

  def save(self, directory: str) -> None:
    """Writes the tokenizer's files, with its chat template and stop ids."""
    directory = epath.Path(directory)
    stops = list(self.stop_ids)
    generation = dict(
      eos_token_id=stops if len(stops) > 1 else stops[0],
      pad_token_id=self.pad_id,
    )
    # transformers writes to local directories only; the files are then copied,
    # each whole or not at all.
    with tempfile.TemporaryDirectory() as local:
      self._tokenizer.save_pretrained(local)
      _make_common(os.path.join(local, _CONFIG_FILE))
      # Other settings of an existing generation_config.json are kept.
      existing = directory / _GENERATION_FILE
      _write_json(
        os.path.join(local, _GENERATION_FILE),
        (_read_json(existing) if existing.exists() else {}) | generation,
      )
      for folder, _, files in os.walk(local):
        for file in files:
          source = epath.Path(folder) / file
          _write(directory / source.relative_to(local), source.read_bytes())

  def _pick_template(self, choice: str) -> str | None:
    """Jinja text of the chosen template, or None for prompts without one.

    Raises:
      InputError: the choice does not exist.
    """
    # Either one template or a dict of named ones.
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
            f"of {', '.join(map(repr, sorted(named)))}"
          )
        return named["default"]
      if own is None and choice == "own":
        raise errors.InputError(
          f"{self._path}: the tokenizer has no chat template"
        )
      return own
    # Every Jinja template has a brace; without one it is a misspelled name.
    if "{" not in choice:
      names = ["auto", "own", "none", *sorted(named)]
      raise errors.InputError(
        f"chat_template {choice!r} must be {', '.join(map(repr, names))} or "
        "a Jinja template"
      )
    return choice

  def _find_stop_ids(self, local: str) -> tuple[int, ...]:
    """Ids that end an answer.

    In this order: the token that the chat template writes after an answer, the
    tokenizer's EOS, and the EOS ids of `generation_config.json`. The first is
    needed because a base checkpoint may have a template with <|im_end|> while
    its EOS is another token.

    Raises:
      InputError: there is none, or the file is malformed.
    """
    # The file may have one id, a list, or none.
    ids = [self._end_of_turn(), self._tokenizer.eos_token_id]
    file = os.path.join(local, _GENERATION_FILE)
    if os.path.exists(file):
      eos = _read_json(file).get("eos_token_id")
      eos = eos if isinstance(eos, list) else [eos]
      if not all(i is None or type(i) is int and i >= 0 for i in eos):
        raise errors.InputError(
          f"{self._path}: eos_token_id in {_GENERATION_FILE} must be a token "
          f"id or a list of them, not {eos!r}"
        )
      ids += eos
    # Without repetitions, in the order above.
    ids = tuple(dict.fromkeys(int(i) for i in ids if i is not None))
    if not ids:
      raise errors.InputError(
        f"{self._path}: neither the tokenizer nor generation_config.json "
        "nor a chat template names an end-of-text token: responses could "
        "not end"
      )
    return ids

  def _end_of_turn(self) -> int | None:
    """The added token that the template writes right after an answer.

    Spaces before it are skipped; None if text comes first.
    """
    if self._chat is None:
      return None
    for i in self._plain(self._chat.answer_end)[0]:
      if i in self._added:
        return i
      if self._tokenizer.decode([i]).strip():
        return None
    return None

  def _find_control(self) -> dict[int, str]:
    """Control tokens {id: text}: ids that user text must not be encoded as.

    These are the added tokens that are special, occur in what the template
    writes, or occur in the template's source. Whitespace tokens are left out.
    """
    source, frame = "", []
    if self._chat is not None:
      source = self._chat.source
      # Rendered text is searched besides the source, because a template may
      # compose its tokens: '<|' + message['role'] + '|>'.
      for part in (self._chat.head, self._chat.tail, self._chat.answer_end):
        frame += self._plain(part)[0]
    return {
      i: token.content
      for i, token in self._added.items()
      if not token.content.isspace()
      and (token.special or i in frame or token.content in source)
    }

  def _find_bare_head(self) -> list[int]:
    """Ids that the tokenizer puts before a text without template, such as BOS.

    Ids that it puts after the text are left out: the response follows there,
    and nothing may follow an end token.
    """
    coded = self._tokenizer(
      "a", add_special_tokens=True, return_special_tokens_mask=True
    )
    ids, special = coded["input_ids"], coded["special_tokens_mask"]
    text_places = [n for n, is_special in enumerate(special) if not is_special]
    if text_places:
      return ids[: text_places[0]]
    # "a" gave no token at all: all ids are the tokenizer's additions.
    return [i for i in ids if i not in self.stop_ids]

  def _code(
    self,
    text: str,
    start: int,
    end: int,
    others: Sequence[tuple[int, int]] = (),
  ) -> tuple[list[int], list[bool]]:
    """Encodes a text whose part text[start:end] is the user's.

    Where the user's part, or one of the spans `others`, would become a control
    token, the text is cut inside of that token and encoded piece by piece,
    which spells it out. Other text is encoded in one piece, as by transformers.

    Returns:
      (ids, user): ids, and a flag per id: True for the user's text.
    """
    # Repeated until no control token is left: a cut may create new ones.
    cuts = {0}
    while True:
      ids, spans = self._code_pieces(text, sorted(cuts))
      forged = {
        self._cut(text, span, i, *part)
        for i, span in zip(ids, spans)
        if i in self._control
        for part in ((start, end), *others)
      } - {None}
      if not forged:
        break
      cuts |= forged
    # A control token is the template's even if its span covers user spaces.
    user = [
      lo < end and hi > start and i not in self._control
      for i, (lo, hi) in zip(ids, _filled(spans, len(text)))
    ]
    return ids, user

  def _cut(
    self, text: str, span: tuple[int, int], token: int, start: int, end: int
  ) -> int | None:
    """Position at which to cut a control token; None if the template wrote it.

    Raises:
      InputError: the token is one character, which cannot be cut.
    """
    lo, hi = span
    content = self._control[token]
    # The span may include spaces around the token; narrow it to the token.
    at = text.find(content, lo, hi)
    if at >= 0:
      lo, hi = at, at + len(content)
    if lo >= end or hi <= start:
      return None
    if hi - lo < 2:
      raise errors.InputError(
        f"{self._path}: the prompt holds {content!r}, which this tokenizer "
        "can only read as a special token"
      )
    return lo + 1

  def _code_pieces(
    self, text: str, cuts: list[int]
  ) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and spans of a text that is cut at the given places, 0 first.

    Spans count characters of the whole text.
    """
    ids, spans = self._plain(text[: cuts[1]] if cuts[1:] else text)
    for lo, hi in itertools.pairwise([*cuts[1:], len(text)]):
      # Some tokenizers add a space at the beginning of a text. A newline in
      # front takes that place, and its ids are dropped; if the newline was
      # merged with the piece, the piece is encoded alone.
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
    """Ids and spans of a text, as transformers encodes it.

    Text that looks like a special token becomes that token.
    """
    coded = self._tokenizer(
      text, add_special_tokens=False, verbose=False, return_offsets_mapping=True
    )
    return coded["input_ids"], coded["offset_mapping"]


def _refuse_context(context: Sequence[Mapping[str, str]]) -> None:
  """Refuses messages before a prompt where nothing says how to write them."""
  if context:
    raise errors.InputError(
      f"a prompt of {len(context) + 1} messages needs a chat template, and this"
      " policy has none: set config.model.chat_template"
    )


def _read_tokenizer(local: str, where: str):
  """Reads transformers' tokenizer and the chat template of a directory.

  Args:
    local: local directory.
    where: name of the directory in error messages.

  Raises:
    InputError: there is no tokenizer, or it is not of the fast kind.
  """
  # Silences transformers' warning that PyTorch is missing; only its tokenizers
  # are used.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  import transformers

  # AutoTokenizer picks a class by the model's type, which may override rules
  # of tokenizer.json; the plain fast class reads the file as it is.
  kind = transformers.AutoTokenizer
  if os.path.exists(os.path.join(local, "tokenizer.json")):
    kind = transformers.PreTrainedTokenizerFast
  try:
    tokenizer = kind.from_pretrained(local, local_files_only=True)
  except Exception as e:  # the parser of tokenizer.json raises plain Exception
    raise errors.InputError(f"{where}: no usable tokenizer: {e}") from e
  # Slow tokenizers do not tell the spans of their tokens.
  if not tokenizer.is_fast:
    raise errors.InputError(
      f"{where}: the tokenizer has no tokenizer.json, so the user's part of "
      "a prompt cannot be found; convert it with transformers"
    )
  for name in _PROCESSOR_FILES:
    file = os.path.join(local, name)
    if not tokenizer.chat_template and os.path.exists(file):
      template = _read_json(file).get("chat_template")
      if isinstance(template, list):
        template = {t["name"]: t["template"] for t in template}
      tokenizer.chat_template = template
  return tokenizer


def _filled(spans: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
  """Replaces empty spans of tokens by the gap between their neighbours.

  Many tokenizers leave spaces out of spans, so a token of spaces only has an
  empty span.

  Args:
    spans: (start, end) of each token.
    size: length of the text, which ends the last gap.
  """
  filled, end = [], 0
  for n, (lo, hi) in enumerate(spans):
    if lo == hi:
      following = (a for a, b in spans[n + 1 :] if a < b)
      lo, hi = end, max(end, next(following, size))
    else:
      end = hi
    filled.append((lo, hi))
  return filled


def _make_common(file: str) -> None:
  """Rewrites a tokenizer's config so that transformers 4 reads it too.

  Many versions of vLLM use transformers 4, which does not know the names that
  version 5 writes; version 5 still reads the old names.
  """
  content = _read_json(file)
  content["tokenizer_class"] = "PreTrainedTokenizerFast"
  if isinstance(content.get("extra_special_tokens"), list):
    content["additional_special_tokens"] = content.pop("extra_special_tokens")
  # Settings of this process's `from_pretrained`, not of the tokenizer.
  for key in ("is_local", "local_files_only"):
    content.pop(key, None)
  _write_json(file, content)


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
  if any((place / f).exists() for f in _HF_FILES):
    # transformers reads local files only: remote ones are copied first.
    options = dict(
      chat_template=chat_template,
      system_prompt=system_prompt,
      chat_template_options=chat_template_options,
      where=path,
    )
    if "://" not in path:
      return HFTokenizer(path, **options)
    with tempfile.TemporaryDirectory() as local:
      _copy(place, local)
      return HFTokenizer(local, **options)
  # Otherwise sentencepiece: a `.model` file, or a directory with one.
  file = place if place.is_file() else place / _MODEL_FILE
  if not place.exists():
    raise errors.InputError(f"{path}: no such file or directory")
  if not file.exists():
    raise errors.InputError(
      f"{path}: no tokenizer; looked for {', '.join(_HF_FILES)} and "
      f"{_MODEL_FILE}"
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
  return SentencePieceTokenizer.load(file)


def has_template(directory) -> bool:
  """Whether the tokenizer of a directory has a chat template of its own.

  Raises:
    InputError: its configuration cannot be read.
  """
  place = epath.Path(directory)
  file = place / _CONFIG_FILE
  return (place / "chat_template.jinja").exists() or bool(
    file.exists() and _read_json(file).get("chat_template")
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
  if any((place / f).exists() for f in _HF_FILES):
    return ""
  if not (place / _MODEL_FILE).exists():
    return ""
  tokenizer = SentencePieceTokenizer.load(place / _MODEL_FILE)
  if tokenizer.bos_id is None:
    return ""
  piece, _ = tokenizer.pieces()[tokenizer.bos_id]
  return piece


def _copy(directory: epath.Path, local: str) -> None:
  """Copies the files of a tokenizer to a local directory."""
  for entry in directory.iterdir():
    if entry.name == _TEMPLATES:
      os.makedirs(os.path.join(local, _TEMPLATES), exist_ok=True)
      _copy(entry, os.path.join(local, _TEMPLATES))
    elif entry.suffix in _KINDS:
      _write(epath.Path(local) / entry.name, entry.read_bytes())


def _valid(text: str) -> str:
  """Replaces lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
  return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _write(path: epath.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if "://" in os.fspath(path):  # buckets replace an object whole
    path.write_bytes(content)
    return
  part = path.with_name(f"{path.name}.{os.getpid()}.part")
  part.write_bytes(content)
  part.replace(path)


def _write_json(path: epath.PathLike, content: dict) -> None:
  """Writes an indented JSON file."""
  _write(
    path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
  )


def _read_json(path: epath.PathLike) -> dict:
  """Reads the object in a JSON file.

  Raises:
    InputError: the file is not JSON, or not an object.
  """
  try:
    content = json.loads(epath.Path(path).read_text(encoding="utf-8"))
  except ValueError as e:
    raise errors.InputError(f"{path}: not JSON: {e}") from e
  if not isinstance(content, dict):
    raise errors.InputError(f"{path}: not a JSON object")
  return content
