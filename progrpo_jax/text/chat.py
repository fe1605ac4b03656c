"""Chat templates: the text around a user's text and around an answer.

A template is a Jinja program that comes with the tokenizer. It is untrusted,
so it runs in a worker process with limits on time and memory (`rendering`).

Templates cannot read today's date. Prompts with the date would change from day
to day, and a resumed run would differ from an uninterrupted one. Templates that
have a default date use it (Llama 3.2 writes "26 Jul 2024"); templates that need
one are refused until an option sets it.
"""

from collections.abc import Mapping, Sequence
import functools
import re
from typing import Any

from progrpo_jax import errors
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import thinking
from progrpo_jax.text import baked

_KEY = "config.model.chat_template_options"

# Placeholder messages. Rendering them shows the template's own text.
_PROBE = "PROBE-OF-THE-CHAT-TEMPLATE"
_ANSWER = "ANSWER-TO-THE-PROBE"

# transformers gives templates a clock function of the first name. Calls of it
# are renamed to the second name, which is undefined, or a macro that writes the
# option of the first name.
_CLOCK = baked.CLOCK
_NO_CLOCK = "date_of_this_run"
_MACRO = (
  f"{{% macro {_NO_CLOCK}(format) %}}{{{{ {_CLOCK} }}}}{{% endmacro %}}\n"
)

# Variables that the renderer sets; they are not options.
_GIVEN = frozenset(
  (
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "raise_exception",
    "chat_template",
    "tokenize",
    _NO_CLOCK,
  )
)

# Rendering a prompt takes less than a millisecond; a template that needs this
# long is in an endless loop. The pool tries again, in case the machine stalled.
_DEADLINE_S = 10.0
_MEMORY_MB = 1024


class _RanAway(errors.InputError):
  """A template exceeded its limit of time or memory."""


class ChatTemplate:
  """A chat template with the system prompt and the options of a run.

  Attributes:
    source: Jinja program.
    options: further variables for the program.
    system_prompt: system message of the chat, or None.
    head: text that the template writes before the user's text.
    tail: text that it writes between the user's text and the answer.
    answer_end: text that it writes after an answer; "" if it cannot render
      answers.
    opens_thought: whether the prompt opens a thought (<think>), so that the
      answer begins inside of it.
  """

  def __init__(
    self,
    source: str,
    special: Mapping[str, Any],
    where: str,
    *,
    system_prompt: str | None = None,
    options: Mapping[str, Any] | None = None,
  ):
    """Renders placeholder messages to find the template's own text.

    Args:
      source: Jinja program.
      special: the tokenizer's special tokens by name, such as "bos_token";
        variables for the program.
      where: origin of the template, which starts error messages.
      system_prompt: system message of the chat, or None.
      options: further variables for the program; it must read each of them.

    Raises:
      InputError: the template fails, exceeds its limit of time or memory, does
        not write the user's text exactly once, asks for today's date, or does
        not read an option.
    """
    self.source, self._special, self._where = source, dict(special), where
    self.options, self.system_prompt = dict(options or {}), system_prompt
    self._system = (
      [] if system_prompt is None else [_message("system", system_prompt)]
    )
    self._between: dict[tuple[str, ...], list[str]] = {}
    self._check_options()
    self._program = re.sub(rf"\b{_CLOCK}\b", _NO_CLOCK, source)
    if _CLOCK in self.options:
      self._program = _MACRO + self._program
    question = [_message("user", _PROBE)]
    prompt = self._render(question, True)
    parts = prompt.split(_PROBE)
    if len(parts) != 2:
      raise errors.InputError(
        f"{where}: the chat template writes the user's text "
        f"{len(parts) - 1} times; it must do so once"
      )
    self.head, self.tail = parts
    # Rendered with and without the beginning of an answer, the question shows
    # what the template writes there. If both are equal, the template always
    # begins the answer, and its tail has that text.
    bare = self._try(question)
    opening = prompt[len(bare) :] if bare and prompt.startswith(bare) else ""
    self.opens_thought = thinking.opens(opening or self.tail)
    answered = self._try([*question, _message("assistant", _ANSWER)])
    self.answer_end = answered.partition(_ANSWER)[2]

  def wrap(self, text: str) -> tuple[str, int, int]:
    """Renders the chat of a prompt.

    The template may change the user's text (Llama 3 trims it).

    Args:
      text: text of the user.

    Returns:
      (chat, start, end): the user's text is chat[start:end].

    Raises:
      InputError: the text around the user's text is not `head` and `tail`.
    """
    chat = self._render([_message("user", text)], True)
    end = len(chat) - len(self.tail)
    if not (
      chat.startswith(self.head)
      and chat.endswith(self.tail)
      and end >= len(self.head)
    ):
      raise errors.InputError(
        f"{self._where}: the chat template changes with the prompt, so the "
        f"user's text cannot be found in {chat[:200]!r}"
      )
    return chat, len(self.head), end

  def wrap_chat(
    self, context: Sequence[Mapping[str, str]], text: str
  ) -> tuple[str, list[tuple[int, int]]]:
    """Renders the chat of a prompt with messages before it.

    A system message at the beginning takes the place of the run's own.

    Args:
      context: messages before the last one.
      text: text of the last message, the user's.

    Returns:
      (chat, spans): the content of message i is chat[spans[i][0]:spans[i][1]],
      the last one's is the user's text.

    Raises:
      InputError: the template does not write every message in its place.
    """
    messages = [*map(dict, context), _message("user", text)]
    pieces = self._pieces(tuple(m["role"] for m in messages))
    chat = self._render(messages, True)
    spans, at = [], 0
    for piece, after, message in zip(pieces, pieces[1:], messages):
      start = at + len(piece)
      for content in _written(message["content"]):
        at = start + len(content)
        if (
          chat.startswith(piece, start - len(piece))
          and chat.startswith(content, start)
          and chat.startswith(after, at)
        ):
          break
      else:
        raise errors.InputError(
          f"{self._where}: the chat template does not write the message of the"
          f" {message['role']} {message['content'][:60]!r} as it is"
        )
      spans.append((start, at))
    return chat, spans

  def _pieces(self, roles: tuple[str, ...]) -> list[str]:
    """Text of the template before, between and after messages of these roles.

    Raises:
      InputError: it does not write each of them once, in order.
    """
    if roles not in self._between:
      marks = [f"{_PROBE}-{i}." for i in range(len(roles))]
      rest = self._render(list(map(_message, roles, marks)), True)
      pieces = []
      for mark in marks:
        piece, found, rest = rest.partition(mark)
        if not found or _PROBE in piece:
          raise errors.InputError(
            f"{self._where}: the chat template does not write each of these"
            f" messages once, in order: {', '.join(roles)}"
          )
        pieces.append(piece)
      self._between[roles] = [*pieces, rest]
    return self._between[roles]

  @functools.cached_property
  def reply_pieces(self) -> tuple[str, str]:
    """Text that the template writes around a user's message after an answer.

    Returns:
      (head, tail): from the answer's end to the message, and from the message
      to the next answer.

    Raises:
      InputError: the template cannot render a chat of several turns.
    """
    try:
      *_, head, tail = self._pieces(("user", "assistant", "user"))
    except errors.InputError as e:
      raise errors.InputError(
        f"{e}, so a task that replies cannot be used with it; set "
        "config.sampling.max_turns=1 or another config.model.chat_template"
      ) from e
    return head, tail

  def _render(self, messages: list[dict], opens_answer: bool) -> str:
    """Renders a chat, with the beginning of an answer if `opens_answer`."""
    values = {
      **self._special,
      **self.options,
      "add_generation_prompt": opens_answer,
    }
    own = messages[0]["role"] == "system"
    result = _call(
      "render",
      program=self._program,
      messages=messages if own else [*self._system, *messages],
      variables=values,
    )
    # Jinja's error about the undefined name means that the clock was called.
    if _NO_CLOCK in result.get("error", ""):
      raise errors.InputError(
        f"{self._where}: the chat template writes today's date, so prompts "
        "would change from day to day; set a fixed date, such as "
        f"{_KEY}.{_CLOCK} = '26 Jul 2024'"
      )
    return _checked(self._where, result)["text"]

  def _try(self, messages: list[dict]) -> str:
    """Renders a chat without the beginning of an answer; "" if that fails.

    Failure is allowed because some templates render nothing but prompts.
    """
    try:
      return self._render(messages, False)
    except _RanAway:
      raise
    except errors.InputError:
      return ""

  def _check_options(self) -> None:
    """Refuses options that the template does not read."""
    if not self.options:
      return
    readable = sorted(variables(self.source, self._where) - _GIVEN)
    for name in self.options:
      if name not in readable:
        raise errors.InputError(
          f"{_KEY}.{name}: the chat template of {self._where} does not read "
          f"it{errors.hint(name, readable)} (it reads "
          f"{', '.join(readable) or 'none'})"
        )


def variables(source: str, where: str) -> set[str]:
  """Names of the variables that a template reads without always setting them.

  Args:
    source: Jinja program.
    where: origin of the template, which starts error messages.

  Raises:
    InputError: the source is not a Jinja template.
  """
  return set(_checked(where, _call("variables", program=source))["names"])


@functools.cache
def _renderer() -> pools.Pool:
  """The worker that renders all templates; it ends with this process."""
  return pools.Pool(workers=1, deadline_s=_DEADLINE_S, memory_mb=_MEMORY_MB)


def _call(function: str, **arguments: Any) -> dict[str, Any]:
  """Calls a function of `rendering` in the worker.

  Returns:
    Its result, or {"limit": reason} if the worker was stopped or died.
  """
  (outcome,) = _renderer().run(
    [pools.Call(f"progrpo_jax.text.rendering:{function}", [], arguments, "it")]
  )
  if outcome.status == "timeout":
    return {"limit": f"did not end within {_DEADLINE_S:g} s"}
  if outcome.status != "ok":
    return {"limit": f"failed ({outcome.reason})"}
  return outcome.value


def _checked(where: str, result: dict[str, Any]) -> dict[str, Any]:
  """Returns a result of `_call`; raises if it reports a failure.

  Raises:
    InputError: the template failed or exceeded a limit.
  """
  if "limit" in result:
    raise _RanAway(
      f"{where}: the chat template {result['limit']}: it is in an endless "
      "loop, or is not a template. Set config.model.chat_template to another "
      "template or to 'none'"
    )
  if "error" in result:
    raise errors.InputError(
      f"{where}: the chat template failed: {result['error']}"
    )
  return result


def _written(content: str) -> list[str]:
  """Forms in which templates write a content.

  Llama 3's trims it; those of models that think leave the thought of an earlier
  answer out.
  """
  answer = content.rpartition("</think>")[2]
  return [content, content.strip(), answer, answer.lstrip("\n"), answer.strip()]


def _message(role: str, content: str) -> dict[str, str]:
  """One message of a chat."""
  return {"role": role, "content": content}
