import asyncio
import sys
import threading

import pytest

from progrpo_jax import errors
from progrpo_jax.errors import InputError, RunError
from progrpo_jax.rewards import functions
from progrpo_jax.rewards import pool as pools

SOURCE = """
import os
import signal
import sys
import time
import numpy as np

def length(prompts, completions, **columns):
  return [float(len(c)) for c in completions]

def equal(prompts, completions, answer):
  return np.asarray([c == a for c, a in zip(completions, answer)], float)

def some(prompts, completions, **columns):
  return [None if c == "b" else 0.5 for c in completions]

def short(prompts, completions, **columns):
  return [1.0]

def text(prompts, completions, **columns):
  return ["1.0" for _ in completions]

def nan(prompts, completions, **columns):
  return [float("nan") for _ in completions]

def huge(prompts, completions, **columns):
  return [1e300 for _ in completions]

def sentinel(prompts, completions, **columns):
  return [0.5, -1e30]

def penalty(prompts, completions, **columns):
  return [-0.25 for _ in completions]

def nothing(prompts, completions, **columns):
  return None

def mapping(prompts, completions, **columns):
  return {i: 1.0 for i in range(len(completions))}

def scores(prompts, completions, **columns):
  return {0.5, 0.1}

def raw(prompts, completions, **columns):
  return bytes(len(completions))

def generator(prompts, completions, **columns):
  return (1.0 for _ in completions)

def midway(prompts, completions, **columns):
  return (1.0 / len(c.strip("b")) for c in completions)

def broken(prompts, completions, **columns):
  raise ZeroDivisionError("oh no")

def narrow(completions, solution_str):
  return [1.0 for _ in completions]

def leaves(prompts, completions, **columns):
  sys.exit(3)

def ends(prompts, completions, **columns):
  os._exit(3)

def aborts(prompts, completions, **columns):
  os.kill(os.getpid(), signal.SIGSEGV)

def hanging(prompts, completions, **columns):
  time.sleep(1000)
"""

COLUMNS = {"answer": ["a", "a"], "topic": ["x", "y"]}


@pytest.fixture(scope="module")
def pool():
  with pools.Pool(workers=1) as made:
    yield made


@pytest.fixture
def named(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(SOURCE)
  return lambda name: f"{path}:{name}"


def _evaluate(
  pool, names, weights=None, correct_by=None, correct_threshold=1.0, **options
):
  return functions.evaluate(
    pool,
    functions.Rule(names, weights, correct_by, correct_threshold),
    functions.Batch(["p", "q"], ["a", "b"], COLUMNS, [[5], [6, 7]], (3, 10)),
    **options,
  )


def test_reward_is_the_weighted_sum(pool, named):
  names = [named("length"), named("equal")]
  judged = _evaluate(pool, names, correct_by="equal")
  assert judged.scores == [(2.0, True, "ok"), (1.0, False, "ok")]
  assert judged.values == [(1.0, 1.0), (1.0, 0.0)]
  scores, *_ = _evaluate(
    pool, names, weights=[0.1, 0.9], correct_by=named("length")
  )
  assert [s.reward for s in scores] == pytest.approx([1.0, 0.1])
  assert [s.correct for s in scores] == [True, True]


def test_what_is_right_is_not_read_off_the_sum(pool, named):
  """A penalty makes no right answer wrong, a bonus no wrong one right."""
  names = [named("equal"), named("penalty")]
  assert _evaluate(pool, names, correct_by="equal").scores == [
    (0.75, True, "ok"),
    (-0.25, False, "ok"),
  ]
  names = [named("equal"), named("length")]
  assert [
    s.correct
    for s in _evaluate(
      pool, names, weights=[1.0, 2.0], correct_by="equal"
    ).scores
  ] == [True, False]


@pytest.mark.parametrize(
  ("threshold", "right"),
  [(1.0, [False, None]), (0.5, [True, None]), (0.6, [False, None])],
)
def test_a_single_function_decides_by_its_threshold(
  pool, named, threshold, right
):
  scores, *_ = _evaluate(
    pool, [named("some")], weights=[3.0], correct_threshold=threshold
  )
  assert [None if s.status == "refused" else s.correct for s in scores] == right


def test_none_masks_where_the_function_that_decides_says_it(pool, named):
  scores, *_ = _evaluate(pool, [named("some")])
  assert scores == [(0.5, False, "ok"), (0.0, False, "refused")]
  names = [named("some"), named("equal")]
  judged = _evaluate(pool, names, correct_by="equal")
  assert judged.scores == [(1.5, True, "ok"), (0.0, False, "ok")]
  assert judged.values == [(0.5, 1.0), (None, 0.0)]
  assert _evaluate(pool, names, correct_by="some").scores == [
    (1.5, False, "ok"),
    (0.0, False, "refused"),
  ]


def test_who_decides_must_be_said_where_there_are_several(pool, named):
  names = [named("length"), named("equal")]
  with pytest.raises(
    InputError, match=r"2 reward functions \(length, equal\).*correct_by="
  ):
    _evaluate(pool, names)
  with pytest.raises(
    InputError, match="'eqal' is none of.*length, equal.*mean 'equal'"
  ):
    _evaluate(pool, names, correct_by="eqal")
  with pytest.raises(InputError, match="equal is named twice"):
    _evaluate(pool, 2 * [named("equal")], correct_by="equal")


@pytest.mark.parametrize(
  ("names", "labels"),
  [
    (["m:f", "a/b.py:g"], ["f", "g"]),
    (["m:f", "a/b.py:f", "g.py:g"], ["m.f", "b.f", "g"]),
    (["/a/r.py:f", "/b/r.py:f", "a.r:h"], ["a.r.f", "b.r.f", "h"]),
    (["r:f", "r.py:f"], ["r:f", "r.py:f"]),
  ],
)
def test_labels_tell_functions_apart(names, labels):
  assert functions.labels(names) == labels
  for number, (name, label) in enumerate(zip(names, labels)):
    assert functions.find_decider(names, name) == number
    assert functions.find_decider(names, label) == number


@pytest.mark.parametrize(
  "name, said",
  [
    ("short", "returned 1 values for 2 completions"),
    ("text", "'1.0' for completion 0"),
    ("nan", "nan for completion 0"),
    ("huge", "returned 1e+300 for completion 0: each value must be a number"),
    (
      "sentinel",
      "-1e+30 for completion 1: each value must be a number from -1",
    ),
    ("nothing", "returned None, not a list"),
    ("mapping", "returned {0: 1.0, 1: 1.0}, not a list"),
    ("scores", "}, not a list"),
    ("raw", r"returned b'\x00\x00', not a list"),
    ("midway", "mine.py, line 51: ZeroDivisionError: "),
    ("broken", "ZeroDivisionError: oh no"),
    ("leaves", "mine.py, line 60: SystemExit: 3"),
    ("ends", "mine.py:ends ended its process (exit code 3)"),
    ("aborts", "mine.py:aborts was ended by signal SIGSEGV"),
    ("absent", "cannot be loaded: AttributeError"),
    ("lenght", "; did you mean 'length'?"),
    ("narrow", "the arguments are prompts, completions, answer, topic"),
    ("narrow", "solution_str are arguments of verl's reward functions: docs/"),
  ],
)
def test_errors_name_the_function(pool, named, name, said):
  with pytest.raises(functions.RewardFunctionError) as caught:
    _evaluate(pool, [named("length"), named(name)], correct_by="length")
  assert said in str(caught.value) and named(name) in str(caught.value)
  assert isinstance(caught.value, InputError)
  assert "progrpo_jax" not in str(caught.value)


def test_no_weights_make_a_reward_that_training_cannot_square(pool, named):
  names = [named("length"), named("equal")]
  weighted = dict(correct_by="equal", weights=[1e12, 0.0])
  assert _evaluate(pool, names, **weighted).scores[0].reward == 1e12
  with pytest.raises(InputError, match=r"is 1e\+13, the sum of 1, 1 with"):
    _evaluate(pool, names, correct_by="equal", weights=[1e13, 0.0])


def test_any_sequence_of_numbers_is_taken(pool, named):
  judged = _evaluate(pool, [named("generator")])
  assert judged.values == [(1.0,), (1.0,)]


def test_hanging_function_is_named_and_the_pool_lives_on(pool, named):
  with pytest.raises(RunError, match="hanging.*0.5 s"):
    _evaluate(pool, [named("hanging")], deadline_s=0.5)
  assert len(_evaluate(pool, [named("length")]).scores) == 2


def test_bad_weights_and_columns(pool, named):
  with pytest.raises(InputError, match="1 reward weights for 2"):
    _evaluate(pool, [named("length"), named("equal")], weights=[1.0])
  with pytest.raises(InputError, match="no reward function"):
    _evaluate(pool, [])
  with pytest.raises(InputError, match="'prompts'"):
    functions.evaluate(
      pool,
      functions.Rule([named("length")]),
      functions.Batch([], [], {"prompts": []}),
    )


def test_score_of_a_single_completion(named):
  row = {"prompt": "p", "columns": {"answer": "a"}}
  assert functions.score("a", "a", functions=[named("equal")], **row).correct
  judged = functions.score(
    "7",
    "7",
    functions=["logic", named("length")],
    weights=[1.0, 0.5],
    verifier="progrpo_jax.rewards.logic:score",
    options={"dataset": "chain_sum", "metadata": {}, "template": "compact"},
    correct_by="logic",
    **row,
  )
  assert judged == (1.5, True, "ok")


MORE = """
import asyncio
import dataclasses

@dataclasses.dataclass
class Once:
  calls: int = 0

  def __call__(self, completions, **_):
    self.calls += 1
    return [float(self.calls)] * len(completions)

counting = Once()

async def later(completions, **_):
  await asyncio.sleep(0)
  return [0.25] * len(completions)

def told(prompts, completions, completion_ids, trainer_state, log_extra,
         log_metric, **columns):
  log_extra("tokens", [len(ids) for ids in completion_ids])
  log_metric("done", trainer_state.global_step / trainer_state.max_steps)
  return [float(len(ids)) for ids in completion_ids]

def uneven(completions, log_extra, **_):
  log_extra("one", [1])
  return [0.0] * len(completions)
"""


@pytest.fixture
def more(tmp_path):
  path = tmp_path / "more.py"
  path.write_text("from __future__ import annotations\n" + MORE)
  return lambda name: f"{path}:{name}"


def test_coroutines_and_objects_are_called(pool, more):
  names = [more("counting"), more("later")]
  judged = _evaluate(pool, names, correct_by="counting")
  assert judged.values == [(1.0, 0.25)] * 2
  assert [s.reward for s in judged.scores] == [1.25] * 2


def test_functions_are_told_tokens_and_steps_and_log(pool, more):
  pool.trainer_state = pools.TrainerState(3, 12)
  judged = _evaluate(pool, [more("told")])
  assert judged.values == [(1.0,), (2.0,)]
  assert judged.extra == [{"tokens": 1}, {"tokens": 2}]
  assert judged.metrics == [("done", 0.25)]
  with pytest.raises(InputError, match="got 1 values for 2 completions"):
    _evaluate(pool, [more("uneven")])


def test_objects_of_this_process_are_called_in_it():
  seen = []

  def right(completions, answer, **_):
    seen.extend(completions)
    return [float(c == a) for c, a in zip(completions, answer)]

  async def later(completions, **_):
    return [0.5 for _ in completions]

  objects = functions.by_name([right, later])
  assert list(objects) == ["right", "later"]
  with pools.Pool(workers=1, objects=objects) as here:
    judged = _evaluate(here, ["right", "later"], correct_by="right")
    assert [s.correct for s in judged.scores] == [True, False]
    assert judged.values == [(1.0, 0.5), (0.0, 0.5)] and seen == ["a", "b"]
    with pytest.raises(InputError, match="plain name stands for a function"):
      _evaluate(here, ["absent"])

  def leaves(completions, **_):
    sys.exit("no more")

  with pools.Pool(workers=1, objects={"leaves": leaves}) as here:
    with pytest.raises(InputError, match="leaves failed: .*SystemExit: no mor"):
      _evaluate(here, ["leaves"])
  with pytest.raises(InputError, match="two reward functions are called"):
    functions.by_name([right, right])
  with pytest.raises(InputError, match="is no reward function"):
    functions.by_name([3])


def test_an_object_that_hangs_ends_the_run():
  wait = threading.Event()

  def hangs(completions, **_):
    wait.wait()
    return [0.0 for _ in completions]

  with pools.Pool(workers=1, objects={"hangs": hangs}) as here:
    with pytest.raises(RunError, match="hangs did not return within 0.1 s"):
      _evaluate(here, ["hangs"], deadline_s=0.1)
  wait.set()


def test_an_object_sees_copies_as_a_function_of_a_file_does():
  seen = []

  def takes(completions, tests, **_):
    seen.append([list(t) for t in tests])
    return [float(t.pop()) for t in tests]

  shared = [1, 2]
  batch = functions.Batch(["p", "p"], ["a", "b"], {"tests": [shared, shared]})
  with pools.Pool(workers=1, objects={"takes": takes}) as here:
    for _ in range(2):
      judged = functions.evaluate(here, functions.Rule(["takes"]), batch)
      assert judged.values == [(2.0,), (2.0,)]
  assert seen == [[[1, 2], [1, 2]]] * 2 and shared == [1, 2]


def test_a_coroutine_that_took_too_long_is_cancelled_and_called_again():
  ended, quick = threading.Event(), []

  async def asks(completions, **_):
    try:
      await asyncio.sleep(0 if quick else 1000)
    finally:
      ended.set()
    return [0.5 for _ in completions]

  with pools.Pool(workers=1, objects={"asks": asks}) as here:
    with pytest.raises(RunError, match="asks did not return within 0.2 s"):
      _evaluate(here, ["asks"], deadline_s=0.2)
    assert ended.wait(20)
    quick.append(True)
    assert _evaluate(here, ["asks"]).values == [(0.5,), (0.5,)]
  # One whose thread goes on, since it does not let itself be cancelled.
  free = threading.Event()

  async def blocks(completions, **_):
    if not quick:
      free.wait()
    return [0.5 for _ in completions]

  quick.clear()
  with pools.Pool(workers=1, objects={"blocks": blocks}) as here:
    with pytest.raises(RunError, match="blocks did not return"):
      _evaluate(here, ["blocks"], deadline_s=0.2)
    quick.append(True)
    assert _evaluate(here, ["blocks"]).values == [(0.5,), (0.5,)]
  free.set()


def test_a_request_to_stop_does_not_wait_for_an_object():
  free, asked = threading.Event(), []

  def waits(completions, **_):
    asked.append(True)
    free.wait()
    return [0.0 for _ in completions]

  with pools.Pool(
    workers=1, objects={"waits": waits}, stop=lambda: bool(asked)
  ) as here:
    with pytest.raises(errors.Preempted):
      _evaluate(here, ["waits"], deadline_s=1000)
  free.set()


ALARM = """
import signal

def alarmed(completions, **_):
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  return [1.0 for _ in completions]
"""


def test_an_alarm_works_in_a_worker_and_an_object_is_told_so(tmp_path):
  (tmp_path / "alarm.py").write_text(ALARM)
  names = {}
  exec(ALARM, names)
  objects = {"alarmed": names["alarmed"]}
  with pools.Pool(workers=1, objects=objects) as here:
    name = f"{tmp_path / 'alarm.py'}:alarmed"
    assert _evaluate(here, [name]).values == [(1.0,), (1.0,)]
    with pytest.raises(InputError, match="main thread.*parsing_timeout=None"):
      _evaluate(here, ["alarmed"])


def test_what_could_not_be_called_is_refused_before_it_is(pool, named):
  functions.check(pool, [named("equal"), named("length")], COLUMNS)
  for name, said in (
    ("lenght", "cannot be loaded: .*did you mean 'length'"),
    ("narrow", "narrow cannot be called: missing a required argument: 'sol"),
  ):
    with pytest.raises(functions.RewardFunctionError, match=said):
      functions.check(pool, [named("length"), named(name)], COLUMNS)
  with pytest.raises(functions.RewardFunctionError, match="argument: 'answer'"):
    functions.check(pool, [named("equal")], ["topic"])

  def right(completions, answer):
    return [float(c == a) for c, a in zip(completions, answer)]

  with pools.Pool(workers=1, objects={"right": right, "len": len}) as here:
    functions.check(here, ["right"], COLUMNS)
    # It names no prompts, and gets none.
    assert _evaluate(here, ["right"]).values == [(1.0,), (0.0,)]
    with pytest.raises(InputError, match="right cannot .* argument: 'answer'"):
      functions.check(here, ["right"], ())
    with pytest.raises(InputError, match="len cannot be called"):
      functions.check(here, ["len"], ())


def test_a_verifier_among_functions_decides_by_its_own_verdict(pool, named):
  rule = functions.Rule(
    ["math", named("length")], [1, 0.5], "math", has_verifier=True
  )
  verdicts = [
    functions.Score(0.5, True, "ok"),
    functions.Score(0.0, False, "timeout"),
  ]
  judged = functions.evaluate(
    pool,
    rule,
    functions.Batch(["p", "q"], ["a", "b"], COLUMNS),
    verdicts=verdicts,
  )
  assert judged.scores == [(1.0, True, "ok"), (0.0, False, "timeout")]
  assert judged.values == [(0.5, 1.0), (None, 1.0)]
