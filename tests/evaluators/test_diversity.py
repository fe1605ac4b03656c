"""Diversity counted by hand."""

import math
import types

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from progrpo_jax.evaluators import diversity
from progrpo_jax.tasks import base


def test_distinct_correct_counts_ways_of_being_right():
  texts = ["3 * 4", "4 * 3", "3 *  4\n", "5 + 7", "6 + 7"]
  right = [True, True, True, True, False]
  assert diversity.distinct_correct(texts, right) == 3
  assert (
    diversity.distinct_correct(
      texts, right, canonical=lambda t: tuple(sorted(t.split()))
    )
    == 2
  )


def test_distinct_correct_of_none_and_of_nothing():
  assert diversity.distinct_correct(["a", "b"], [False, False]) == 0
  assert diversity.distinct_correct([], []) == 0
  with pytest.raises(ValueError, match="2 texts but 1"):
    diversity.distinct_correct(["a", "b"], [True])


def test_distinct_correct_takes_verdicts_as_arrays():
  assert diversity.distinct_correct(["a", "b"], np.array([True, False])) == 1


def test_ngrams_stay_inside_their_text():
  # a b, b a | a b: two distinct of three; none joins the texts.
  assert diversity.ngram_counts(["a b a", "a b"], 2) == (2, 3)
  assert diversity.ngram_counts([[1, 2, 1], [1, 2]], 2) == (2, 3)
  assert diversity.ngram_counts(["a b a", "a b"], 1) == (2, 5)
  assert diversity.ngram_counts(["a b a", "a b"], 3) == (1, 1)


def test_distinct_n():
  assert diversity.distinct_n(["a b a", "a b"], 2) == 2 / 3
  assert diversity.distinct_n(["a a a a"], 1) == 1 / 4
  assert diversity.distinct_n(["a"], 2) == 0
  with pytest.raises(ValueError, match="0"):
    diversity.distinct_n(["a"], 0)


def test_ead_golden():
  np.testing.assert_allclose(diversity.ead(25, 30, 100), 0.960432, atol=5e-7)


def test_ead_does_not_fall_with_length_where_distinct_does():
  rng = np.random.default_rng(0)
  texts = [rng.integers(50, size=size).tolist() for size in (20, 400)]
  counts = [diversity.ngram_counts([text], 1) for text in texts]
  shares = [diversity.distinct_n([text], 1) for text in texts]
  adjusted = [diversity.ead(*count, vocab_size=50) for count in counts]
  assert shares[1] < 0.2 * shares[0]
  np.testing.assert_allclose(adjusted, 1, atol=0.15)


def test_ead_of_nothing():
  assert diversity.ead(0, 0, 100) == 0
  assert diversity.ead(1, 1, 1) == 1
  with pytest.raises(ValueError, match="0"):
    diversity.ead(1, 1, 0)


def test_ead_of_texts():
  # Three tokens of which two differ, from a vocabulary of four.
  expected = 2 / (4 * (1 - (3 / 4) ** 3))
  np.testing.assert_allclose(diversity.ead_of(["a b", "a"], 4), expected)
  np.testing.assert_allclose(diversity.ead_of([[5, 6], [5]], 4), expected)
  assert diversity.ead_of([], 4) == 0


def test_self_bleu_golden():
  # abcde against abcdf: 4/5, 3/4, 2/3, 1/2 of its n-grams, equal lengths; and
  # the other way round. abc: all of its three orders, two tokens too short.
  expected = (2 * 0.2**0.25 + math.exp(1 - 5 / 3)) / 3
  texts = ["a b c d e", "a b c d f", "a b c"]
  np.testing.assert_allclose(diversity.self_bleu(texts), expected)
  np.testing.assert_allclose(
    diversity.self_bleu([t.split() for t in texts]), expected
  )


def test_self_bleu_clips_counts_and_smooths():
  # aaa: one of three a counts; no aa, no aaa; longer than the other text.
  # ab: a counts, ab does not; one token too short.
  first = (1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 3)
  second = (1 / 2 * 0.1 / 1) ** (1 / 2) * math.exp(1 - 3 / 2)
  np.testing.assert_allclose(
    diversity.self_bleu(["a a a", "a b"]), (first + second) / 2
  )


def test_self_bleu_at_its_ends():
  np.testing.assert_allclose(diversity.self_bleu(["a b c d e"] * 3), 1)
  assert diversity.self_bleu(["a b c d", "e f g h"]) < 0.1
  assert diversity.self_bleu(["", ""]) == 0
  for texts in ([], ["a"]):
    with pytest.raises(ValueError, match="at least 2"):
      diversity.self_bleu(texts)


def _bleu(text, others):
  """BLEU by the book, one reference after the other."""
  if not text:
    return 0.0
  logs = []
  for n in range(1, min(4, len(text)) + 1):
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    matches = 0
    for gram in set(grams):
      most = max(
        sum(tuple(o[i : i + n]) == gram for i in range(len(o) - n + 1))
        for o in others
      )
      matches += min(grams.count(gram), most)
    logs.append(math.log((matches or 0.1) / len(grams)))
  nearest = min((abs(len(o) - len(text)), len(o)) for o in others)[1]
  penalty = min(1.0, math.exp(1 - nearest / len(text)))
  return penalty * math.exp(sum(logs) / len(logs))


@hypothesis.given(
  st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=2, max_size=6)
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_self_bleu_is_the_mean_bleu_against_the_others(texts):
  expected = np.mean(
    [_bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)]
  )
  np.testing.assert_allclose(diversity.self_bleu(texts), expected, atol=1e-12)
  np.testing.assert_allclose(
    diversity.self_bleu(texts[::-1]), expected, atol=1e-12
  )


def _samples(tokens, correct, valid=None):
  correct = np.array(correct)
  samples = types.SimpleNamespace(
    rows=tuple(
      base.Row("chain_sum", f"p{i}", "", {}) for i in range(len(tokens))
    ),
    texts_XG=tuple(
      tuple(" ".join(map(str, t)) for t in group) for group in tokens
    ),
    tokens_XG=tokens,
    vocab_size=10,
    correct_XG=correct,
    valid_XG=np.ones_like(correct) if valid is None else np.array(valid),
  )
  samples.distinct_correct_X = diversity.distinct_counts(
    samples.rows, samples.texts_XG, samples.correct_XG
  )
  return samples


def test_measures_are_means_over_problems_of_all_and_of_the_correct():
  tokens = (((1, 2, 3), (1, 2, 3), (4, 5, 6)), ((1, 1), (2, 2), (3, 3)))
  values = dict(
    diversity.measure(
      _samples(tokens, [[True, True, False], [False, False, True]])
    )
  )
  assert values["distinct_correct"] == 1
  np.testing.assert_allclose(values["distinct_2"], (4 / 6 + 1) / 2)
  np.testing.assert_allclose(values["distinct_2_correct"], (2 / 4 + 1) / 2)
  np.testing.assert_allclose(
    values["ead"], np.mean([diversity.ead(6, 9, 10), diversity.ead(3, 6, 10)])
  )
  np.testing.assert_allclose(
    values["ead_correct"],
    np.mean([diversity.ead(3, 6, 10), diversity.ead(1, 2, 10)]),
  )
  np.testing.assert_allclose(
    values["self_bleu_diversity"],
    1 - np.mean([diversity.self_bleu(group) for group in tokens]),
  )
  # Of the second problem one sample is right: nothing to compare it with.
  np.testing.assert_allclose(
    values["self_bleu_diversity_correct"], 0, atol=1e-12
  )


def test_measures_of_nothing_correct_and_of_masked_samples():
  tokens = (((1, 2), (1, 2), (3, 4)),)
  values = dict(diversity.measure(_samples(tokens, [[False] * 3])))
  assert values["distinct_correct"] == 0
  assert not any(
    name.endswith("_correct") for name in values if name != "distinct_correct"
  )
  masked = dict(
    diversity.measure(_samples(tokens, [[False] * 3], [[True, False, True]]))
  )
  assert masked["distinct_2"] == 1 and values["distinct_2"] == 2 / 3


def test_what_is_read_is_bounded():
  many = tuple((1,) * 2000 if i < 16 else (i, i + 1) for i in range(100))
  values = dict(diversity.measure(_samples((many,), [[False] * 100])))
  size = diversity.MAX_SAMPLES * (diversity.MAX_TOKENS - 1)
  np.testing.assert_allclose(values["distinct_2"], 1 / size)
