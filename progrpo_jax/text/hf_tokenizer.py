"""Tokenizers of Hugging Face directories, with their chat templates."""

from collections.abc import Iterable, Mapping, Sequence
import os
import tempfile
from typing import Any

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.rewards import thinking
from progrpo_jax.text import baked, chat, files, inputs, user_part

_GENERATION_FILE = "generation_config.json"
# Files in which vision models keep their chat template.
_PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
# What transformers writes there about the file itself.
_OF_THE_FILE = ("_from_model_config", "transformers_version")


class HFTokenizer:
  """A tokenizer in a local Hugging Face directory; nothing is downloaded.

  User text cannot imitate the chat's markup: it is never encoded as a special
  token or as another added token that the template writes, but as plain text.
  The tags of thoughts (<think>) are an exception: they do not change roles,
  prompts mention them, and `decode` keeps them for verifiers.

  Attributes:
    generation: content of the directory's `generation_config.json`, such as
      temperature and top-p.
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
      chat_template_options: variables for the template, over those that are
        baked into it (`baked`).
      system_prompt: system message of the chat; requires a template. None is
        the one that is baked into it, if there is one.
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
    self.generation = _read_generation(local)
    if source is not None:
      source, options, system = baked.split(source)
      self._chat = chat.ChatTemplate(
        source,
        self._tokenizer.special_tokens_map,
        self._path,
        system_prompt=system if system_prompt is None else system_prompt,
        options=options | dict(chat_template_options or {}),
      )
    elif system_prompt is not None or chat_template_options:
      name = "system_prompt"
      if system_prompt is None:
        name = "chat_template_options"
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
    self.stop_ids = self._find_stop_ids()
    self.bos_id = self._tokenizer.bos_token_id
    pad = self._tokenizer.pad_token_id
    self.pad_id = self.stop_ids[0] if pad is None else pad
    # Ids that `decode` drops, and ids that precede a text without template.
    self._silent = frozenset(
      i
      for i, token in self._added.items()
      if token.special or i in self.stop_ids
    )
    control = self._find_control()
    self._encoder = user_part.Encoder(self._tokenizer, control, self._path)
    # The longest first, of which others may be a part.
    self._control = sorted(control.values(), key=len, reverse=True)
    self._before = self._find_bare_head()

  def encode(self, text: str) -> list[int]:
    """Ids of the text alone; text like a special token stays plain text."""
    text = inputs.valid(text)
    return self._encoder.encode(text, 0, len(text))[0]

  def encode_prompt(
    self, text: str, context: Sequence[Mapping[str, str]] = ()
  ) -> tuple[list[int], list[bool]]:
    """Ids with template or BOS, and a flag per id: True for the user's text."""
    text = inputs.valid(text)
    if self._chat is not None and context:
      before = [{**m, "content": inputs.valid(m["content"])} for m in context]
      written, spans = self._chat.wrap_chat(before, text)
      return self._encoder.encode(written, *spans[-1], spans[:-1])
    inputs.refuse_context(context)
    if self._chat is not None:
      return self._encoder.encode(*self._chat.wrap(text))
    ids, user = self._encoder.encode(text, 0, len(text))
    return [*self._before, *ids], [*[False] * len(self._before), *user]

  def encode_reply(self, text: str) -> list[int]:
    """Ids of a message after a stop token, with the template around it."""
    text = inputs.valid(text)
    if self._chat is None:
      return self.encode(text)
    head, tail = self._chat.reply_pieces
    ids, _ = self._encoder.encode(
      head + text + tail, len(head), len(head) + len(text)
    )
    # The stop token that the policy wrote takes the place of the template's.
    return ids[1:] if ids and ids[0] in self.stop_ids else ids

  def markup(self, text: str) -> str:
    """A control token whose text the text holds, or ""."""
    return next((token for token in self._control if token in text), "")

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
    """Writes the tokenizer's files, with its chat template and stop ids.

    The template that prompts went through becomes the tokenizer's own, with its
    options and the system prompt baked into it, so that others ask the policy
    as it was trained. Without one its own stays.
    """
    directory = epath.Path(directory)
    stops = list(self.stop_ids)
    generation = dict(
      eos_token_id=stops if len(stops) > 1 else stops[0],
      pad_token_id=self.pad_id,
    )
    # transformers writes to local directories only; the files are then copied,
    # each whole or not at all.
    own = self._tokenizer.chat_template
    with tempfile.TemporaryDirectory() as local:
      if self._chat is not None:
        source = baked.bake(
          self._chat.source, self._chat.options, self._chat.system_prompt
        )
        # A config may go on naming one of several.
        self._tokenizer.chat_template = (
          own | {"default": source} if isinstance(own, dict) else source
        )
      self._tokenizer.save_pretrained(local)
      self._tokenizer.chat_template = own
      _make_common(os.path.join(local, files.CONFIG))
      # Other settings, of an existing file too, are kept.
      existing = directory / _GENERATION_FILE
      places.write_json(
        os.path.join(local, _GENERATION_FILE),
        self.generation
        | (places.read_json(existing) if existing.exists() else {})
        | generation,
        ensure_ascii=False,
      )
      for folder, _, names in os.walk(local):
        for name in names:
          source = epath.Path(folder) / name
          places.write(
            directory / source.relative_to(local), source.read_bytes()
          )

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

  def _find_stop_ids(self) -> tuple[int, ...]:
    """Ids that end an answer.

    In this order: the token that the chat template writes after an answer, the
    tokenizer's EOS, and the EOS ids of `generation_config.json`. The first is
    needed because a base checkpoint may have a template with <|im_end|> while
    its EOS is another token.

    Raises:
      InputError: there is none, or one is no id.
    """
    # The file may have one id, a list, or none.
    ids = [self._end_of_turn(), self._tokenizer.eos_token_id]
    eos = self.generation.get("eos_token_id")
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
    for i in user_part.plain(self._tokenizer, self._chat.answer_end)[0]:
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
        frame += user_part.plain(self._tokenizer, part)[0]
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
      template = places.read_json(file).get("chat_template")
      if isinstance(template, list):
        template = {t["name"]: t["template"] for t in template}
      tokenizer.chat_template = template
  return tokenizer


def _read_generation(local: str) -> dict[str, Any]:
  """Returns the settings in a directory's `generation_config.json`."""
  file = os.path.join(local, _GENERATION_FILE)
  if not os.path.exists(file):
    return {}
  return {
    name: value
    for name, value in places.read_json(file).items()
    if name not in _OF_THE_FILE
  }


def _make_common(file: str) -> None:
  """Rewrites a tokenizer's config so that transformers 4 reads it too.

  Many versions of vLLM use transformers 4, which does not know the names that
  version 5 writes; version 5 still reads the old names.
  """
  content = places.read_json(file)
  content["tokenizer_class"] = "PreTrainedTokenizerFast"
  if isinstance(content.get("extra_special_tokens"), list):
    content["additional_special_tokens"] = content.pop("extra_special_tokens")
  # Settings of this process's `from_pretrained`, not of the tokenizer.
  for key in ("is_local", "local_files_only"):
    content.pop(key, None)
  places.write_json(file, content, ensure_ascii=False)
