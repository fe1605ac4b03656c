"""Tokenizers that the tests of this folder share."""

import pytest
import transformers

from progrpo_jax.text import sentencepiece_tokenizer
from progrpo_jax.text import tokenizer as tokenizer_lib
from tests.text import made


@pytest.fixture(scope="module")
def char():
  return sentencepiece_tokenizer.SentencePieceTokenizer.train(made.EQUATIONS)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
  """The directory of each family."""
  root = tmp_path_factory.mktemp("families")
  return {
    name: made.checkpoint(root / name, **family)
    for name, family in made.FAMILIES.items()
  }


@pytest.fixture(scope="module")
def loaded(places):
  return {name: tokenizer_lib.load(place) for name, place in places.items()}


@pytest.fixture(scope="module")
def theirs(places):
  return {
    name: transformers.AutoTokenizer.from_pretrained(place)
    for name, place in places.items()
  }


@pytest.fixture(scope="module")
def llama2(tmp_path_factory):
  """A sentencepiece model that puts a space before a text, as Llama 2's."""
  import sentencepiece

  place = tmp_path_factory.mktemp("llama2")
  with open(place / "tokenizer.model", "wb") as f:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(made.SENTENCES),
      model_writer=f,
      model_type="bpe",
      vocab_size=340,
      hard_vocab_limit=False,
      byte_fallback=True,
      normalization_rule_name="identity",
      add_dummy_prefix=True,
      remove_extra_whitespaces=False,
      unk_id=0,
      bos_id=1,
      eos_id=2,
      pad_id=-1,
      num_threads=1,
      minloglevel=2,
    )
  return place
