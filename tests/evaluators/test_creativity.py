"""The Creativity Index by hand, against all n-grams, and its cost."""

import types

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from progrpo_jax.evaluators import creativity


def _index(*documents):
  return creativity.CorpusIndex([list(d) for d in documents])


def test_golden():
  index = _index("abcde", "xyz")
  text = list("qabcdeqxyq")
  np.testing.assert_array_equal(
    creativity.covered(text, index), [0, 5, 5, 5, 5, 5, 0, 2, 2, 0]
  )
  assert creativity.uniqueness(text, index, 1) == 3 / 10
  assert creativity.uniqueness(text, index, 2) == 3 / 10
  assert creativity.uniqueness(text, index, 3) == 5 / 10
  assert creativity.uniqueness(text, index, 5) == 5 / 10
  assert creativity.uniqueness(text, index, 6) == 1
  assert creativity.creativity_index(text, index, 2, 6) == pytest.approx(
    0.3 + 0.5 + 0.5 + 0.5 + 1
  )
  # 5 to 12 unless told: half at 5, all at the seven others.
  assert creativity.creativity_index(text, index) == pytest.approx(7.5)


def test_the_ends_of_the_scale():
  corpus = [str(i) for i in range(40)]
  index = creativity.CorpusIndex([corpus])
  assert creativity.creativity_index(corpus[3:30], index) == 0
  assert creativity.creativity_index(["new"] * 30, index) == 8
  # Too short for any passage of five.
  assert creativity.creativity_index(corpus[:4], index) == 8


def test_passages_that_overlap_cover_what_either_does():
  # abc and bcd are in the corpus, abcd is not.
  index = _index("abc", "bcd")
  np.testing.assert_array_equal(
    creativity.covered(list("abcd"), index), [3, 3, 3, 3]
  )
  assert creativity.uniqueness(list("abcd"), index, 4) == 1
  assert creativity.uniqueness(list("abcd"), index, 3) == 0


def test_passages_do_not_go_from_one_document_into_the_next():
  index = _index("ab", "cd")
  assert creativity.uniqueness(list("abcd"), index, 2) == 0
  assert creativity.uniqueness(list("abcd"), index, 3) == 1
  joined = _index("abcd")
  assert creativity.uniqueness(list("abcd"), joined, 3) == 0


def test_an_empty_corpus_has_nothing():
  for index in (_index(), _index("", "")):
    assert index.num_tokens == 0
    assert creativity.creativity_index(list("ab"), index, 1, 3) == 3


def test_token_ids_and_arrays_are_tokens():
  index = creativity.CorpusIndex([np.arange(20)])
  assert creativity.creativity_index(np.arange(5, 20), index) == 0
  assert creativity.creativity_index(list(range(5, 20)), index) == 0


@pytest.mark.parametrize(
  "tokens, low, high, word",
  [
    ([], 5, 12, "without tokens"),
    (["a"], 0, 3, "low <= high"),
    (["a"], 4, 3, "low <= high"),
  ],
)
def test_refuses(tokens, low, high, word):
  with pytest.raises(ValueError, match=word):
    creativity.creativity_index(tokens, _index("ab"), low, high)


def _brute(text, documents, length):
  """Share of tokens in no n-gram of `length` that a document holds."""
  grams = {
    tuple(d[i : i + length])
    for d in documents
    for i in range(len(d) - length + 1)
  }
  inside = set()
  for i in range(len(text) - length + 1):
    if tuple(text[i : i + length]) in grams:
      inside |= set(range(i, i + length))
  return 1 - len(inside) / len(text)


texts = st.lists(st.sampled_from("abc"), max_size=24)


@hypothesis.given(
  st.lists(texts, max_size=4),
  texts.filter(bool),
  st.integers(1, 4),
  st.integers(0, 5),
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_agrees_with_all_ngrams(documents, text, low, more):
  # An n-gram longer than L that is in the corpus is made of n-grams of L that
  # are, so that looking at exactly L is enough.
  index = creativity.CorpusIndex(documents)
  expected = sum(_brute(text, documents, n) for n in range(low, low + more + 1))
  np.testing.assert_allclose(
    creativity.creativity_index(text, index, low, low + more),
    expected,
    atol=1e-12,
  )


class _Token:
  """A token that counts how often it is looked up."""

  looked_up = 0

  def __init__(self, value):
    self.value = value

  def __hash__(self):
    _Token.looked_up += 1
    return hash(self.value)

  def __eq__(self, other):
    return isinstance(other, _Token) and self.value == other.value


def _fibonacci(size):
  a, b = "a", "ab"
  while len(b) < size:
    a, b = b, b + a
  return b[:size]


@pytest.mark.parametrize(
  "make",
  [
    lambda size: "a" * size,
    lambda size: "a" * (size // 2) + "b" * (size // 2),
    _fibonacci,
    lambda size: "".join(np.random.default_rng(0).choice(list("abcd"), size)),
  ],
  ids=["same", "two runs", "fibonacci", "random"],
)
def test_cost_is_linear(make):
  spent = []
  for size in (500, 1000, 2000):
    tokens = [_Token(c) for c in make(size)]
    _Token.looked_up = 0
    index = creativity.CorpusIndex([tokens])
    building, _Token.looked_up = _Token.looked_up, 0
    assert index.num_states <= 2 * (size + 1) + 1
    # A text that goes along with the corpus and leaves it again and again.
    text = (tokens[size // 3 :] + [_Token("?")] + tokens[: size // 2])[:size]
    creativity.covered(text, index)
    assert _Token.looked_up <= 2 * size
    spent.append(building)
  assert spent[-1] <= 8 * 2000
  assert spent[2] / spent[1] < 2.2 and spent[1] / spent[0] < 2.2


def test_words():
  assert creativity.words("Use 3*4, then stop.") == [
    "Use",
    "3",
    "*",
    "4",
    ",",
    "then",
    "stop",
    ".",
  ]


def test_measure_names_its_range_and_reads_the_correct_apart():
  index = creativity.CorpusIndex([creativity.words("one two three four five")])
  samples = types.SimpleNamespace(
    texts_XG=(("one two three", "new words here"), ("", "one two nine")),
    correct_XG=np.array([[True, False], [False, False]]),
    valid_XG=np.ones((2, 2), bool),
  )
  values = dict(creativity.measure(index, 2, 3)(samples))
  assert values == pytest.approx(
    {
      "creativity_2_3": np.mean([np.mean([0, 2]), 1 / 3 + 1]),
      "creativity_2_3_correct": 0.0,
    }
  )
  samples.correct_XG[:] = False
  assert list(dict(creativity.measure(index)(samples))) == ["creativity_5_12"]
