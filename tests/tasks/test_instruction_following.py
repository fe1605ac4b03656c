import collections
import itertools
import json

import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import instruction
from progrpo_jax.tasks import base, instruction_following
from progrpo_jax.tasks.sets import asking

TEMPLATES = instruction_following.TEMPLATES


def load(split="train", seed=0, **options):
  return base.load(
    "instruction_following", split, data_dir="", seed=seed, **options
  )


def rows(**options):
  source = load(**options)
  return [source[i] for i in range(len(source))]


def names(row):
  return row.reference["instruction_id_list"]


@pytest.fixture(scope="module", params=TEMPLATES)
def many(request):
  """Two thousand rows of a template."""
  return rows(template=request.param, num_train=2000)


def test_the_ids_are_the_verifiers():
  assert set(asking.IDS) == set(instruction.IDS)
  form = asking.FULL["detectable_format:constrained_response"]
  for option in instruction.OPTIONS:
    assert f'"{option}"' in form


def test_references_are_what_the_verifier_takes(many):
  for row in many:
    instruction.check_reference(row.reference)
    assert json.loads(json.dumps(row.reference)) == row.reference
    assert row.meta == {"loose": False, "binary": False}


def test_every_demonstration_follows_everything(many):
  count = 0
  for row in many:
    assert 1 <= len(row.demonstrations) <= 4
    assert len(set(row.demonstrations)) == len(row.demonstrations)
    for text in row.demonstrations:
      found = instruction.score(text, row.reference, **row.meta)
      assert found == (1.0, True, "ok"), (row.prompt, text)
      count += 1
  assert count > 6000


def test_no_pair_conflicts(many):
  pairs = collections.Counter(
    frozenset(pair)
    for row in many
    for pair in itertools.combinations(names(row), 2)
  )
  assert all(len(pair) == 2 for pair in pairs)
  assert not set(pairs) & asking.CONFLICTS
  assert len(pairs) > 100


@pytest.mark.parametrize(
  "one, other",
  [
    ("change_case:english_capital", "change_case:english_lowercase"),
    ("change_case:english_capital", "language:response_language"),
    ("change_case:english_lowercase", "change_case:capital_word_frequency"),
    ("punctuation:no_comma", "detectable_format:json_format"),
    ("combination:repeat_prompt", "combination:two_responses"),
    ("combination:repeat_prompt", "startend:quotation"),
    ("detectable_format:constrained_response", "keywords:existence"),
    ("detectable_format:constrained_response", "detectable_format:title"),
    ("startend:end_checker", "detectable_content:postscript"),
    ("length_constraints:number_paragraphs", "combination:two_responses"),
  ],
)
def test_known_conflicts(one, other):
  assert frozenset((one, other)) in asking.CONFLICTS


def test_what_is_not_excluded_does_go_together():
  """Each pair that may come has an answer, whatever the arguments."""
  ids = asking.IDS
  for pair in itertools.combinations(ids, 2):
    if frozenset(pair) in asking.CONFLICTS:
      continue
    found = rows(
      instructions=pair,
      min_instructions=2,
      max_instructions=2,
      num_train=3,
      max_demonstrations=2,
    )
    for row in found:
      assert set(names(row)) == set(pair)
      for text in row.demonstrations:
        assert instruction.followed(text, row.reference) == [True, True], (
          row.prompt,
          text,
        )


def test_every_instruction_comes(many):
  found = {name for row in many for name in names(row)}
  full = len(many[0].prompt) > 40
  assert found == set(asking.FULL if full else asking.COMPACT)
  lengths = {len(names(row)) for row in many}
  assert lengths == {1, 2, 3}


def test_a_wrong_answer_is_wrong(many):
  """Text about something else follows few prompts whole."""
  right = sum(
    instruction.score("Zebras, zebras", row.reference).correct for row in many
  )
  assert 0 < right < 0.15 * len(many)


def test_compact_rows_are_short_and_on_one_line():
  for row in rows(template="compact", num_train=500):
    assert len(row.prompt) <= 40
    for text in (row.prompt, *row.demonstrations):
      assert len(text) <= 80
      assert text.isascii() and "\n" not in text
    assert row.prompt.endswith(":")


def test_splits_and_seeds_share_no_validation_prompt():
  train = {
    r.prompt
    for seed in range(3)
    for r in rows(seed=seed, template="compact", num_train=300)
  }
  held = {
    r.prompt
    for seed in range(3)
    for r in rows(
      split="validation", seed=seed, template="compact", num_validation=40
    )
  }
  assert len(train) > 600 and len(held) > 80
  assert not train & held


def test_prompts_of_a_split_are_distinct(many):
  assert len({row.prompt for row in many}) == len(many)


def test_rows_depend_on_seed_and_index_alone():
  one, same, longer, other = (
    rows(num_train=40),
    rows(num_train=40),
    rows(num_train=60),
    rows(num_train=40, seed=1),
  )
  assert one == same == longer[:40]
  assert one != other
  source = load(num_train=40)
  assert [source[i] for i in (7, 3, 7)] == [one[7], one[3], one[7]]
  for index in (-1, 40):
    with pytest.raises(IndexError):
      source[index]


GOLDEN = [
  (
    "keywords:letter_frequency",
    dict(letter="a", let_frequency=1, let_relation="at least"),
    'In your response, the letter "a" should appear at least 1 time.',
    "a>=1",
  ),
  (
    "keywords:existence",
    dict(keywords=["cat", "sun"]),
    'Include these words in the response: "cat" and "sun".',
    "has cat sun",
  ),
  (
    "length_constraints:number_words",
    dict(num_words=12, relation="less than"),
    "Answer with less than 12 words.",
    "words<12",
  ),
  (
    "language:response_language",
    dict(language="de"),
    "Your whole response should be in German; no other language is allowed.",
    None,
  ),
  (
    "punctuation:no_comma",
    {},
    "Do not use any commas in your response.",
    "no ,",
  ),
]


@pytest.mark.parametrize("name, kwargs, full, compact", GOLDEN)
def test_prompts_by_hand(name, kwargs, full, compact):
  styles = asking.STYLES
  made = asking.Problem("Write a poem.", (name,), (kwargs,))
  prompt = asking.prompt(made, styles["full"])
  assert prompt == f"Write a poem. {full}"
  if compact:
    made = asking.Problem("", (name, name), (kwargs, kwargs))
    prompt = asking.prompt(made, styles["compact"])
    assert prompt == f"{compact};{compact}:"


def test_the_repeated_prompt_is_the_first_sentence():
  found = rows(
    instructions=["combination:repeat_prompt"], max_instructions=1, num_train=20
  )
  for row in found:
    request = row.reference["kwargs"][0]["prompt_to_repeat"]
    assert request.endswith(".") and request.count(".") == 1
    assert row.prompt.startswith(f"{request} Before you answer")


def test_words_do_not_hide_in_each_other():
  """A keyword is found within words, so none may be part of other text."""
  full, compact = (asking.STYLES[t] for t in ("full", "compact"))
  for style in (full, compact):
    for one, other in itertools.permutations(style.keywords, 2):
      assert one not in other
  own = " ".join(
    (
      *full.sentences,
      *full.fillers,
      *full.endings,
      *asking.TOPICS,
      *asking.KINDS,
    )
  ).lower()
  assert not [word for word in full.keywords if word in own]
  texts = own + " ".join((*full.keywords, *compact.keywords))
  assert not set(texts) & set(asking.RARE)


def test_options_of_difficulty():
  few = rows(max_instructions=1, max_count=2, num_train=100)
  many = rows(
    min_instructions=4, max_instructions=4, max_count=9, num_train=100
  )
  assert {len(names(r)) for r in few} == {1}
  assert {len(names(r)) for r in many} == {4}

  def largest(found):
    return max(
      v
      for r in found
      for kwargs in r.reference["kwargs"]
      for k, v in kwargs.items()
      if isinstance(v, int) and k != "num_words"
    )

  assert largest(few) == 2 and largest(many) == 9
  chosen = ["startend:quotation", "punctuation:no_comma"]
  only = rows(instructions=chosen, num_train=100)
  assert {n for r in only for n in names(r)} == set(chosen)


def test_loose_and_binary_reach_the_verifier():
  row = rows(loose=True, binary=True, num_train=5)[0]
  assert row.meta == {"loose": True, "binary": True}
  verifier = "progrpo_jax.rewards.instruction:score"
  assert base.item(row, "x") == (verifier, "x", row.reference, row.meta)


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(template="tiny"), "no template 'tiny'"),
    (
      dict(instructions=["keywords:existance"]),
      "did you mean 'keywords:existence'",
    ),
    (
      dict(template="compact", instructions=["language:response_language"]),
      "template compact has no instruction 'language:response_language'",
    ),
    (dict(instructions=[]), "instructions is empty"),
    (dict(min_instructions=0), "1 <= min_instructions"),
    (dict(min_instructions=3, max_instructions=2), "not 3 and 2"),
    (dict(max_count=1), "max_count must be 2 or more, not 1"),
    (
      dict(template="compact", instructions=["startend:quotation"]),
      "only [01] of 5000 train prompts are distinct",
    ),
    (
      dict(instructions=["startend:quotation"], min_instructions=2),
      "only 0 of 5000 train prompts",
    ),
    (dict(max_size=3), "no option 'max_size'"),
  ],
)
def test_bad_options_are_named(options, words):
  with pytest.raises(InputError, match=words):
    load(**options)


def test_canonical_form_is_the_words():
  row = rows(num_train=1)[0]
  one = base.canonical('"Rain, and *sun*."', row)
  assert one == base.canonical("rain and SUN", row) == "rain and sun"
  assert one != base.canonical("sun and rain", row)
