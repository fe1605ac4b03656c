"""Sentencepiece vocabularies: training, round trips, special ids."""

import random

import hypothesis
from hypothesis import strategies as st
import pytest

from progrpo_jax import errors
from progrpo_jax.text import sentencepiece_tokenizer
from progrpo_jax.text import tokenizer as tokenizer_lib
from tests.text import made


def test_char_vocabulary_is_the_characters_and_the_bytes(char):
  characters = len(set("".join(made.EQUATIONS)))
  assert char.vocab_size == 4 + 256 + characters
  assert len(char.encode(made.EQUATIONS[0])) == len(made.EQUATIONS[0])
  assert (char.pad_id, char.stop_ids) == (0, (2,))


def test_without_bytes_the_vocabulary_is_small_and_lossy():
  small = sentencepiece_tokenizer.SentencePieceTokenizer.train(
    made.EQUATIONS, byte_fallback=False
  )
  assert small.vocab_size == 4 + len(set("".join(made.EQUATIONS)))
  assert small.decode(small.encode(made.EQUATIONS[3])) == made.EQUATIONS[3]
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
  trained = sentencepiece_tokenizer.SentencePieceTokenizer.train(
    made.EQUATIONS, model_type=model_type, vocab_size=360
  )
  assert trained.vocab_size <= 360
  assert len(trained.encode(made.EQUATIONS[0])) < len(made.EQUATIONS[0])
  for text in [*made.EQUATIONS, "", "  x\n", "né \u2581 😀", "</s>"]:
    assert trained.decode(trained.encode(text)) == text


def test_long_lines_are_trained_on():
  line = "abc " * 4000 + "z"
  trained = sentencepiece_tokenizer.SentencePieceTokenizer.train([line])
  assert trained.vocab_size == 4 + 256 + 5


def test_training_is_deterministic(tmp_path, run_python):
  shuffled = random.Random(0).sample(made.EQUATIONS, len(made.EQUATIONS))
  train = sentencepiece_tokenizer.SentencePieceTokenizer.train
  train(made.EQUATIONS, str(tmp_path / "a.model"))
  run_python(
    f"""
from progrpo_jax.text import sentencepiece_tokenizer
sentencepiece_tokenizer.SentencePieceTokenizer.train(
    {shuffled!r}, {str(tmp_path / "b.model")!r})
""",
    env={"PYTHONHASHSEED": "7"},
  )
  one, other = (tokenizer_lib.load(tmp_path / f"{n}.model") for n in "ab")
  assert one._model == train(made.EQUATIONS)._model
  assert one.encode(made.EQUATIONS[5]) == other.encode(made.EQUATIONS[5])


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
  assert isinstance(again, sentencepiece_tokenizer.SentencePieceTokenizer)
  assert again.encode_prompt(made.EQUATIONS[1]) == char.encode_prompt(
    made.EQUATIONS[1]
  )
  assert again.vocab_size == char.vocab_size


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
    sentencepiece_tokenizer.SentencePieceTokenizer.train(**options)


def test_sentencepiece_model_that_puts_a_space_before_a_text(llama2):
  tokenizer = tokenizer_lib.load(llama2 / "tokenizer.model")
  assert tokenizer._processor.id_to_piece(tokenizer.encode("a")[0])[0] == "▁"
  for text in (
    "hello",
    " hello",
    "  hello ",
    "a▁b",
    "▁",
    "▁ x",
    " ▁ y  z▁",
    "\n\n hi\n",
    "",
    "é😀",
    "</s>",
    "▁é ▁w 2",
  ):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids, user = tokenizer.encode_prompt(text)
    assert ids == [1, *tokenizer.encode(text)] and not user[0]
  assert not tokenizer.opens_thought


def test_markup_in_a_prompt_is_found():
  tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer.train(["ab"])
  assert tokenizer.markup("a </s> b") == "</s>"
  assert tokenizer.markup("a < s > b") == ""
