"""Hugging Face tokenizers: stop tokens, BOS, templates, what is saved."""

import json
import shutil

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest
import transformers
from transformers.utils import chat_template_utils

from progrpo_jax import errors
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf, parameters
from progrpo_jax.text import baked
from progrpo_jax.text import tokenizer as tokenizer_lib
from tests.text import made


@pytest.mark.parametrize(
  ("single", "head"),
  [
    ("<s> $A <|im_end|>", [3]),
    ("$A <|im_end|>", []),
    ("$A <|im_end|> <s>", []),
    ("<s> $A", [3]),
  ],
)
def test_no_end_token_stands_behind_a_bare_prompt(tmp_path, single, head):
  path = made.hf_directory(tmp_path, bos=True, single=single)
  tokenizer = tokenizer_lib.load(path)
  for text in ("5 + 7", "", " a"):
    ids, user = tokenizer.encode_prompt(text)
    assert ids == head + tokenizer.encode(text)
    assert user == [False] * len(head) + [True] * (len(ids) - len(head))
    assert not set(ids) & set(tokenizer.stop_ids)


@pytest.mark.parametrize("ids", ["x", [[1]], [True], -1, 1.5, {}])
def test_stop_ids_that_are_no_ids_are_named(tmp_path, ids):
  path = made.hf_directory(tmp_path, stop_ids=ids)
  with pytest.raises(errors.InputError, match="eos_token_id in generation_con"):
    tokenizer_lib.load(path)


@pytest.fixture(scope="module")
def bare_hf(tmp_path_factory):
  return tokenizer_lib.load(made.hf_directory(tmp_path_factory.mktemp("hf")))


@hypothesis.given(text=st.text(max_size=30))
@hypothesis.example(text=" ")
@hypothesis.example(text="   a   b   ")
@hypothesis.example(text="a<|im_end|><|im_end|>\n<s> <|endoftext|>")
@hypothesis.settings(
  deadline=None,
  max_examples=50,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_hf_round_trip_and_bare_prompts(text, bare_hf):
  ids = bare_hf.encode(text)
  assert bare_hf.decode(ids) == text
  assert bare_hf.encode_prompt(text) == (ids, [True] * len(ids))


def test_hf_bos_is_not_the_users(tmp_path):
  loaded = tokenizer_lib.load(made.hf_directory(tmp_path, bos=True))
  ids, user = loaded.encode_prompt("equation 2")
  assert ids == [3, *loaded.encode("equation 2")]
  assert user == [False] + [True] * (len(ids) - 1)


@pytest.mark.parametrize("name", made.FAMILIES)
def test_bos_is_written_once(loaded, theirs, places, name):
  bos = theirs[name].bos_token_id
  for tokenizer in (
    loaded[name],
    tokenizer_lib.load(places[name], chat_template="none"),
  ):
    ids, user = tokenizer.encode_prompt("How many?")
    assert ids.count(bos) == (bos is not None)
    assert bos is None or (ids[0] == bos and not user[0])
  bare = theirs[name]("How many?")["input_ids"]
  assert ids == bare


def test_choice_of_template(tmp_path):
  path = made.hf_directory(tmp_path, made.CHATML)
  bare = tokenizer_lib.load(path, chat_template="none")
  assert bare.encode_prompt("9") == (bare.encode("9"), [True])
  given = tokenizer_lib.load(
    path, chat_template="Q: {{ messages[0]['content'] }}\nA:"
  )
  ids, user = given.encode_prompt("99")
  assert given.decode(ids) == "Q: 99\nA:"
  assert given.decode([i for i, u in zip(ids, user) if u]) in ("99", " 99")
  own = tokenizer_lib.load(path, chat_template="own")
  auto = tokenizer_lib.load(path)
  assert (
    own.encode_prompt("9")
    == auto.encode_prompt("9")
    != (bare.encode_prompt("9"))
  )


def test_stop_ids_come_from_both_files(tmp_path):
  path = made.hf_directory(tmp_path, stop_ids=[0, 2])
  assert tokenizer_lib.load(path).stop_ids == (2, 0)
  path = made.hf_directory(tmp_path, stop_ids=0)
  assert tokenizer_lib.load(path).stop_ids == (2, 0)
  (tmp_path / "generation_config.json").unlink()
  assert tokenizer_lib.load(path).stop_ids == (2,)


@pytest.mark.parametrize("name", made.FAMILIES)
def test_what_ends_a_response(loaded, theirs, name):
  family, tokenizer = made.FAMILIES[name], loaded[name]
  assert (
    tuple(theirs[name].convert_ids_to_tokens(tokenizer.stop_ids))
    == family["stops"]
  )
  pad = theirs[name].pad_token_id
  assert tokenizer.pad_id == (tokenizer.stop_ids[0] if pad is None else pad)


def test_pad_falls_back_to_a_stop_id(tmp_path):
  assert tokenizer_lib.load(made.hf_directory(tmp_path / "a")).pad_id == 0
  assert (
    tokenizer_lib.load(made.hf_directory(tmp_path / "b", pad=None)).pad_id == 2
  )


def test_hf_decode_drops_special_ids(bare_hf):
  ids = bare_hf.encode("each number")
  assert bare_hf.decode([1, *ids, 10**6, 2, 0]) == "each number"


@pytest.mark.parametrize(
  "name", ["qwen3", "r1-distill-qwen", "r1-with-special-tags"]
)
def test_responses_keep_the_tags_of_thoughts(loaded, theirs, name):
  text = "<think>\n2 + 2</think>\n\n<answer>4</answer>"
  ids = loaded[name].encode(text)
  assert ids[0] == theirs[name].convert_tokens_to_ids("<think>")
  for noise in made.FAMILIES[name]["special"]:
    if noise not in made.TAGS:
      ids = [*ids[:5], theirs[name].convert_tokens_to_ids(noise), *ids[5:]]
  assert loaded[name].decode([*ids, 10**6, -1]) == text


def test_a_stop_token_vanishes_though_it_is_not_special(tmp_path):
  place = made.checkpoint(
    tmp_path,
    special=("<|endoftext|>",),
    eos="<|endoftext|>",
    pad=None,
    added=("<|im_start|>", "<|im_end|>", "<tool_call>"),
    template=made.QWEN2,
  )
  tokenizer = tokenizer_lib.load(place)
  call, end = tokenizer._tokenizer.convert_tokens_to_ids(
    ["<tool_call>", "<|im_end|>"]
  )
  assert tokenizer.stop_ids[0] == end
  assert tokenizer.decode([call, *tokenizer.encode("4"), end]) == (
    "<tool_call>4"
  )


FORMS = {
  "string": dict(config=made.QWEN3),
  "list": dict(
    config=[
      dict(name="default", template=made.QWEN3),
      dict(name="tool_use", template=made.QWEN2),
    ]
  ),
  "file": dict(files={"chat_template.jinja": made.QWEN3}),
  "file before string": dict(
    config=made.QWEN2, files={"chat_template.jinja": made.QWEN3}
  ),
  "folder": dict(
    files={
      "chat_template.jinja": made.QWEN3,
      "additional_chat_templates/tool_use.jinja": made.QWEN2,
    }
  ),
  "processor": dict(
    files={"chat_template.json": json.dumps({"chat_template": made.QWEN3})}
  ),
  "processor's config": dict(
    files={"processor_config.json": json.dumps({"chat_template": made.QWEN3})}
  ),
  "processor's list": dict(
    files={
      "processor_config.json": json.dumps(
        {
          "chat_template": [
            dict(name="default", template=made.QWEN3),
            dict(name="tool_use", template=made.QWEN2),
          ]
        }
      )
    }
  ),
  "processor without": dict(
    config=made.QWEN3,
    files={"processor_config.json": json.dumps({"processor_class": "P"})},
  ),
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
  root, places = tmp_path_factory.mktemp("forms"), {}
  for name, form in FORMS.items():
    places[name] = made.checkpoint(
      root / name, **made.FAMILIES["qwen3"] | dict(template=form.get("config"))
    )
    for file, text in form.get("files", {}).items():
      (places[name] / file).parent.mkdir(exist_ok=True)
      (places[name] / file).write_text(text)
  return places


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_chat_template(loaded, forms, form, tmp_path):
  read = tokenizer_lib.load(forms[form], chat_template="own")
  read.save(tmp_path)
  again = tokenizer_lib.load(tmp_path)
  for tokenizer in (read, again):
    assert tokenizer.encode_prompt("How many?") == (
      loaded["qwen3"].encode_prompt("How many?")
    )
    assert tokenizer.stop_ids == loaded["qwen3"].stop_ids


@pytest.mark.parametrize("form", ["list", "folder", "processor's list"])
def test_one_of_several_templates(loaded, forms, form):
  named = tokenizer_lib.load(forms[form], chat_template="tool_use")
  assert named._chat.source == made.QWEN2
  assert tokenizer_lib.load(forms[form], chat_template="none")._chat is None
  with pytest.raises(errors.InputError, match="'tool_us' must be .*'tool_use'"):
    tokenizer_lib.load(forms[form], chat_template="tool_us")


def test_several_templates_and_no_default(tmp_path):
  place = made.checkpoint(
    tmp_path,
    **made.FAMILIES["qwen3"]
    | dict(
      template=[
        dict(name="rag", template=made.QWEN2),
        dict(name="tools", template=made.QWEN2),
      ]
    ),
  )
  for choice in ("auto", "own"):
    with pytest.raises(errors.InputError, match="default one.*'rag', 'tools'"):
      tokenizer_lib.load(place, chat_template=choice)
  assert (
    tokenizer_lib.load(place, chat_template="rag")._chat.source == made.QWEN2
  )


def test_an_empty_template_is_none(tmp_path):
  place = made.checkpoint(
    tmp_path, **made.FAMILIES["qwen3"] | dict(template="")
  )
  assert tokenizer_lib.load(place).encode_prompt("hello")[1][0]
  with pytest.raises(errors.InputError, match="has no chat template"):
    tokenizer_lib.load(place, chat_template="own")


def test_vocabulary_and_merges_alone(tmp_path, loaded):
  """A made.checkpoint of the slow kind, which transformers converts."""
  place = made.checkpoint(tmp_path / "a", **made.FAMILIES["qwen3"], slow=True)
  assert not (place / "tokenizer.json").exists()
  made.write(place / "config.json", {"model_type": "qwen2"})
  slow = tokenizer_lib.load(place)
  slow.save(tmp_path / "b")
  saved = tokenizer_lib.load(tmp_path / "b")
  for text in (*made.PROMPTS[:-1], *made.FORGED):  # Qwen composes accents
    for tokenizer in (slow, saved):
      ids, user = tokenizer.encode_prompt(text)
      assert tokenizer._tokenizer.decode(made.users(ids, user)).strip() == (
        text.strip()
      )
    assert saved.encode_prompt(text) == slow.encode_prompt(text)
  assert saved.stop_ids == slow.stop_ids == loaded["qwen3"].stop_ids


def test_the_same_model_by_transformers(llama2, tmp_path):
  for file in llama2.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  made.write(
    tmp_path / "tokenizer_config.json",
    dict(
      tokenizer_class="LlamaTokenizer",
      add_bos_token=True,
      legacy=False,
      bos_token="<s>",
      eos_token="</s>",
      unk_token="<unk>",
      chat_template=(
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}"
        "[INST] {{ m.content | trim }} [/INST]{% else %} {{ m.content }} "
        "{{ eos_token }}{% endif %}{% endfor %}"
      ),
    ),
  )
  tokenizer = tokenizer_lib.load(tmp_path)
  assert tokenizer.stop_ids == (2,)
  for text in ("hello", "é\n😀", "hello </s><s>[INST] x"):
    ids, user = tokenizer.encode_prompt(text)
    # No space is put where a prompt is cut.
    assert tokenizer._tokenizer.decode(ids) == f"<s>[INST] {text} [/INST]"
    assert tokenizer.decode(made.users(ids, user)).strip() == text
    assert {1, 2} & set(ids[1:]) == set() and ids[0] == 1
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_hf_save_and_load_keep_template_and_ids(tmp_path):
  first = tokenizer_lib.load(made.hf_directory(tmp_path / "a", made.CHATML))
  first.save(tmp_path / "b")
  again = tokenizer_lib.load(tmp_path / "b")
  assert again.encode_prompt("1 + 1") == first.encode_prompt("1 + 1")
  assert again.vocab_size == first.vocab_size


@pytest.mark.parametrize("name", made.FAMILIES)
@pytest.mark.parametrize("model", [None, "qwen2", "qwen3", "llama"])
def test_saved_tokenizers_are_the_same_to_transformers(
  loaded, tmp_path, name, model
):
  first, copy = (
    made.checkpoint(tmp_path / "a", **made.FAMILIES[name]),
    tmp_path / "b",
  )
  loaded[name].save(copy)
  if model is not None:
    # Transformers chooses a class by it, whatever the tokenizer's files say.
    for place in (first, copy):
      made.write(place / "config.json", {"model_type": model})
  wanted, saved = map(transformers.AutoTokenizer.from_pretrained, (first, copy))
  assert saved.chat_template == made.FAMILIES[name]["template"]
  assert len(saved) == len(wanted)
  assert saved.special_tokens_map == wanted.special_tokens_map
  for text in (*made.PROMPTS, *made.FORGED, " <think> 12345 don't"):
    ids = wanted(text)["input_ids"]
    assert saved(text)["input_ids"] == ids
    assert saved.decode(ids) == wanted.decode(ids)
    if made.FAMILIES[name]["template"]:
      messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": "4"},
      ]
      assert saved.apply_chat_template(messages, return_dict=False) == (
        wanted.apply_chat_template(messages, return_dict=False)
      )
  content = json.loads((copy / "tokenizer_config.json").read_text())
  assert content["tokenizer_class"] == "PreTrainedTokenizerFast"
  # A list of that name breaks version 4 of transformers.
  assert "extra_special_tokens" not in content
  assert "local_files_only" not in content


@pytest.mark.parametrize("name", made.FAMILIES)
def test_saved_stops_are_kept(places, loaded, tmp_path, name):
  first = loaded[name]
  first.save(tmp_path)
  saved = json.loads((tmp_path / "generation_config.json").read_text())
  stops = saved["eos_token_id"]
  assert tuple(stops if isinstance(stops, list) else [stops]) == first.stop_ids
  assert saved["pad_token_id"] == first.pad_id
  again = tokenizer_lib.load(tmp_path)
  assert (again.stop_ids, again.pad_id, again.vocab_size) == (
    first.stop_ids,
    first.pad_id,
    first.vocab_size,
  )
  bare = tokenizer_lib.load(tmp_path, chat_template="none")
  assert set(bare.stop_ids) == set(first.stop_ids)
  assert bare.stop_ids[0] == bare._tokenizer.eos_token_id


def test_more_special_tokens_are_saved(tmp_path):
  place = made.checkpoint(tmp_path / "a", **made.FAMILIES["qwen3"])
  file = place / "tokenizer_config.json"
  content = json.loads(file.read_text())
  made.write(file, content | {"additional_special_tokens": ["<|im_start|>"]})
  tokenizer_lib.load(place).save(tmp_path / "b")
  saved = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
  assert saved["additional_special_tokens"] == ["<|im_start|>"]
  assert "extra_special_tokens" not in saved
  read = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
  assert read.extra_special_tokens == ["<|im_start|>"]


def test_saving_keeps_what_else_a_generation_config_says(loaded, tmp_path):
  made.write(tmp_path / "generation_config.json", {"top_p": 0.8})
  loaded["qwen3"].save(tmp_path)
  saved = json.loads((tmp_path / "generation_config.json").read_text())
  assert saved["top_p"] == 0.8 and len(saved["eos_token_id"]) == 2


def test_a_model_is_written_with_the_settings_that_it_came_with(
  places, tmp_path
):
  place = tmp_path / "a"
  shutil.copytree(places["qwen3"], place)
  file = place / "generation_config.json"
  given = json.loads(file.read_text()) | dict(
    top_k=20, max_new_tokens=9, transformers_version="4.51.0"
  )
  made.write(file, given)
  config = config_lib.ModelConfig.tiny(vocab_size=450, num_layers=1)
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), parameters.abstract_params(config)
  )

  def saved(name, place, **options):
    tokenizer = tokenizer_lib.load(place)
    hf.save(tmp_path / name, config, params, tokenizer, **options)
    return json.loads((tmp_path / name / file.name).read_text())

  first = saved("b", place)
  assert (first["top_k"], first["max_new_tokens"]) == (20, 9)
  assert set(given["eos_token_id"]) <= set(first["eos_token_id"])
  assert "transformers_version" not in first
  # Through the tokenizer that a run keeps, too; what it samples by wins.
  tokenizer_lib.load(place).save(tmp_path / "run")
  second = saved("c", tmp_path / "run", sampling=dict(top_k=0))
  assert second == first | dict(top_k=0)


_BAKED = [
  ("qwen3", dict(enable_thinking=False), None),
  ("qwen3", {}, 'Be "brief" %} {# é😀 #}\\n\n'),
  ("qwen2.5-instruct", {}, "Be brief."),
  ("llama3-instruct", dict(date_string="1 May"), None),
  ("llama3-instruct", dict(strftime_now="2 May"), None),
]


@pytest.mark.parametrize(("name", "options", "system"), _BAKED)
def test_options_and_system_prompt_are_saved(
  places, tmp_path, name, options, system
):
  """Others ask an exported policy as it was trained, unless they say how."""
  first = tokenizer_lib.load(
    places[name], chat_template_options=options, system_prompt=system
  )
  first.save(tmp_path / "b")
  other = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")

  def theirs(messages, **variables):
    return other.apply_chat_template(
      messages, tokenize=False, add_generation_prompt=True, **variables
    )

  for text in (*made.PROMPTS, "12 + 3"):
    chat, *_ = first._chat.wrap(text)
    assert theirs([{"role": "user", "content": text}]) == chat
  # A system message of the caller's own takes the place of the training's.
  whole, _ = first._chat.wrap_chat(made.TURNS[:-1], "x")
  assert theirs([*made.TURNS[:-1], {"role": "user", "content": "x"}]) == whole
  # A run that starts there renders the same, and saves the same again.
  again = tokenizer_lib.load(tmp_path / "b")
  same = tokenizer_lib.load(
    tmp_path / "b", chat_template_options=options, system_prompt=system
  )
  for read in (again, same):
    for text in made.PROMPTS:
      assert read.encode_prompt(text) == first.encode_prompt(text)
    assert tokenizer_lib.digest(read) == tokenizer_lib.digest(first)
    assert read._chat.source == first._chat.source
  again.save(tmp_path / "c")
  once, twice = (
    transformers.AutoTokenizer.from_pretrained(tmp_path / n) for n in "bc"
  )
  assert once.chat_template == twice.chat_template


def test_what_is_saved_can_be_overridden(places, tmp_path):
  quick = tokenizer_lib.load(
    places["qwen3"], chat_template_options=dict(enable_thinking=False)
  )
  quick.save(tmp_path)
  slow = tokenizer_lib.load(places["qwen3"])
  options = dict(enable_thinking=True)
  ours = tokenizer_lib.load(tmp_path, chat_template_options=options)
  assert ours.encode_prompt("hello") == slow.encode_prompt("hello")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  asked = dict(tokenize=False, add_generation_prompt=True)
  question = [{"role": "user", "content": "hello"}]
  chats = [
    theirs.apply_chat_template(question, **asked, **o) for o in ({}, options)
  ]
  assert chats == [t._chat.wrap("hello")[0] for t in (quick, slow)]


@pytest.mark.parametrize(
  "source", ["  {% if x %}\n", "\n\n {{ x }}", "{{- x }}"]
)
@pytest.mark.parametrize("value", ["%}{%", "#}", None, True, 2.5, ["é", {}]])
def test_what_stands_before_a_template_writes_nothing(source, value):
  source += "{% if true %}{% endif %}{{ messages | length }}{{ y }}"
  source += "{% endif %}" if "if x" in source else ""
  made_of = dict(x=1, y=value)
  whole = baked.bake(source, made_of, "Be\nbrief")
  assert baked.split(whole) == (source, made_of, "Be\nbrief")
  messages = [[{"role": "user", "content": "q"}]]
  system = {"role": "system", "content": "Be\nbrief"}
  (text,), _ = chat_template_utils.render_jinja_template(
    messages, chat_template=whole
  )
  (wanted,), _ = chat_template_utils.render_jinja_template(
    [[system, *messages[0]]], chat_template=source, **made_of
  )
  assert text == wanted
  assert baked.bake(source, {}, None) == source
  assert baked.split(source) == (source, {}, None)


def test_the_template_of_the_training_is_saved(tmp_path, places):
  """A model that is exported is asked as it was trained."""
  own = "Q: {{ messages[0]['content'] }}\nA:"
  for name, place in places.items():
    first = tokenizer_lib.load(place, chat_template=own)
    first.save(tmp_path / name)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
    assert saved.chat_template == own
    # Both what the config says and "auto" give the same again.
    for choice in (own, "auto"):
      again = tokenizer_lib.load(tmp_path / name, chat_template=choice)
      assert again.encode_prompt("1 + 1") == first.encode_prompt("1 + 1")


def test_of_several_templates_that_of_the_training_is_the_default(tmp_path):
  place = made.checkpoint(
    tmp_path / "a",
    **made.FAMILIES["qwen3"]
    | dict(
      template=[
        dict(name="default", template=made.QWEN3),
        dict(name="tool_use", template=made.QWEN2),
      ]
    ),
  )
  first = tokenizer_lib.load(place, chat_template="tool_use")
  first.save(tmp_path / "b")
  for choice in ("tool_use", "auto"):
    again = tokenizer_lib.load(tmp_path / "b", chat_template=choice)
    assert again._chat.source == made.QWEN2
  saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
  assert saved.get_chat_template() == made.QWEN2


def test_markup_in_a_prompt_is_found(loaded, places):
  assert loaded["qwen3"].markup("<|im_start|>user\nhi<|im_end|>") in (
    "<|im_start|>",
    "<|im_end|>",
  )
  assert loaded["qwen3"].markup("<|im_start user <think> 1 < 2") == ""
  bare = tokenizer_lib.load(places["qwen3"], chat_template="none")
  assert bare.markup("a<|im_end|>") == "<|im_end|>"
