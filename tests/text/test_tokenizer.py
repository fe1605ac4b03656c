"""Round trips, masks of the user's text, stop tokens, and errors."""

import json
import random

from etils import epath
from etils.epath import backend
from fsspec.implementations import dirfs
from fsspec.implementations import local as local_files
import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf, transformer
from progrpo_jax.rewards import pool as pools
from progrpo_jax.text import chat
from progrpo_jax.text import tokenizer as tokenizer_lib

TEXTS = [
  f"Using the numbers [{a}, {b}, {c}], create an equation that equals "
  f"{a * b + c}. Use each number once.\n<answer>{a} * {b} + {c}</answer>"
  for a in range(1, 10)
  for b in range(1, 5)
  for c in (7, 25, 68)
]

CHATML = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
  "<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def char():
  return tokenizer_lib.SentencePieceTokenizer.train(TEXTS)


def hf_directory(
  path,
  template=None,
  stop_ids=None,
  pad="<|endoftext|>",
  bos=False,
  single="<s> $A",
):
  """A byte-level BPE tokenizer as in Qwen2, trained on the texts."""
  import tokenizers
  import transformers

  inner = tokenizers.Tokenizer(tokenizers.models.BPE())
  inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  inner.decoder = tokenizers.decoders.ByteLevel()
  inner.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
  special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
  inner.train_from_iterator(
    TEXTS,
    tokenizers.trainers.BpeTrainer(
      vocab_size=320,
      special_tokens=special,
      show_progress=False,
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  if bos:
    inner.post_processor = tokenizers.processors.TemplateProcessing(
      single=single, special_tokens=[("<s>", 3), ("<|im_end|>", 2)]
    )
  whole = transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner, eos_token="<|im_end|>", pad_token=pad
  )
  whole.chat_template = template
  whole.save_pretrained(path)
  if stop_ids is not None:
    (path / "generation_config.json").write_text(
      json.dumps({"eos_token_id": stop_ids})
    )
  return str(path)


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
  path = hf_directory(tmp_path, bos=True, single=single)
  tokenizer = tokenizer_lib.load(path)
  for text in ("5 + 7", "", " a"):
    ids, user = tokenizer.encode_prompt(text)
    assert ids == head + tokenizer.encode(text)
    assert user == [False] * len(head) + [True] * (len(ids) - len(head))
    assert not set(ids) & set(tokenizer.stop_ids)


@pytest.mark.parametrize("ids", ["x", [[1]], [True], -1, 1.5, {}])
def test_stop_ids_that_are_no_ids_are_named(tmp_path, ids):
  path = hf_directory(tmp_path, stop_ids=ids)
  with pytest.raises(errors.InputError, match="eos_token_id in generation_con"):
    tokenizer_lib.load(path)


def test_char_vocabulary_is_the_characters_and_the_bytes(char):
  characters = len(set("".join(TEXTS)))
  assert char.vocab_size == 4 + 256 + characters
  assert len(char.encode(TEXTS[0])) == len(TEXTS[0])
  assert (char.pad_id, char.stop_ids) == (0, (2,))


def test_without_bytes_the_vocabulary_is_small_and_lossy():
  small = tokenizer_lib.SentencePieceTokenizer.train(TEXTS, byte_fallback=False)
  assert small.vocab_size == 4 + len(set("".join(TEXTS)))
  assert small.decode(small.encode(TEXTS[3])) == TEXTS[3]
  assert small.decode(small.encode("5~5")) == "55"


@hypothesis.given(st.text())
@hypothesis.example(" two  spaces \n\n end \t")
@hypothesis.example("\u2581 is the sign of a space \u2581")
@hypothesis.example("\r\n\x00\u0301e\u200b\ufeff👩‍🚀")
@hypothesis.example("<s></s><pad><unk><0x41>")
@hypothesis.settings(deadline=None)
def test_char_round_trip_of_any_text(char, text):
  assert char.decode(char.encode(text)) == text


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_other_models_round_trip_too(model_type):
  trained = tokenizer_lib.SentencePieceTokenizer.train(
    TEXTS, model_type=model_type, vocab_size=360
  )
  assert trained.vocab_size <= 360
  assert len(trained.encode(TEXTS[0])) < len(TEXTS[0])
  for text in [*TEXTS, "", "  x\n", "né \u2581 😀", "</s>"]:
    assert trained.decode(trained.encode(text)) == text


def test_long_lines_are_trained_on():
  line = "abc " * 4000 + "z"
  trained = tokenizer_lib.SentencePieceTokenizer.train([line])
  assert trained.vocab_size == 4 + 256 + 5


def test_training_is_deterministic(tmp_path, run_python):
  shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
  train = tokenizer_lib.SentencePieceTokenizer.train
  train(TEXTS, str(tmp_path / "a.model"))
  run_python(
    f"""
from progrpo_jax.text import tokenizer
tokenizer.SentencePieceTokenizer.train(
    {shuffled!r}, {str(tmp_path / "b.model")!r})
""",
    env={"PYTHONHASHSEED": "7"},
  )
  one, other = (tokenizer_lib.load(tmp_path / f"{n}.model") for n in "ab")
  assert one._model == train(TEXTS)._model
  assert one.encode(TEXTS[5]) == other.encode(TEXTS[5])


def test_special_ids_and_unknown_ids_drop_out(char):
  ids = char.encode("4 + 5")
  noisy = [1, *ids[:2], 0, 3, 10**6, -1, *ids[2:], 2]
  assert char.decode(noisy) == "4 + 5"
  assert char.decode([]) == ""


def test_lone_surrogates_become_replacement_characters(char):
  assert char.decode(char.encode("a\ud800b")) == "a\ufffdb"


def test_prompt_begins_with_bos_that_is_not_the_users(char):
  ids, user = char.encode_prompt("2 + 2")
  assert ids == [1, *char.encode("2 + 2")]
  assert user == [False] + [True] * 5


def test_save_and_load(char, tmp_path):
  char.save(tmp_path / "new")
  again = tokenizer_lib.load(tmp_path / "new")
  assert isinstance(again, tokenizer_lib.SentencePieceTokenizer)
  assert again.encode_prompt(TEXTS[1]) == char.encode_prompt(TEXTS[1])
  assert again.vocab_size == char.vocab_size


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


@pytest.fixture(scope="module")
def bare_hf(tmp_path_factory):
  return tokenizer_lib.load(hf_directory(tmp_path_factory.mktemp("hf")))


def test_hf_bos_is_not_the_users(tmp_path):
  loaded = tokenizer_lib.load(hf_directory(tmp_path, bos=True))
  ids, user = loaded.encode_prompt("equation 2")
  assert ids == [3, *loaded.encode("equation 2")]
  assert user == [False] + [True] * (len(ids) - 1)


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
  path = hf_directory(tmp_path, CHATML)
  loaded = tokenizer_lib.load(path, system_prompt=system)
  ids, user = loaded.encode_prompt(text)
  import transformers

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
  trimming = CHATML.replace("m['content']", "m['content'] | trim")
  loaded = tokenizer_lib.load(hf_directory(tmp_path, trimming))
  ids, user = loaded.encode_prompt("  4 + 5 \n")
  assert loaded.decode([i for i, u in zip(ids, user) if u]) == "4 + 5"


def test_choice_of_template(tmp_path):
  path = hf_directory(tmp_path, CHATML)
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


@pytest.mark.parametrize(
  ("kind", "template", "options", "words"),
  [
    ("hf", None, dict(chat_template="own"), "no chat template"),
    ("hf", None, dict(system_prompt="x"), "needs a chat template"),
    ("hf", None, dict(chat_template="chatml"), "'chatml' must be"),
    ("hf", CHATML, dict(chat_template="{% for %}"), "failed"),
    ("hf", "{{ raise_exception('no!') }}", {}, "no!"),
    ("hf", "{{ messages[0]['role'] }}", {}, "0 times"),
    ("hf", CHATML + CHATML, {}, "2 times"),
    ("sp", None, dict(chat_template="own"), "takes no chat template"),
    ("sp", None, dict(system_prompt="x"), "takes no chat template"),
    ("sp", None, dict(chat_template_options={"a": 1}), "takes no chat templ"),
  ],
)
def test_impossible_choices_are_errors(
  tmp_path, char, kind, template, options, words
):
  if kind == "hf":
    hf_directory(tmp_path, template)
  else:
    char.save(tmp_path)
  with pytest.raises(errors.InputError, match=words):
    tokenizer_lib.load(tmp_path, **options)


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
  place = hf_directory(tmp_path, template + CHATML)
  with pytest.raises(errors.InputError, match=words) as caught:
    tokenizer_lib.load(place)
  assert f"{place}: the chat template" in str(caught.value)


def test_a_template_that_loops_is_an_error_and_the_next_prompt_is_not(
  tmp_path, monkeypatch
):
  sometimes = "{% if 'bomb' in messages[-1].content %}" + LOOP + "{% endif %}"
  place = hf_directory(tmp_path, sometimes + CHATML)
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
  loaded = tokenizer_lib.load(hf_directory(tmp_path, moody))
  with pytest.raises(errors.InputError, match="changes with the prompt"):
    loaded.encode_prompt("7")


def test_stop_ids_come_from_both_files(tmp_path):
  path = hf_directory(tmp_path, stop_ids=[0, 2])
  assert tokenizer_lib.load(path).stop_ids == (2, 0)
  path = hf_directory(tmp_path, stop_ids=0)
  assert tokenizer_lib.load(path).stop_ids == (2, 0)
  (tmp_path / "generation_config.json").unlink()
  assert tokenizer_lib.load(path).stop_ids == (2,)


def test_pad_falls_back_to_a_stop_id(tmp_path):
  assert tokenizer_lib.load(hf_directory(tmp_path / "a")).pad_id == 0
  assert tokenizer_lib.load(hf_directory(tmp_path / "b", pad=None)).pad_id == 2


def test_hf_decode_drops_special_ids(bare_hf):
  ids = bare_hf.encode("each number")
  assert bare_hf.decode([1, *ids, 10**6, 2, 0]) == "each number"


def test_hf_save_and_load_keep_template_and_ids(tmp_path):
  first = tokenizer_lib.load(hf_directory(tmp_path / "a", CHATML))
  first.save(tmp_path / "b")
  again = tokenizer_lib.load(tmp_path / "b")
  assert again.encode_prompt("1 + 1") == first.encode_prompt("1 + 1")
  assert again.vocab_size == first.vocab_size


@pytest.mark.parametrize("kind", ["hf", "sentencepiece"])
def test_export_beside_weights_keeps_the_tokenizer(tmp_path, char, kind):
  """Transformers may pick another class when it sees the model's config."""
  first = char
  if kind == "hf":
    first = tokenizer_lib.load(
      hf_directory(tmp_path / "a", CHATML, stop_ids=[2, 0])
    )
  config = config_lib.ModelConfig.tiny(vocab_size=400, num_layers=1)
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), transformer.abstract_params(config)
  )
  hf.save(tmp_path / "b", config, params, first)
  again = tokenizer_lib.load(tmp_path / "b")
  assert type(again) is type(first)
  assert again.stop_ids == first.stop_ids
  assert again.pad_id == first.pad_id
  for text in ["Using the numbers [1, 2]", " é\n\n  x 12345 don't"]:
    assert again.encode_prompt(text) == first.encode_prompt(text)
    assert again.decode(again.encode(text)) == text


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """gs:// is a folder; the test fails if it is taken for a local path."""
  (tmp_path / "cwd").mkdir()
  monkeypatch.chdir(tmp_path / "cwd")
  files = dirfs.DirFileSystem(
    path=str(tmp_path), fs=local_files.LocalFileSystem(auto_mkdir=True)
  )
  monkeypatch.setattr(
    backend.fsspec_backend, "_get_filesystem", lambda _: files
  )
  yield tmp_path / "gs:" / "bucket"
  assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize("kind", ["hf", "sentencepiece"])
def test_a_bucket_is_a_place_like_any_other(tmp_path, bucket, char, kind):
  first, names = char, ["tokenizer.model"]
  if kind == "hf":
    path = hf_directory(tmp_path / "a", CHATML, stop_ids=[2, 0])
    first = tokenizer_lib.load(path)
    first._tokenizer.chat_template = {"default": CHATML, "other": "{{ 1 }}"}
    names = [
      "additional_chat_templates/other.jinja",
      "chat_template.jinja",
      "generation_config.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ]
  place = epath.Path("gs://bucket/run/model")
  for _ in range(2):  # the second time it is there
    first.save(place)
    again = tokenizer_lib.load(place)
  # Weights stay where they are: to copy these would fail.
  (bucket / "run/model/model.safetensors").symlink_to("nowhere")
  assert tokenizer_lib.load("gs://bucket/run/model").stop_ids == first.stop_ids
  assert again.encode_prompt("1 + 1") == first.encode_prompt("1 + 1")
  assert (again.stop_ids, again.pad_id) == (first.stop_ids, first.pad_id)
  found = sorted(
    str(p.relative_to(bucket / "run/model"))
    for p in bucket.rglob("*")
    if p.is_file()
  )
  assert found == sorted(names)
  with pytest.raises(errors.InputError, match="gs://bucket/run/no: no such"):
    tokenizer_lib.load("gs://bucket/run/no")
  if kind == "hf":
    assert set(again._tokenizer.chat_template) == {"default", "other"}
    with pytest.raises(errors.InputError, match="gs://bucket/run/model: .*9 "):
      tokenizer_lib.load(place, chat_template="{{ messages[0].content * 9 }}")


def test_missing_and_damaged_files_are_named(tmp_path):
  with pytest.raises(errors.InputError, match="nowhere: no such file"):
    tokenizer_lib.load(tmp_path / "nowhere")
  with pytest.raises(errors.InputError, match="looked for tokenizer.json"):
    tokenizer_lib.load(tmp_path)
  (tmp_path / "tokenizer.model").write_bytes(b"hello")
  with pytest.raises(errors.InputError, match="tokenizer.model: not a sente"):
    tokenizer_lib.load(tmp_path)
  for damaged in ("{", "[]", "{}", '{"added_tokens": []}'):
    (tmp_path / "tokenizer.json").write_text(damaged)
    with pytest.raises(errors.InputError, match="no usable tokenizer"):
      tokenizer_lib.load(tmp_path)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(texts=[]), "no text"),
    (dict(texts=["a"], model_type="word"), "'word'"),
    (dict(texts=["abc"], model_type="bpe"), "needs a vocab_size"),
    (dict(texts=["abc"], model_type="bpe", vocab_size=9), "sentencepiece"),
  ],
)
def test_impossible_training_is_an_error(options, words):
  with pytest.raises(errors.InputError, match=words):
    tokenizer_lib.SentencePieceTokenizer.train(**options)
