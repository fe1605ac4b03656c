import json
import re

import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import sentence
from progrpo_jax.tasks import base, sentences


def rows(split="train", seed=0, **options):
  source = base.load("sentences", split, data_dir="", seed=seed, **options)
  return [source[i] for i in range(len(source))]


def test_the_words_of_the_splits_are_apart():
  train, held_out = (sentences.WORDS[s] for s in base.SPLITS)
  assert len(set(train)) == len(train) >= 60
  assert len(set(held_out)) == len(held_out) >= 20
  assert not set(train) & set(held_out)
  assert all(re.fullmatch("[a-z]+", word) for word in train + held_out)
  for split in base.SPLITS:
    assert {r.reference for r in rows(split)} == set(sentences.WORDS[split])


@pytest.mark.parametrize("count", sentences.COUNTS)
def test_a_prompt_asks_for_what_is_judged(count):
  found = rows(count=count, lengths=(4, 6, 13))
  assert len({r.prompt for r in found}) == len(found) == 3 * 60
  for row in found:
    asked = re.fullmatch(
      r"Write one sentence of (at most|exactly) (\d+) words that contains the "
      r'word "(\w+)"\.',
      row.prompt,
    )
    assert asked[1] == count.replace("_", " ")
    assert int(asked[2]) == row.meta["length"] and asked[3] == row.reference
    assert row.meta["exactly"] == (count == "exactly")
    assert json.loads(json.dumps(row.meta)) == row.meta


@pytest.mark.parametrize("split", base.SPLITS)
@pytest.mark.parametrize("count", sentences.COUNTS)
def test_every_demonstration_is_another_right_answer(split, count):
  for row in rows(split, count=count, lengths=tuple(range(4, 14))):
    assert base.verifier(row).endswith("rewards.sentence:score")
    for text in row.demonstrations:
      found = sentence.score(text, row.reference, **row.meta)
      assert found == (1.0, True, "ok"), (row.prompt, text)
    forms = {base.canonical(text, row) for text in row.demonstrations}
    assert len(forms) == len(row.demonstrations) > 1


def test_all_seeds_have_the_same_rows():
  assert rows(seed=0) == rows(seed=1)
  assert rows("validation", seed=0) == rows("validation", seed=1)


@pytest.mark.parametrize(
  "options, words",
  [
    ({"count": "exact"}, "did you mean 'exactly'"),
    ({"lengths": ()}, "one or more different numbers"),
    ({"lengths": (5, 5)}, "one or more different numbers"),
    ({"lengths": (3,)}, "length 3 must be from 4 to 13"),
    ({"lengths": (14,)}, "length 14 must be from 4 to 13"),
    ({"lengths": (5, 0)}, "lengths"),
    ({"words": ("river",)}, "no option 'words'"),
  ],
)
def test_wrong_options_are_refused(options, words):
  with pytest.raises(InputError, match=words):
    rows(**options)


def test_there_is_no_row_behind_the_last():
  source = base.load("sentences", "train", data_dir="", seed=0)
  for index in (-1, len(source)):
    with pytest.raises(IndexError):
      source[index]
