from hypothesis import given
from hypothesis import strategies as st
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.tasks.sets import overlap

TWENTY = " ".join(f"w{i}" for i in range(20))


@pytest.mark.parametrize(
  "text, words",
  [
    ("Ann's 3 apples.", ["ann", "s", "3", "apples"]),
    (
      r"$\frac{1}{2}-x^2=\sqrt 3$",
      ["frac", "1", "2", "-", "x", "^", "2", "=", "sqrt", "3"],
    ),
    (r"\left(\dfrac a b\right)", ["frac", "a", "b"]),
    ("ＡＢ１２", ["ab12"]),
    ("snake_case", ["snake", "case"]),
    (" \n.,;", []),
  ],
)
def test_words(text, words):
  assert overlap.words(text) == words


def test_grams_by_hand():
  assert overlap.grams("a b c d", 2) == {"a b", "b c", "c d"}
  assert overlap.grams("a b a b", 2) == {"a b", "b a"}
  assert overlap.grams("a b", 3) == {"a b"}
  assert overlap.grams("...", 3) == set()


def test_share_by_hand():
  """Of 8 n-grams, one changed word at the end takes away 1, inside 13."""
  index = overlap.Index(n=13, share=0.5)
  index.add(TWENTY, "e")
  assert index.match(TWENTY) == ("e", 1.0)
  assert index.match(TWENTY.upper() + "!") == ("e", 1.0)
  assert index.match(TWENTY.replace("w19", "x")) == ("e", 7 / 8)
  assert index.match(TWENTY.replace("w4", "x")) is None  # 3 of 8
  assert index.match(TWENTY.replace("w3", "x")) == ("e", 4 / 8)
  assert overlap.Index(n=13, share=0.6).match(TWENTY) is None


def test_an_evaluation_text_within_a_longer_one():
  index = overlap.Index(n=13)
  index.add(TWENTY, "e")
  other = " ".join(f"y{i}" for i in range(100))
  assert index.match(f"{other} {TWENTY} {other}") == ("e", 1.0)
  assert index.match(" ".join(f"w{i}" for i in range(14))) == ("e", 1.0)


def test_short_texts_match_as_a_whole_only():
  index = overlap.Index(n=13)
  index.add("What is 3 + 5?", "e")
  assert index.match("what is 3+5") == ("e", 1.0)
  assert index.match("What is 3 - 5?") is None
  assert index.match("Now then: what is 3 + 5?") is None
  index.add("...", "nothing")
  assert index.match("???") is None


def test_a_shared_phrase_is_no_duplicate():
  phrase = " ".join(f"p{i}" for i in range(14))
  index = overlap.Index(n=13)
  for k in range(50):
    index.add(f"{phrase} " + " ".join(f"q{k}_{i}" for i in range(30)), str(k))
  text = f"{phrase} " + " ".join(f"r{i}" for i in range(30))
  assert index.match(text) is None
  again = f"{phrase} " + " ".join(f"q{7}_{i}" for i in range(30))
  assert index.match(again).name == "7"


def test_options_are_checked():
  with pytest.raises(InputError, match="ngram must be at least 1, not 0"):
    overlap.Index(n=0)
  with pytest.raises(InputError, match="overlap must lie above 0"):
    overlap.Index(share=0.0)


TEXT = st.lists(st.sampled_from("abcdef"), max_size=12).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=6), TEXT, st.integers(1, 4))
def test_agrees_with_the_definition(evaluation, text, n):
  """Against the formula, spelled out with sets."""
  index = overlap.Index(n=n, share=0.5)
  for i, one in enumerate(evaluation):
    index.add(one, str(i))
  mine, seen, expected = overlap.grams(text, n), set(), set()
  for i, one in enumerate(evaluation):
    theirs = overlap.grams(one, n)
    least = min(len(mine), len(theirs))
    if least and len(mine & (theirs - seen)) >= 0.5 * least:
      expected.add(str(i))
    seen |= theirs
  found = index.match(text)
  assert (found is not None) == bool(expected)
  assert found is None or found.name in expected


@given(st.text(max_size=200))
def test_every_text_with_words_matches_itself(text):
  index = overlap.Index(n=3)
  index.add(text, "self")
  found = index.match(text)
  assert found == ("self", 1.0) if overlap.words(text) else found is None


def test_the_work_is_linear():
  """Ten thousand copies of a phrase cost as one text of their length."""
  index = overlap.Index()
  for i in range(2_000):
    index.add(f"{TWENTY} {i}", str(i))
  for i in range(2_000):
    assert index.match(f"{TWENTY} {i}").name == "0"
