"""Which tokenizer a directory has, in a bucket too, and errors."""

from etils import epath
import jax
import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf, parameters
from progrpo_jax.text import tokenizer as tokenizer_lib
from tests.text import made


@pytest.mark.parametrize(
  ("kind", "template", "options", "words"),
  [
    ("hf", None, dict(chat_template="own"), "no chat template"),
    ("hf", None, dict(system_prompt="x"), "needs a chat template"),
    ("hf", None, dict(chat_template="chatml"), "'chatml' must be"),
    ("hf", made.CHATML, dict(chat_template="{% for %}"), "failed"),
    ("hf", "{{ raise_exception('no!') }}", {}, "no!"),
    ("hf", "{{ messages[0]['role'] }}", {}, "0 times"),
    ("hf", made.CHATML + made.CHATML, {}, "2 times"),
    ("sp", None, dict(chat_template="own"), "takes no chat template"),
    ("sp", None, dict(system_prompt="x"), "takes no chat template"),
    ("sp", None, dict(chat_template_options={"a": 1}), "takes no chat templ"),
  ],
)
def test_impossible_choices_are_errors(
  tmp_path, char, kind, template, options, words
):
  if kind == "hf":
    made.hf_directory(tmp_path, template)
  else:
    char.save(tmp_path)
  with pytest.raises(errors.InputError, match=words):
    tokenizer_lib.load(tmp_path, **options)


@pytest.mark.parametrize("kind", ["hf", "sentencepiece"])
def test_export_beside_weights_keeps_the_tokenizer(tmp_path, char, kind):
  """Transformers may pick another class when it sees the model's config."""
  first = char
  if kind == "hf":
    first = tokenizer_lib.load(
      made.hf_directory(tmp_path / "a", made.CHATML, stop_ids=[2, 0])
    )
  config = config_lib.ModelConfig.tiny(vocab_size=400, num_layers=1)
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), parameters.abstract_params(config)
  )
  hf.save(tmp_path / "b", config, params, first)
  again = tokenizer_lib.load(tmp_path / "b")
  assert type(again) is type(first)
  assert again.stop_ids == first.stop_ids
  assert again.pad_id == first.pad_id
  for text in ["Using the numbers [1, 2]", " é\n\n  x 12345 don't"]:
    assert again.encode_prompt(text) == first.encode_prompt(text)
    assert again.decode(again.encode(text)) == text


@pytest.mark.parametrize("kind", ["hf", "sentencepiece"])
def test_a_bucket_is_a_place_like_any_other(tmp_path, bucket, char, kind):
  first, names = char, ["tokenizer.model"]
  if kind == "hf":
    path = made.hf_directory(tmp_path / "a", made.CHATML, stop_ids=[2, 0])
    first = tokenizer_lib.load(path)
    first._tokenizer.chat_template = {
      "default": made.CHATML,
      "other": "{{ 1 }}",
    }
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
