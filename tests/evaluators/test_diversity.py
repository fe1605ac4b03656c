"""Diversity counted by hand."""

import numpy as np
import pytest

from progrpo_jax.evaluators import diversity


def test_distinct_correct_counts_ways_of_being_right():
  texts = ["3 * 4", "4 * 3", "3 *  4\n", "5 + 7", "6 + 7"]
  right = [True, True, True, True, False]
  assert diversity.distinct_correct(texts, right) == 3
  assert diversity.distinct_correct(
      texts, right, canonical=lambda t: tuple(sorted(t.split()))) == 2


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
