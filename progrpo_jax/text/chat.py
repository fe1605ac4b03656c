"""Chat templates: the text around a user's, and how answers begin and end.

A template is a Jinja program that comes with the tokenizer. It is a program of
a stranger's, so that it runs in a worker process, with limits of time and
memory (see `rendering`). The surprise: it
is not told what day it is. Prompts that name today's date would change from
day to day, and a resumed run would not be the unbroken one. A template that
can do without the date does without (Llama 3.2 then writes its own "26 Jul
2024"); one that cannot is refused until an option says what it shall write.
"""

from collections.abc import Mapping
import difflib
import functools
import re
from typing import Any

from progrpo_jax import errors
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import thinking

_KEY = "config.model.chat_template_options"

# What stands in the place of a message while the template's own text is found
# out.
_PROBE = "PROBE-OF-THE-CHAT-TEMPLATE"
_ANSWER = "ANSWER-TO-THE-PROBE"

# The function of transformers that tells a template the time, and what its
# calls are turned into: nothing, or a macro that writes an option of that name.
_CLOCK = "strftime_now"
_NO_CLOCK = "date_of_this_run"
_MACRO = (
    f"{{% macro {_NO_CLOCK}(format) %}}{{{{ {_CLOCK} }}}}{{% endmacro %}}\n")

# What a template reads that is no option of it.
_GIVEN = frozenset((
    "messages", "add_generation_prompt", "continue_final_message",
    "raise_exception", "chat_template", "tokenize", _NO_CLOCK))

# A prompt takes a fraction of a millisecond; a template that needs this long
# loops. A second try follows, in case the machine was held up.
_DEADLINE_S = 10.0
_MEMORY_MB = 1024


class _RanAway(errors.InputError):
  """A template took more time or memory than it may."""


class ChatTemplate:
  """A chat template with the system prompt and the options of a run.

  Attributes:
    source: the Jinja program.
    head: what it writes before the user's text.
    tail: what it writes after it, up to where the answer begins.
    answer_end: what it writes after an answer; "" if it writes no answers.
    opens_thought: whether the answer begins inside of a thought.
  """

  def __init__(
      self, source: str, special: Mapping[str, Any], where: str, *,
      system_prompt: str | None = None,
      options: Mapping[str, Any] | None = None):
    """Tries the template.

    Args:
      source: the Jinja program.
      special: names of the tokenizer's special tokens, which the program may
        write.
      where: the template comes from, for errors.
      system_prompt: first message of the chat, if any.
      options: variables for the program, which it must read.

    Raises:
      InputError: the template fails, takes too long or too much memory, does
        not write the user's text exactly once, asks for today's date, or does
        not read an option.
    """
    self.source, self._special, self._where = source, dict(special), where
    self._options = dict(options or {})
    self._system = [] if system_prompt is None else [
        _message("system", system_prompt)]
    self._check_options()
    self._program = re.sub(rf"\b{_CLOCK}\b", _NO_CLOCK, source)
    if _CLOCK in self._options:
      self._program = _MACRO + self._program
    question = [_message("user", _PROBE)]
    asked = self._render(question, True)
    parts = asked.split(_PROBE)
    if len(parts) != 2:
      raise errors.InputError(
          f"{where}: the chat template writes the user's text "
          f"{len(parts) - 1} times; it must do so once")
    self.head, self.tail = parts
    bare = self._try(question)
    begun = asked[len(bare):] if bare and asked.startswith(bare) else ""
    # A template that always begins the answer does so in its tail.
    self.opens_thought = thinking.opens(begun or self.tail)
    answered = self._try([*question, _message("assistant", _ANSWER)])
    self.answer_end = answered.partition(_ANSWER)[2]

  def wrap(self, text: str) -> tuple[str, int, int]:
    """The chat of a prompt, and from where to where it is the user's text.

    The template may change that text (Llama 3 trims it), but nothing around
    it.

    Raises:
      InputError: what stands around the text is not what it was before.
    """
    chat = self._render([_message("user", text)], True)
    end = len(chat) - len(self.tail)
    if not (chat.startswith(self.head) and chat.endswith(self.tail)
            and end >= len(self.head)):
      raise errors.InputError(
          f"{self._where}: the chat template changes with the prompt, so "
          f"that the user's part cannot be found in {chat[:200]!r}")
    return chat, len(self.head), end

  def _render(self, messages: list[dict], asks: bool) -> str:
    """The chat as text; up to where the answer begins, if it asks for one."""
    given = {
        **self._special, **self._options, "add_generation_prompt": asks}
    result = _ask(
        "render", program=self._program,
        messages=[*self._system, *messages], variables=given)
    if _NO_CLOCK in result.get("error", ""):
      raise errors.InputError(
          f"{self._where}: the chat template writes today's date, so that "
          "prompts would change from day to day; say what it shall write "
          f"instead: {_KEY}.{_CLOCK} = '26 Jul 2024'")
    return _checked(self._where, result)["text"]

  def _try(self, messages: list[dict]) -> str:
    """The chat without the beginning of an answer, "" if that fails.

    Templates for one question alone are fine.
    """
    try:
      return self._render(messages, False)
    except _RanAway:
      raise
    except errors.InputError:
      return ""

  def _check_options(self) -> None:
    """Refuses options that the template does not read."""
    if not self._options:
      return
    known = variables(self.source, self._where) - _GIVEN
    for name in self._options:
      if name not in known:
        close = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise errors.InputError(
            f"{_KEY}.{name}: the chat template of {self._where} does not read "
            f"it{hint} (it reads {', '.join(sorted(known)) or 'none'})")


def variables(source: str, where: str) -> set[str]:
  """The names that a template reads and does not set in every case.

  Raises:
    InputError: it is no Jinja template.
  """
  return set(
      _checked(where, _ask("variables", program=source))["names"])


@functools.cache
def _renderer() -> pools.Pool:
  """The worker of all templates of this process; it ends with it."""
  return pools.Pool(
      workers=1, deadline_s=_DEADLINE_S, memory_mb=_MEMORY_MB)


def _ask(function: str, **arguments: Any) -> dict[str, Any]:
  """What a function of `rendering` returns, called in the worker."""
  outcome, = _renderer().run([
      pools.Call(f"progrpo_jax.text.rendering:{function}", [], arguments)])
  if outcome.status == "timeout":
    return {"limit": f"did not end within {_DEADLINE_S:g} s"}
  if outcome.status != "ok":
    return {"limit": f"ended its process: {outcome.reason}"}
  return outcome.value


def _checked(where: str, result: dict[str, Any]) -> dict[str, Any]:
  """The result of `_ask`, or an InputError that names the template."""
  if "limit" in result:
    raise _RanAway(
        f"{where}: the chat template {result['limit']}; it loops, or is no "
        "template. config.model.chat_template takes another, or 'none'")
  if "error" in result:
    raise errors.InputError(
        f"{where}: the chat template failed: {result['error']}")
  return result


def _message(role: str, content: str) -> dict[str, str]:
  """One message of a chat."""
  return {"role": role, "content": content}
