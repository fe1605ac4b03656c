import collections
import functools
import json
import multiprocessing
import threading

import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import thinking
from progrpo_jax.rollout import prompts, verify
from progrpo_jax.tasks import base


class Characters:
  """One token per character after a first token of its own."""

  def encode_prompt(self, text, context=()):
    return [1] + [ord(c) for c in text], [False] + [True] * len(text)

  def decode(self, ids):
    return "".join(chr(i) for i in ids if i > 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return str(tmp_path_factory.mktemp("data"))


def _spec(name="chain_sum", weight=1.0, **options):
  options = {
    "template": "compact",
    "num_train": 30,
    "num_validation": 10,
    **options,
  }
  return {"name": name, "weight": weight, "options": options}


def _draws(source, count):
  return [source.row(i).prompt for i in range(count)]


def test_draw_is_a_function_of_seed_and_number(folder):
  specs = [_spec()]
  one = _draws(prompts.PromptSource(specs, "train", 1, folder), 90)
  same = prompts.PromptSource(specs, "train", 1, folder)
  assert [same.row(i).prompt for i in reversed(range(90))] == one[::-1]
  assert _draws(prompts.PromptSource(specs, "train", 2, folder), 90) != one
  for epoch in range(3):
    assert sorted(one[30 * epoch : 30 * epoch + 30]) == sorted(one[:30])
  assert one[:30] != one[30:60]


def _short(row):
  return len(row.prompt) <= 4


def test_rows_may_be_left_out(folder):
  specs = [_spec(min_terms=2, max_terms=4, max_digits=1)]
  whole = prompts.PromptSource(specs, "train", 1, folder)
  kept = prompts.PromptSource(specs, "train", 1, folder, keep=_short)
  all_rows = {r.prompt for r in whole.first(99)}
  short = {p for p in all_rows if len(p) <= 4}
  assert 0 < len(short) < len(all_rows) == 30
  assert {r.prompt for r in kept.first(99)} == short
  assert set(_draws(kept, 60)) == short
  assert kept.left_out == {"chain_sum": (30 - len(short), 30)}
  assert whole.left_out == {}
  assert {r.prompt for r in kept.rows_left_out()} == all_rows - short
  assert not list(whole.rows_left_out())
  # Evaluations see them in one order, whatever is left out.
  assert [r.prompt for r in kept.first(99)] == [
    r.prompt for r in whole.first(99) if r.prompt in short
  ]
  # Two tasks of one module are counted together.
  both = prompts.PromptSource([*specs, *specs], "train", 1, folder, keep=_short)
  assert both.left_out == {"chain_sum": (60 - 2 * len(short), 60)}
  # Another choice of rows is another order of draws.
  with pytest.raises(InputError, match="cannot be continued"):
    whole.restore(kept.state(3))
  again = prompts.PromptSource(specs, "train", 1, folder, keep=_short)
  assert again.restore(kept.state(3)) == 3
  with pytest.raises(InputError, match="chain_sum: none of its 30 prompts"):
    prompts.PromptSource(specs, "train", 1, folder, keep=lambda row: False)


@pytest.mark.parametrize("kept", [None, lambda row: True])
def test_a_file_that_has_grown_is_another_source(tmp_path, kept):
  file = tmp_path / "rows.jsonl"

  def source(rows):
    lines = [json.dumps({"prompt": p, "answer": a}) for p, a in rows]
    file.write_text("\n".join(lines) + "\n")
    options = {"file": str(file), "verifier": "math"}
    spec = {"name": "file", "options": options}
    return prompts.PromptSource([spec], "train", 0, str(tmp_path), keep=kept)

  rows = [(f"What is {i}+0?", str(i)) for i in range(50)]
  state = source(rows).state(7)
  assert source(rows).restore(state) == 7
  with pytest.raises(InputError, match="a data file is not what it was"):
    # More than one, of which some are drawn and not held out.
    source(
      [*rows, *((f"What is 0+{i}?", str(i)) for i in range(1, 9))]
    ).restore(state)


def test_a_file_whose_answers_have_changed_is_another_source(tmp_path):
  file = tmp_path / "rows.jsonl"
  options = {"file": str(file), "verifier": "math"}

  def source(answer):
    file.write_text(
      "\n".join(
        json.dumps({"prompt": f"What is {i}+1?", "answer": answer})
        for i in range(9)
      )
    )
    spec = {"name": "file", "options": options}
    return prompts.PromptSource(
      [spec], "train", 0, str(tmp_path), keep=lambda row: True
    )

  state = source("3").state(7)
  assert source("3").continues(state) and not source("2").continues(state)


def test_mixture_has_the_weights(folder):
  specs = [_spec(weight=3), _spec("simple_equations", weight=1)]
  source = prompts.PromptSource(specs, "train", 0, folder)
  counts = collections.Counter(source.row(i).task for i in range(400))
  assert counts == {"chain_sum": 300, "simple_equations": 100}


def test_state_resumes_and_refuses_another_source(folder):
  source = prompts.PromptSource([_spec()], "train", 1, folder)
  state = json.loads(json.dumps(source.state(np.int64(17))))
  again = prompts.PromptSource([_spec()], "train", 1, folder)
  assert again.restore(state) == 17
  for other in (
    prompts.PromptSource([_spec(num_train=31)], "train", 1, folder),
    prompts.PromptSource([_spec()], "train", 2, folder),
  ):
    with pytest.raises(InputError, match="cannot be continued"):
      other.restore(state)


def test_bad_specs(folder):
  for specs, said in (
    ([], "no task"),
    ([{"weight": 1.0}], "without a name"),
    ([{"name": "chain_sum", "wieght": 1.0}], "did you mean 'weight'"),
    ([_spec(weight=0)], "weight 0 is not > 0"),
  ):
    with pytest.raises(InputError, match=said):
      prompts.PromptSource(specs, "train", 0, folder)


def _prompter(folder, *, buckets=(8, 16), limit=32, split="train", **options):
  source = prompts.PromptSource([_spec(**options)], split, 0, folder)
  return prompts.Prompter(
    source, Characters(), buckets=buckets, max_prompt_length=limit
  )


def test_take_pads_on_the_left_to_the_smallest_bucket(folder):
  taken = _prompter(folder).take(5, 4)
  assert isinstance(taken, batch.Prompts) and len(taken) == 4
  assert taken.ids_P.tolist() == [5, 6, 7, 8]
  longest = max(len(r.prompt) + 1 for r in taken.rows)
  width = next(b for b in (8, 16, 32) if b >= longest)
  assert taken.tokens_PT.shape == (4, width)
  assert taken.tokens_PT.dtype == np.int32
  for p, row in enumerate(taken.rows):
    size = len(row.prompt) + 1
    real = taken.mask_PT[p]
    assert real.tolist() == [False] * (width - size) + [True] * size
    assert taken.tokens_PT[p, real].tolist() == [1, *map(ord, row.prompt)]
    assert taken.user_mask_PT[p].tolist()[width - size :] == [False] + [
      True
    ] * (size - 1)
    assert not taken.user_mask_PT[p, : width - size].any()


def test_draws_come_back_by_their_numbers(folder):
  prompter = _prompter(folder)
  taken = prompter.take(5, 4)
  again = prompter.of(taken.ids_P[[2, 0]])
  assert again.ids_P.tolist() == [7, 5]
  assert again.rows == (taken.rows[2], taken.rows[0])


def test_without_buckets_the_width_is_the_limit(folder):
  assert _prompter(folder, buckets=()).take(0, 2).tokens_PT.shape == (2, 32)


def test_long_prompt_is_named(folder):
  prompter = _prompter(folder, limit=3)
  with pytest.raises(
    ValueError, match="chain_sum, row 0.*max_prompt_length is 3"
  ):
    prompter.check(5)
  _prompter(folder).check(50)


def test_long_prompt_of_a_file_is_named_by_its_line(tmp_path):
  lines = [
    {"prompt": f"{i}" * (99 if i == 6 else 1), "answer": i}
    for i in range(1, 10)
  ]
  file = tmp_path / "mine.jsonl"
  options = dict(file=str(file), validation_file=str(file), verifier="m:f")
  # The first line is empty.
  file.write_text("\n" + "\n".join(map(json.dumps, lines)))
  source = prompts.PromptSource(
    [dict(name="file", options=options)], "train", 0, str(tmp_path)
  )
  prompter = prompts.Prompter(
    source, Characters(), buckets=(), max_prompt_length=32
  )
  with pytest.raises(ValueError, match=r"file, mine.jsonl, line 7 \('666"):
    prompter.check(50)


def test_first_rows_are_the_same_in_every_run(folder):
  one = _prompter(folder, split="validation").first(7, 3)
  assert [len(p) for p in one] == [3, 3, 3]
  assert len({p.tokens_PT.shape for p in one}) == 1
  ids = np.concatenate([p.ids_P for p in one])
  assert ids.tolist() == [0, 1, 2, 3, 4, 5, 6, -1, -2]
  rows = [row for p in one for row in p.rows][:7]
  assert len({row.prompt for row in rows}) == 7
  source = prompts.PromptSource([_spec()], "validation", 99, folder)
  assert source.first(7) == rows
  assert len(source.first(1000)) == 10


def test_nothing_is_left_running(folder):
  threads = set(threading.enumerate())
  children = set(multiprocessing.active_children())
  _prompter(folder).take(0, 8)
  assert set(threading.enumerate()) <= threads
  assert set(multiprocessing.active_children()) <= children


def test_texts_are_decoded_by_prompt():
  tokens = np.array(
    [[97, 98, 1, 0], [99, 1, 97, 97], [1, 0, 0, 0], [98, 98, 98, 98]]
  )
  mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
  rollout = batch.Rollout(
    tokens_BT=tokens, mask_BT=mask.astype(bool), logp_BT=None, finished_B=None
  )
  assert verify.texts(Characters(), rollout, 2) == (("ab", "c"), ("", "bbbb"))


FUNCTIONS = """
def match(prompts, completions, answer, **columns):
  assert len(prompts) == len(completions) == len(answer) == 4
  return [None if c == "?" else float(c == a)
          for c, a in zip(completions, answer)]

def half(prompts, completions, **columns):
  return [0.5 for _ in completions]
"""


def test_rollouts_of_all_kinds_are_verified(folder, tmp_path):
  (tmp_path / "f.py").write_text(FUNCTIONS)
  lines = [{"prompt": f"p{i}", "answer": str(i)} for i in range(20)]
  file = tmp_path / "mine.jsonl"
  file.write_text("\n".join(map(json.dumps, lines)))
  mine = base.load(
    "file",
    "train",
    data_dir=folder,
    seed=0,
    file=str(file),
    reward_functions=[f"{tmp_path}/f.py:{n}" for n in ("half", "match")],
    correct_by="match",
    reward_weights=[0, 1],
  )[:2]
  gym = prompts.PromptSource([_spec()], "validation", 0, folder).first(1)[0]
  rows = [mine[0], gym, mine[1]]
  texts = [
    [mine[0].reference.strip('"'), "?"],
    [gym.demonstrations[0], ""],
    ["no", mine[1].reference.strip('"')],
  ]
  with pools.Pool(workers=1) as pool:
    found = verify.verify(pool, rows, texts)
    # Shares of three hosts, of which the first has no prompt.
    joined = verify.join(
      [
        verify.verify(pool, [rows[i] for i in share], [texts[i] for i in share])
        for share in ([], [1], [0, 2])
      ]
    )
  assert found.texts_PG == tuple(map(tuple, texts))
  assert found.reward_PG.dtype == found.values_PGJ.dtype == np.float32
  assert found.reward_PG.tolist() == [[1, 0], [1, 0], [0, 1]]
  assert found.correct_PG.tolist() == [
    [True, False],
    [True, False],
    [False, True],
  ]
  assert found.status_PG == (
    ("ok", "refused"),
    ("ok", "no_answer"),
    ("ok", "ok"),
  )
  assert found.valid_PG.tolist() == [[True, False], [True, True], [True, True]]
  none = [np.nan, np.nan]  # of a row that no function judges
  np.testing.assert_array_equal(
    found.values_PGJ,
    np.float32([[[0.5, 1], [0.5, np.nan]], [none, none], [[0.5, 0], [0.5, 1]]]),
  )
  order = [1, 0, 2]
  assert joined.texts_PG == tuple(found.texts_PG[i] for i in order)
  assert joined.status_PG == tuple(found.status_PG[i] for i in order)
  assert joined.extra_PG == (({}, {}),) * 3 and joined.logged == ()
  for name in ("reward_PG", "correct_PG", "valid_PG", "values_PGJ"):
    np.testing.assert_array_equal(
      getattr(joined, name), getattr(found, name)[order], strict=True
    )
  assert [verify.function_labels(row) for row in rows] == [
    ["half", "match"],
    [],
    ["half", "match"],
  ]


SEEN = """
def lengths(prompts, completions, **columns):
  return [float(len(c)) for c in completions]

def same(completion, reference):
  return float(completion == reference), completion == reference, "ok"
"""


@pytest.mark.parametrize(
  ("mode", "inside", "statuses", "right"),
  [
    ("auto", False, ["ok", "no_answer", "ok", "ok"], [True, False, True, True]),
    (
      "auto",
      True,
      ["no_answer", "no_answer", "ok", "ok"],
      [False, False, True, True],
    ),
    ("off", True, 4 * ["ok"], [True, False, False, False]),
  ],
)
def test_verifiers_see_no_thoughts_and_functions_see_all(
  folder, tmp_path, mode, inside, statuses, right
):
  (tmp_path / "f.py").write_text(SEEN)
  (tmp_path / "mine.jsonl").write_text(
    "\n".join(json.dumps({"prompt": f"p{i}", "answer": "4"}) for i in range(20))
  )

  def rows(**judge):
    return base.load(
      "file",
      "train",
      data_dir=folder,
      seed=0,
      file=str(tmp_path / "mine.jsonl"),
      **judge,
    )[:1]

  judged = rows(reward_functions=[f"{tmp_path}/f.py:lengths"])
  verified = rows(verifier=f"{tmp_path}/f.py:same")
  texts = ["4", "<think>4", "5?</think>4", "<think>5</think>5</think>4"]
  answer = functools.partial(thinking.answer, mode=mode, inside=inside)
  with pools.Pool(workers=1, answer=answer) as pool:
    found = verify.verify(pool, judged + verified, [texts, texts])
    again = verify.verify(pool, verified, [texts[:3]], whole=False)
  assert found.status_PG == (4 * ("ok",), tuple(statuses))
  np.testing.assert_array_equal(
    found.values_PGJ[..., 0], [[len(t) for t in texts], 4 * [np.nan]]
  )
  assert found.reward_PG.tolist() == [
    [float(len(t)) for t in texts],
    [float(r) for r in right],
  ]
  assert found.correct_PG[1].tolist() == right
  # Answers already: nothing is taken off, and nothing is missing.
  assert again.reward_PG.tolist() == [[1, 0, 0]] and again.valid_PG.all()
