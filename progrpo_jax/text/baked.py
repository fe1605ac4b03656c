"""A chat template that knows with what options and system prompt to ask.

Programs that serve a policy render its template with the variables and the
messages of their callers. What a training set beside the template would be
lost there: Qwen3 that was trained with enable_thinking=False would think again.
So `bake` writes it before the template, as defaults:

  {#- progrpo_jax {"options": {"enable_thinking": false}, "system": null} -#}
  {%- if enable_thinking is not defined -%}
  {%- set enable_thinking = false -%}
  {%- endif -%}
  {#- progrpo_jax: the template #}

A caller's own variables, and a system message of its own, take their place, as
in a prompt of the training. `split` takes all of it off again, and returns what
was baked: a policy that is trained further is asked as before, and digests and
messages are about the template alone.
"""

from collections.abc import Mapping
import json
import re
from typing import Any

# transformers gives templates a clock function of this name, which is always
# defined. As an option it is a date: a macro takes the function's place.
CLOCK = "strftime_now"

# The newline after it is trimmed (trim_blocks), and what the template begins
# with is not. The template begins on a line of its own, for blanks before a tag
# that begins a line are trimmed too.
_END = "{#- progrpo_jax: the template #}\n"
_BAKED = re.compile(
  r"\{#- progrpo_jax (?P<json>\{.*?\}) -#\}\n.*?" + re.escape(_END), re.DOTALL
)


def bake(source: str, options: Mapping[str, Any], system: str | None) -> str:
  """Returns a template with defaults before it.

  Args:
    source: Jinja program.
    options: variables of the program: texts, numbers, truth values, None, and
      lists and dicts of them.
    system: content of the system message of chats that begin with none; None
      for none.
  """
  if not options and system is None:
    return source
  told = _escaped(json.dumps(dict(options=dict(options), system=system)))
  lines = [f"{{#- progrpo_jax {told} -#}}\n"]
  for name, value in options.items():
    lines.append(
      f"{{%- macro {CLOCK}(format) -%}}{{{{ {_literal(value)} }}}}"
      "{%- endmacro -%}\n"
      if name == CLOCK
      else f"{{%- if {name} is not defined -%}}\n"
      f"{{%- set {name} = {_literal(value)} -%}}\n{{%- endif -%}}\n"
    )
  if system is not None:
    message = f'{{"role": "system", "content": {_literal(system)}}}'
    lines.append(
      '{%- if messages[0]["role"] != "system" -%}\n'
      f"{{%- set messages = [{message}] + messages -%}}\n{{%- endif -%}}\n"
    )
  return "".join(lines) + _END + source


def split(source: str) -> tuple[str, dict[str, Any], str | None]:
  """Returns (template, options, system), the arguments of `bake`.

  A template that is not baked has no options and no system message.
  """
  found = _BAKED.match(source)
  if not found:
    return source, {}, None
  told = json.loads(found["json"])
  return source[found.end() :], told["options"], told["system"]


def _literal(value: Any) -> str:
  """Returns a value as Jinja writes it."""
  if value is None or isinstance(value, bool):
    return {None: "none", True: "true", False: "false"}[value]
  if isinstance(value, Mapping):
    items = (f"{_literal(k)}: {_literal(v)}" for k, v in value.items())
    return f"{{{', '.join(items)}}}"
  if isinstance(value, list | tuple):
    return f"[{', '.join(map(_literal, value))}]"
  # Letters are not escaped: Jinja reads no pair of surrogates.
  return _escaped(json.dumps(value, ensure_ascii=False))


def _escaped(text: str) -> str:
  """Escapes in texts of JSON what could end a tag or a comment of Jinja."""
  return re.sub(r"[%#]", lambda m: f"\\u{ord(m[0]):04x}", text)
