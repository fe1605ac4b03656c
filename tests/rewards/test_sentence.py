import pytest

from progrpo_jax.rewards import sentence


@pytest.mark.parametrize(
  "text",
  [
    "The river flows.",
    "  The RIVER flows slowly today!\n",
    "Is it a river?",
    '"The river flows," he said.',
    "\u201cThe river flows.\u201d",
    "It\u2019s a well-known river; we don't swim.",
  ],
)
def test_a_sentence_with_the_word_is_right(text):
  assert sentence.score(text, "river", length=8) == (1.0, True, "ok")


@pytest.mark.parametrize(
  "text, status",
  [
    ("The river flows", "no_answer"),  # no end
    ("the river flows.", "no_answer"),  # no capital
    ("The river flows. It is wide.", "no_answer"),
    ("The river flows...", "no_answer"),
    ("The river\nflows.", "no_answer"),
    ("The river has 3 boats.", "no_answer"),
    ("The river (wide) flows.", "no_answer"),
    ("**The river flows.**", "no_answer"),
    ("La rivi\u00e8re river coule.", "no_answer"),
    ("", "no_answer"),
    ("The rivers flow.", "ok"),
    ("The sea is wide.", "ok"),
    ("River river river.", "ok"),
    ("A river.", "ok"),  # too short
    ("The river flows down to the wide blue sea.", "ok"),  # too long
    ("The river-bank is wide.", "ok"),  # another word
  ],
)
def test_anything_else_is_wrong(text, status):
  found = sentence.score(text, "river", length=8)
  assert found == (0.0, False, status)


def test_a_length_bounds_or_is_met():
  for length in (4, 5, 6):
    text = "We saw the river again."
    at_most = sentence.score(text, "river", length=length).correct
    exact = sentence.score(text, "river", length=length, exactly=True).correct
    assert at_most == (length >= 5)
    assert exact == (length == 5)


def test_distinct_sentences_differ_in_a_word():
  same = ("The river flows.", '"The  River flows!"', "the river, flows")
  assert {sentence.canonical(text, None) for text in same} == {
    "the river flows"
  }
  others = ("A river flows.", "The river flows on.", "The river's flows.")
  assert len({sentence.canonical(t, None) for t in (*same, *others)}) == 4


def test_a_long_text_takes_no_long_time():
  """Linear: a pattern that backtracks would never come to an end."""
  for text in ("A" + "a-'" * 100_000, "A" + ' "' * 100_000 + "\n."):
    assert sentence.score(text, "river", length=8).reward == 0
