"""Runs in stages: what holds when, what is refused, how they resume."""

import json
import os
import re
import signal

import pytest

from progrpo_jax import errors, loop
from progrpo_jax.build import stages as build
from progrpo_jax.settings import checks, defaults, schedule

STAGES = (
  {"name": "two", "at_step": 10, "set": {"algo.num_generations": 16}},
  {
    "name": "three",
    "after_resets": 2,
    "set": {"data.tasks": {"b": {"weight": 2.0}}, "sampling.temperature": 1.2},
  },
  {
    "name": "four",
    "at_step": 30,
    "reset": True,
    "set": {"algo.num_generations": 4, "data.tasks.b.weight": 1},
  },
)


def staged(*entries):
  c = defaults.get_config()
  c.data.tasks = {"a": {}}
  c.schedule = entries
  c.lock()
  return c


@pytest.mark.parametrize(
  ("step", "resets", "count"),
  [
    (0, 0, 0),
    (9, 0, 0),
    (9, 5, 0),
    (10, 0, 1),
    (29, 1, 1),
    (10, 2, 2),
    (29, 9, 2),
    (30, 1, 1),
    (30, 2, 3),
    (99, 9, 3),
  ],
)
def test_entries_begin_in_their_order(step, resets, count):
  """One whose moment has come waits for those before it."""
  assert schedule.begun(staged(*STAGES), step, resets) == count


def test_what_an_entry_sets_stays_set():
  c = staged(*STAGES)
  found = [
    (s.algo.num_generations, list(s.data.tasks), s.sampling.temperature)
    for s in schedule.every(c)
  ]
  assert found == [
    (8, ["a"], 1.0),
    (16, ["a"], 1.0),
    (16, ["b"], 1.2),
    (4, ["b"], 1.2),
  ]
  last = schedule.at(c, 30, 2)
  assert last.data.tasks.b.weight == 1
  assert (c.algo.num_generations, list(c.data.tasks)) == (8, ["a"])
  assert schedule.at(c, 9, 0) is c


def test_a_stage_is_the_same_from_whichever_stage_it_is_asked():
  """A resumed run asks the config of the file, a running one its last."""
  c = staged(*STAGES)
  moments = [(0, 0), (10, 0), (10, 2), (30, 2), (99, 9)]
  for i, before in enumerate(moments):
    for now in moments[i:]:
      assert schedule.at(schedule.at(c, *before), *now) == schedule.at(c, *now)


def test_a_config_without_entries_is_one_stage():
  c = staged()
  assert list(schedule.every(c)) == [c]
  assert schedule.at(c, 1000, 10) is c


@pytest.mark.parametrize(
  ("step", "resets", "asks"),
  [(29, 2, False), (30, 2, True), (31, 2, False), (30, 1, False)],
)
def test_a_reset_is_asked_for_where_its_entry_begins(step, resets, asks):
  assert schedule.asks_for_reset(staged(*STAGES), step, resets) == asks


def entry(**changes):
  made = {"at_step": 1, "set": {}} | changes
  return {k: v for k, v in made.items() if v is not None}


@pytest.mark.parametrize(
  ("entries", "said"),
  [
    ([7], "[0] needs a dict 'set'"),
    ([entry(set=None)], "[0] needs a dict 'set'"),
    ([entry(), entry(set=("a", 1))], "[1] needs a dict 'set'"),
    ([entry(sets={})], "[0]: no key 'sets'; known: name, at_step"),
    ([entry(at_step=None)], "needs either 'at_step' or 'after_resets'"),
    ([entry(after_resets=1)], "needs either 'at_step' or 'after_resets'"),
    (
      [entry(at_step=None, after_resets=1, reset=True)],
      "'reset' needs 'at_step'",
    ),
    ([entry(at_step="1")], "[0]: 'at_step' = '1' should be a whole number"),
    ([entry(at_step=True)], "'at_step' = True should be"),
    ([entry(at_step=None, after_resets=-1)], "'after_resets' = -1 should be"),
    (
      [entry(at_step=5), entry(at_step=4)],
      "[1]: 'at_step' = 4 comes after an entry with 5",
    ),
    (
      [entry(set={"algo.num_generation": 4})],
      "no key algo.num_generation; did you mean algo.num_generations?",
    ),
    ([entry(set={"optim.learning_rate": 1.0})], "fixed for a whole run"),
    ([entry(set={"seed": 1})], "[0]: seed is fixed for a whole run"),
    ([entry(set={"train.total_steps": 1})], "fixed for a whole run"),
    ([entry(set={"algo.reset.rewarmup_steps": 4})], "fixed for a whole run"),
    ([entry(set={"hosts.heartbeat_s": 9})], "fixed for a whole run"),
    (
      [entry(set={"algo.num_generations": 4.0})],
      "algo.num_generations = 4.0: must be a whole number, at least 2",
    ),
    ([entry(set={"algo.num_generations": 1})], "at least 2 samples"),
    (
      [entry(set={"algo.dynamic_sampling.enabled": 1})],
      "must be True or False",
    ),
    (
      [entry(set={"algo.beta": True})],
      "algo.beta = True: must be a finite number, at least 0",
    ),
    ([entry(set={"algo.reset.modes": "every"})], "must be a tuple"),
    ([entry(set={"data.tasks": "a"})], "data.tasks = 'a' should have the type"),
    # Of the tasks that are there by then.
    (
      [
        entry(set={"data.tasks": {"b": {"weight": 2.0}}}),
        entry(set={"data.tasks.a.weight": 1.0}),
      ],
      "[1]: no key data.tasks.a.weight",
    ),
  ],
)
def test_what_cannot_be_read_is_refused_by_name(entries, said):
  c = staged(*entries)
  with pytest.raises(errors.InputError) as caught:
    next(schedule.every(c))
  assert "config.schedule[" in str(caught.value)
  assert said in str(caught.value)


def test_a_run_refuses_a_stage_that_cannot_work(small):
  with pytest.raises(errors.InputError, match="at least 2 samples"):
    small.train(
      "unused", "schedule=({'at_step': 2, 'set': {'algo.num_generations': 1}},)"
    )


def test_a_decay_and_another_number_of_updates_a_step_are_refused(small):
  with pytest.raises(errors.InputError, match="would not end with the run"):
    small.train(
      "unused",
      "optim.decay=linear",
      "schedule=({'at_step': 2, 'set': {'train.num_iterations': 1}},)",
    )


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      {
        "data.tasks": {
          "file": {
            "options": {
              "file": "/none.jsonl",
              "verifier": "progrpo_jax.rewards.math:score",
            }
          }
        }
      },
      "/none.jsonl",
    ),
    ({"sampling.max_new_tokens": 10**6}, "is beyond the"),
    ({"data.max_prompt_length": 2}, "prompt"),
    (
      {"algo.dynamic_sampling.max_rounds": 1, "train.prompts_per_step": 16},
      "it could never be full",
    ),
  ],
)
def test_what_a_later_stage_reads_is_read_before_the_first_step(
  small, tmp_path, change, said
):
  with pytest.raises(errors.InputError, match=re.escape(said)) as caught:
    small.train(tmp_path, f"schedule=({{'at_step': 2, 'set': {change!r}}},)")
  if "max_rounds" not in str(change):
    assert "config.schedule[0]: " in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_a_round_that_can_never_fill_a_batch_is_refused(small):
  few = "algo.dynamic_sampling.prompts_per_round=1"
  with pytest.raises(errors.InputError, match="could never be full"):
    checks.validate(small.config(few, "algo.dynamic_sampling.max_rounds=3"))
  enough = small.config(few, "algo.dynamic_sampling.max_rounds=4")
  checks.validate(enough)


class Stopping:
  """A view that asks the run to stop when a step is done."""

  def __init__(self, at):
    self.at = at

  def step(self, step, metrics):
    if step == self.at:
      os.kill(os.getpid(), signal.SIGTERM)

  def phase(self, name):
    pass

  evaluation = message = phase

  def eval(self, step, metrics):
    pass


LATER = {
  "algo.num_generations": 8,
  "sampling.temperature": 1.0,
  "sampling.max_new_tokens": 3,
  "data.tasks": {
    "chain_sum": {
      "options": {
        "template": "compact",
        "min_terms": 2,
        "max_terms": 2,
        "max_digits": 1,
        "num_train": 16,
        "num_validation": 4,
      }
    }
  },
}


def test_a_resumed_run_stands_in_the_stage_that_it_left(
  small, recorded, tmp_path
):
  """Larger groups, shorter answers, a reset, other problems and none carried
  over, all from step 2 on."""
  change = (
    f"schedule=({{'at_step': 2, 'reset': True, 'set': {LATER!r}}},)",
    "algo.reset.modes=()",
  )
  code, view = small.train(tmp_path / "whole", *change)
  assert code == loop.DONE
  assert [m["ref_reset/count"] for _, m in view.steps] == [0, 1, 1, 1]
  assert [m["ref_reset/reset"] for _, m in view.steps] == [0, 1, 0, 0]
  tokens = [m["num_tokens"] for _, m in view.steps]
  assert tokens[2] - tokens[1] > 8 * 4  # more than 4 prompts of 8 tokens
  for step in (1, 2, 3, 4):
    lines = (tmp_path / f"whole/rollouts/{step:06d}.jsonl").read_text()
    groups = [json.loads(line) for line in lines.splitlines()]
    answers = [answer for g in groups for answer in g["completions"]]
    terms = {len(re.findall(r"[+-]", g["prompt"])) + 1 for g in groups}
    assert len(answers) == (4 if step <= 2 else 8) * len(groups)
    if step > 2:
      assert max(answer["length"] for answer in answers) <= 3
      assert terms == {2}
  whole = recorded(tmp_path / "whole")
  # Where the stage begins, nothing but the steps done tells that it has; a
  # step later the run has an optimiser and problems of the stage.
  workdir = tmp_path / "stopped"
  for step in (2, 3):
    code = loop.train(small.config(*change), workdir, Stopping(step))
    assert code == loop.PREEMPTED
  code, _ = small.train(workdir, *change)
  assert code == loop.DONE
  assert recorded(workdir) == whole


def test_a_stage_that_cannot_begin_saves_the_step_before_it(
  small, recorded, tmp_path, monkeypatch
):
  """Its data went between the start and its first step."""
  change = (
    f"schedule=({{'at_step': 2, 'set': {LATER!r}}},)",
    "checkpoint.every=100",
    "algo.reset.modes=()",
  )
  assert small.train(tmp_path / "whole", *change)[0] == loop.DONE
  stages = build.make_stages

  def gone(c, foundation):
    if steps:
      raise errors.InputError("the file of the stage is gone")
    return stages(c, foundation)

  steps = []
  view = Stopping(None)
  view.step = lambda step, metrics: steps.append(step)
  with monkeypatch.context() as patch:
    patch.setattr(build, "make_stages", gone)
    with pytest.raises(errors.InputError, match="is gone"):
      loop.train(small.config(*change), tmp_path / "broken", view)
  assert steps == [1, 2]
  assert (tmp_path / "broken/checkpoints/2").exists()
  code, view = small.train(tmp_path / "broken", *change)
  assert code == loop.DONE
  assert [step for step, _ in view.steps] == [3, 4]
  whole, broken = recorded(tmp_path / "whole"), recorded(tmp_path / "broken")
  assert [k for k in whole if broken.get(k) != whole[k]] == ["steps"]
