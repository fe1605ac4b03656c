"""Chat templates of real families: prompts, options, thoughts, loops."""

import json
import pathlib

from etils import epath
import jax
import numpy as np
import pytest
import transformers

from progrpo_jax import errors
from progrpo_jax.build import problems
from progrpo_jax.build import stages as build
from progrpo_jax.cli import evaluate
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf, parameters
from progrpo_jax.rewards import pool as pools
from progrpo_jax.settings import defaults, files
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.text import chat, user_part
from progrpo_jax.text import tokenizer as tokenizer_lib
from tests.text import made


@pytest.mark.parametrize(
  "text",
  [
    "Using the numbers",
    "user",
    "a",
    " lead",
    "trail \n\n",
    "é😀 x",
    "  ",
    "{{ messages }}",
    "assistant\n",
  ],
)
@pytest.mark.parametrize("system", [None, "You are user.", ""])
def test_chat_template_and_the_users_part(tmp_path, text, system):
  path = made.hf_directory(tmp_path, made.CHATML)
  loaded = tokenizer_lib.load(path, system_prompt=system)
  ids, user = loaded.encode_prompt(text)
  reference = transformers.AutoTokenizer.from_pretrained(path)
  messages = [{"role": "user", "content": text}]
  if system is not None:
    messages.insert(0, {"role": "system", "content": system})
  wanted = reference.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=False
  )
  assert ids == wanted
  assert len(user) == len(ids)
  theirs = [i for i, u in zip(ids, user) if u]
  # Tokens at the borders may hold a line break of the template's.
  assert reference.decode(theirs).strip("\n") == text.strip("\n")
  assert not user[0] and not user[-1]


def test_template_that_trims_the_text(tmp_path):
  trimming = made.CHATML.replace("m['content']", "m['content'] | trim")
  loaded = tokenizer_lib.load(made.hf_directory(tmp_path, trimming))
  ids, user = loaded.encode_prompt("  4 + 5 \n")
  assert loaded.decode([i for i, u in zip(ids, user) if u]) == "4 + 5"


LOOP = (
  "{% for a in range(9**5) %}{% for b in range(9**5) %}"
  "{% for c in range(9**5) %}{% endfor %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
  ("template", "words"),
  [
    ("{{ 'x' * 5000000000 }}", "more memory than allowed"),
    (
      "{% set n = namespace(t='x') %}{% for i in range(40) %}"
      "{% set n.t = n.t + n.t %}{% endfor %}",
      "more memory than allowed",
    ),
    ("{{ 'x' * 3000000 }}", "wrote 3,000,"),
    ("{% for i in range(1000000000) %}{% endfor %}", "[Rr]ange too big"),
    ("{{ " + 9999 * "(" + "1" + 9999 * ")" + " }}", "failed"),
  ],
)
def test_a_template_that_runs_away_is_an_error(tmp_path, template, words):
  place = made.hf_directory(tmp_path, template + made.CHATML)
  with pytest.raises(errors.InputError, match=words) as caught:
    tokenizer_lib.load(place)
  assert f"{place}: the chat template" in str(caught.value)


def test_a_template_that_loops_is_an_error_and_the_next_prompt_is_not(
  tmp_path, monkeypatch
):
  sometimes = "{% if 'bomb' in messages[-1].content %}" + LOOP + "{% endif %}"
  place = made.hf_directory(tmp_path, sometimes + made.CHATML)
  with pools.Pool(workers=1, deadline_s=1.0) as renderer:
    monkeypatch.setattr(chat, "_DEADLINE_S", 1.0)
    monkeypatch.setattr(chat, "_renderer", lambda: renderer)
    tokenizer = tokenizer_lib.load(place)
    before = tokenizer.encode_prompt("9")
    with pytest.raises(
      errors.InputError, match=f"{place}: .* did not end within 1 s"
    ):
      tokenizer.encode_prompt("a bomb")
    assert tokenizer.encode_prompt("9") == before


def test_template_that_changes_with_the_prompt(tmp_path):
  moody = "{{ messages[0]['content'] }}{{ messages[0]['content'] | length }}"
  loaded = tokenizer_lib.load(made.hf_directory(tmp_path, moody))
  with pytest.raises(errors.InputError, match="changes with the prompt"):
    loaded.encode_prompt("7")


@pytest.mark.parametrize("name", made.FAMILIES)
@pytest.mark.parametrize("text", made.PROMPTS)
def test_prompts_are_those_of_transformers(loaded, theirs, name, text):
  family, other = made.FAMILIES[name], theirs[name]
  ids, user = loaded[name].encode_prompt(text)
  written = text.strip() if "trim" in str(family["template"]) else text
  assert other.decode(ids) == family["head"] + written + family["tail"]
  if family["template"]:
    assert ids == other.apply_chat_template(
      [{"role": "user", "content": text}],
      add_generation_prompt=True,
      return_dict=False,
      date_string="26 Jul 2024",
    )
  else:
    assert ids == other(text)["input_ids"]
  # A token at the border may hold a line break of the template's as well.
  assert other.decode(made.users(ids, user)).strip() == text.strip()
  specials = {other.convert_tokens_to_ids(t) for t in family["special"]}
  assert not specials & set(made.users(ids, user))
  assert not user[0] and (not family["tail"] or not user[-1])


def test_template_of_ones_own_writes_bos_itself(places):
  path = places["r1-distill-qwen"]
  for template, head in (
    ("{{ messages[0].content }}", ""),
    ("{{ bos_token }}{{ messages[0].content }}", "<｜begin▁of▁sentence｜>"),
  ):
    tokenizer = tokenizer_lib.load(path, chat_template=template)
    ids, user = tokenizer.encode_prompt("hello")
    assert ids == user_part.plain(tokenizer._tokenizer, head)[
      0
    ] + tokenizer.encode("hello")
    assert sum(user) == len(tokenizer.encode("hello"))


def test_without_the_template_its_end_of_a_turn_is_no_stop(places):
  bare = tokenizer_lib.load(places["qwen2.5-base"], chat_template="none")
  assert len(bare.stop_ids) == 1
  assert bare._tokenizer.convert_ids_to_tokens(bare.stop_ids[0]) == (
    "<|endoftext|>"
  )


@pytest.mark.parametrize(
  ("template", "first"),
  [
    # Whitespace before the token, and more behind it.
    (
      "{{ messages[0].content }}{% for m in messages[1:] %} {{ m.content }} "
      "<|im_end|>\n<|im_start|>{% endfor %}",
      "<|im_end|>",
    ),
    # Words before it: it ends something else.
    (
      "{{ messages[0].content }}{% for m in messages[1:] %}{{ m.content }} "
      "hello<|im_end|>{% endfor %}",
      "<|endoftext|>",
    ),
    # No token at all; no answers at all; no patience with answers.
    ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "<|endoftext|>"),
    ("{{ messages[0].content }}<|im_end|>", "<|endoftext|>"),
    (
      "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}"
      "{{ messages[0].content }}<|im_end|>",
      "<|endoftext|>",
    ),
    # A thought's end is no turn's.
    (
      "{% for m in messages %}{{ m.content }}</think>{% endfor %}",
      "<|endoftext|>",
    ),
  ],
)
def test_the_end_of_a_turn_is_read_off_the_template(tmp_path, template, first):
  place = made.checkpoint(
    tmp_path,
    special=made.QWEN_SPECIAL,
    added=made.TAGS,
    template=template,
    eos="<|endoftext|>",
    pad=None,
  )
  tokenizer = tokenizer_lib.load(place)
  assert (
    tokenizer._tokenizer.convert_ids_to_tokens(tokenizer.stop_ids[0]) == first
  )


@pytest.mark.parametrize("name", made.FAMILIES)
def test_who_opens_a_thought(loaded, name):
  assert loaded[name].opens_thought == made.FAMILIES[name].get(
    "opens_thought", False
  )


@pytest.mark.parametrize(
  ("template", "opens"),
  [
    ("{{ messages[0].content }}\n<think>", True),
    ("{{ messages[0].content }}\n<think>\n\n</think>\n\n", False),
    ("<think> and </think> <think> {{ messages[0].content }}\nA:", False),
    # Words of the user's turn, not of the answer's beginning.
    (
      "{{ messages[0].content }} Begin with <think>."
      "{% if add_generation_prompt %}\nA:{% endif %}",
      False,
    ),
    (
      "{{ messages[0].content }} Begin with <think>."
      "{% if add_generation_prompt %}\nA:<think>{% endif %}",
      True,
    ),
  ],
)
def test_a_thought_is_opened_where_the_answer_begins(places, template, opens):
  tokenizer = tokenizer_lib.load(places["qwen3"], chat_template=template)
  assert tokenizer.opens_thought == opens


def test_options_reach_the_template(places):
  quick = tokenizer_lib.load(
    places["qwen3"], chat_template_options={"enable_thinking": False}
  )
  ids, user = quick.encode_prompt("hello")
  assert quick._tokenizer.decode(ids) == (
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    "<think>\n\n</think>\n\n"
  )
  assert quick._tokenizer.decode(made.users(ids, user)) == "hello"
  slow = tokenizer_lib.load(
    places["qwen3"], chat_template_options={"enable_thinking": True}
  )
  assert (
    ids[: len(slow.encode_prompt("hello")[0])]
    == (slow.encode_prompt("hello")[0])
  )
  assert not quick.opens_thought and not slow.opens_thought


def model(path, tokenizer):
  """A model with a tokenizer, as a run starts from."""
  config = config_lib.ModelConfig.tiny(vocab_size=400, num_layers=1)
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), parameters.abstract_params(config)
  )
  hf.save(path, config, params, tokenizer)
  return str(path)


@pytest.mark.parametrize(
  ("name", "shown"), [("r1-distill-qwen", [None, "4"]), ("qwen3", ["4", "4"])]
)
def test_a_run_knows_whether_its_prompts_open_a_thought(
  loaded, tmp_path, monkeypatch, name, shown
):
  c = files.load(f"{pathlib.Path(__file__).parent.with_name('small.py')}:grpo")
  c.model.init_from = model(tmp_path / "m", loaded[name])
  c.data.dir = str(tmp_path / "data")
  c.data.max_prompt_length = 48
  with build.make_setup(c)[0].pool as pool:
    assert [pool.answer(text) for text in ("4", "5</think>4")] == shown
  started = []

  def stop(*_):
    raise KeyboardInterrupt

  make_pool = problems.make_pool

  def start(*args, **kwargs):
    started.append(make_pool(*args, **kwargs))
    return started[0]

  monkeypatch.setattr(problems, "make_pool", start)
  monkeypatch.setattr(problems, "make_evaluators", stop)
  with pytest.raises(KeyboardInterrupt):
    evaluate.start(c, None)
  assert [started[0].answer(text) for text in ("4", "5</think>4")] == shown


def test_options_reach_the_template_from_a_config(loaded, tmp_path):
  c = defaults.get_config()
  c.model.init_from = model(tmp_path / "m", loaded["qwen3"])
  c.model.chat_template_options.enable_thinking = False
  c.lock()
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  read = build.load_policy(c, mesh).tokenizer
  assert read._chat.tail.endswith("</think>\n\n")
  with c.unlocked():
    c.model.chat_template_options.enable_thinkign = False
  with pytest.raises(errors.InputError, match="enable_thinkign.*did you mean"):
    build.load_policy(c, mesh)


@pytest.mark.parametrize(
  ("name", "keys"),
  [
    ("qwen3", {"chat_template_options": {"enable_thinking": False}}),
    ("qwen2.5-instruct", {"system_prompt": "Be brief."}),
    ("llama3-instruct", {"chat_template_options": {"date_string": "1 May"}}),
    ("llama3-base", {}),
  ],
)
def test_a_run_that_goes_on_asks_as_it_did(
  loaded, tmp_path, monkeypatch, name, keys
):
  """Its own tokenizer has options and system prompt baked into its template."""
  c = defaults.get_config()
  c.model.init_from = model(tmp_path / "m", loaded[name])
  c.model.update(keys)
  c.lock()
  policy = build.load_policy(c, sharding.make_mesh(devices=jax.devices()[:1]))
  workdir = epath.Path(tmp_path / "run")
  saved = {policy_lib.MODEL: policy_lib.digest(policy.config)}
  monkeypatch.setattr(
    policy_lib.checkpoint_lib, "newest_meta", lambda place: saved
  )
  for _ in range(2):  # what is saved anew is the same
    policy.tokenizer.save(workdir / "model")
    (workdir / "model" / "config.json").write_text(
      json.dumps(
        policy_lib.describe(policy.config, policy.tokenizer, c.model.init_from)
      )
    )
    own = build.own_policy(c, workdir)
    assert own.config == policy.config
    context = [{"role": "user", "content": "2"}] if keys else []
    assert own.tokenizer.encode_prompt("3 + 4?", context) == (
      policy.tokenizer.encode_prompt("3 + 4?", context)
    )
    policy = own


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    (
      "qwen3",
      {"enable_thinkng": False},
      "chat_template_options.enable_thinkng: .* does not read it; did you mean "
      r"'enable_thinking'\? \(it reads enable_thinking\)",
    ),
    ("qwen2.5-instruct", {"enable_thinking": False}, r"it reads none"),
    ("qwen3", {"messages": []}, "options.messages: .* does not read"),
    ("qwen3", {"add_generation_prompt": False}, "_prompt: .* does not read"),
    ("qwen3", {"strftime_now": "1 May"}, "strftime_now: .* does not read"),
    ("llama3-instruct", {"date_string": 26}, "the chat template failed"),
    ("llama3-base", {"date_string": "1 May"}, "needs a chat template"),
  ],
)
def test_options_that_cannot_be_read_are_errors(places, name, options, words):
  with pytest.raises(errors.InputError, match=words):
    tokenizer_lib.load(places[name], chat_template_options=options)


def test_no_template_is_told_what_day_it_is(places):
  path = places["llama3-instruct"]
  own = tokenizer_lib.load(path)
  assert own._chat.head.count("26 Jul 2024") == 1
  for option in ("date_string", "strftime_now"):
    given = tokenizer_lib.load(
      path, chat_template_options={option: "01 May 2025"}
    )
    assert given._chat.head == own._chat.head.replace(
      "26 Jul 2024", "01 May 2025"
    )
  asking = "It is {{ strftime_now('%d') }}.\n{{ messages[0].content }}"
  with pytest.raises(
    errors.InputError,
    match=("writes today's date.*chat_template_options.strftime_now"),
  ):
    tokenizer_lib.load(path, chat_template=asking)
  given = tokenizer_lib.load(
    path, chat_template=asking, chat_template_options={"strftime_now": "7"}
  )
  ids, user = given.encode_prompt("hello")
  assert given.decode(ids) == "It is 7.\nhello"
  assert given.decode(made.users(ids, user)).strip() == "hello"


def test_variables_of_a_template():
  source = (
    "{% if not a is defined %}{% set a = 1 %}{% endif %}{% set b = a %}"
    "{% for c in d %}{{ c ~ b }}{% continue %}{% endfor %}"
    "{%- generation -%}{{ e }}{% endgeneration %}"
  )
  assert chat.variables(source, "here") == {"a", "d", "e"}
  with pytest.raises(errors.InputError, match="here: the chat template fail"):
    chat.variables("{% for %}", "here")


@pytest.mark.parametrize(
  "name", [name for name, family in made.FAMILIES.items() if family["template"]]
)
@pytest.mark.parametrize("first", [0, 1, 3])
def test_chats_are_those_of_transformers(loaded, theirs, name, first):
  """With a system message of their own, with turns alone, with one message."""
  *context, last = made.TURNS[first:]
  ids, user = loaded[name].encode_prompt(last["content"], context)
  assert ids == theirs[name].apply_chat_template(
    made.TURNS[first:],
    add_generation_prompt=True,
    return_dict=False,
    date_string="26 Jul 2024",
  )
  # The user's text is that of the last message.
  assert theirs[name].decode(made.users(ids, user)).strip() == "How many?"


def test_a_chat_needs_a_template_and_its_own_system_message_counts(places):
  bare = tokenizer_lib.load(places["qwen3"], chat_template="none")
  with pytest.raises(errors.InputError, match="4 messages needs a chat templ"):
    bare.encode_prompt("How many?", made.TURNS[:-1])
  mine = tokenizer_lib.load(places["qwen3"], system_prompt="Be long.")
  for context, system in (
    (made.TURNS[:1], "Be brief."),
    (made.TURNS[1:3], "Be long."),
  ):
    text = mine.decode(mine.encode_prompt("How many?", context)[0])
    assert [s in text for s in ("Be brief.", "Be long.")] == [
      system == "Be brief.",
      system == "Be long.",
    ]
  once = "{{ messages[-1].content }}"
  short = tokenizer_lib.load(places["qwen3"], chat_template=once)
  with pytest.raises(errors.InputError, match="each of these messages once"):
    short.encode_prompt("How many?", made.TURNS[:-1])
