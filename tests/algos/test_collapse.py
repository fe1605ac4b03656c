"""Verdicts on made-up runs."""

import math
import random

import pytest

from progrpo_jax.algos import collapse

HEALTHY = {
  "entropy": 0.5,
  "frac_reward_zero_std": 0.4,
  "correct": 0.5,
  "reward_spread/mean": 0.4,
  "completions/mean_length": 100.0,
  "completions/clipped_ratio": 0.1,
}
SHORT = {"window": 8}


def rows(*parts, **changes):
  """Rows of (count, changes) parts, all else healthy."""
  return [
    HEALTHY | changes | part for count, part in parts for _ in range(count)
  ]


def run(*parts, **options):
  return collapse.assess(rows(*parts), **(SHORT | options))


def levels(history, **options):
  """The level after each row, as a run would log it."""
  return [
    collapse.assess(history[:end], **(SHORT | options)).number
    for end in range(1, len(history) + 1)
  ]


def test_verdict_as_a_number():
  assert [collapse.Verdict(level).number for level in collapse.LEVELS] == [
    0,
    1,
    2,
  ]
  with pytest.raises(AttributeError):
    collapse.Verdict().level = "collapse"


def test_a_healthy_run_is_ok():
  assert run((50, {})) == collapse.Verdict("ok", "")
  assert collapse.assess([]) == collapse.Verdict()


def test_start_is_the_median_of_the_first_steps():
  history = [{"entropy": e} for e in (9.0, math.nan, 0.4, 0.5, 0.6, 0.0, 0.0)]
  assert collapse.start_of(history, count=4) == {"entropy": 0.55}
  assert collapse.start_of([]) == {}


@pytest.mark.parametrize(
  "change, level, reason",
  [
    ({"entropy": 0.151}, "ok", ""),
    (
      {"entropy": 0.149},
      "warning",
      "entropy is down to 0.149 nats, 30% of 0.5 at the start",
    ),
    (
      {"entropy": 0.051},
      "warning",
      "entropy is down to 0.051 nats, 10% of 0.5 at the start",
    ),
    (
      {"entropy": 0.049},
      "collapse",
      "entropy is down to 0.049 nats, 10% of 0.5 at the start",
    ),
    (
      {"entropy": 1.51},
      "warning",
      "entropy has grown to 1.51 nats from 0.5 at the start",
    ),
    (
      {"entropy": 3.01},
      "collapse",
      "entropy has grown to 3.01 nats from 0.5 at the start",
    ),
    ({"frac_reward_zero_std": 0.9}, "ok", ""),
    (
      {"frac_reward_zero_std": 0.91},
      "warning",
      "91% of the groups have no spread in reward, with 50% of the responses "
      "right",
    ),
    (
      {"frac_reward_zero_std": 0.99},
      "collapse",
      "99% of the groups have no spread in reward, with 50% of the responses "
      "right",
    ),
    (
      {"frac_reward_zero_std": 0.99, "correct": 0.95},
      "warning",
      "99% of the groups have no spread in reward, with 95% of the responses "
      "right",
    ),
    ({"reward_spread/mean": 0.101}, "ok", ""),
    (
      {"reward_spread/mean": 0.099},
      "warning",
      "rewards within groups spread by 0.099, 0.4 at the start",
    ),
    ({"reward_spread/mean": 0.01, "correct": 0.95}, "ok", ""),  # solved
    ({"completions/mean_length": 31.0, "correct": 0.4}, "ok", ""),
    (
      {"completions/mean_length": 29.0, "correct": 0.4},
      "warning",
      "responses have shrunk to 29 tokens, from 100 at the start",
    ),
    (
      {"completions/mean_length": 9.0, "correct": 0.4},
      "collapse",
      "responses have shrunk to 9 tokens, from 100 at the start",
    ),
    (
      {"completions/mean_length": 9.0, "correct": 0.5},
      "warning",
      "responses have shrunk to 9 tokens, from 100 at the start",
    ),
    ({"completions/clipped_ratio": 0.7}, "ok", ""),
    (
      {"completions/clipped_ratio": 0.71},
      "warning",
      "71% of the responses are cut off at the length limit",
    ),
    (
      {"completions/clipped_ratio": 0.96},
      "collapse",
      "96% of the responses are cut off at the length limit",
    ),
  ],
)
def test_each_sign_and_its_bounds(change, level, reason):
  assert run((10, {}), (8, change)) == collapse.Verdict(level, reason)


def test_a_floor_wherever_the_entropy_started():
  options = {"entropy_floor": (0.1, 0.03)}
  for now, level in ((0.11, "ok"), (0.09, "warning"), (0.02, "collapse")):
    assert run((20, {"entropy": now}), **options).level == level
  # Nothing known of the start: the floor alone is asked.
  verdict = run((8, {"entropy": 0.02}), start={}, **options)
  assert verdict == collapse.Verdict("collapse", "entropy is down to 0.02 nats")


def test_a_narrow_start_may_grow():
  # Six times the start, but a usual entropy.
  assert run((10, {"entropy": 0.1}), (8, {"entropy": 0.9})).level == "ok"
  assert run((10, {"entropy": 0.1}), (8, {"entropy": 1.5})).level == "warning"


def test_the_worst_is_said_with_everything_at_its_level():
  both = {
    "entropy": 0.01,
    "completions/clipped_ratio": 0.99,
    "frac_reward_zero_std": 0.95,
  }
  verdict = run((10, {}), (8, both))
  assert verdict.level == "collapse"
  assert verdict.reason == (
    "entropy is down to 0.01 nats, 2% of 0.5 at the start; "
    "99% of the responses are cut off at the length limit"
  )


def test_one_odd_step_says_nothing():
  broken = {"entropy": 0.0}
  assert levels(rows((20, {}), (1, broken), (20, {}))) == [0] * 41
  assert levels(rows((10, broken)), start=HEALTHY) == [0] * 7 + [2] * 3
  # Six of eight steps: three quarters of the window.
  assert levels(rows((20, {}), (9, broken)))[20:] == [0] * 5 + [2] * 4


def test_said_until_it_has_gone_for_most_of_a_window():
  history = rows((20, {}), (8, {"entropy": 0.01}), (10, {}))
  # With the sixth healthy step two of the last eight are bad: a quarter.
  assert levels(history)[28:] == [2] * 5 + [0] * 5


def test_a_value_at_its_bound_does_not_flicker():
  rng = random.Random(0)
  history = rows((10, {}))
  history += [HEALTHY | {"entropy": rng.gauss(0.15, 0.02)} for _ in range(200)]
  found = levels(history, window=20)
  bare = [int(row["entropy"] < 0.15) for row in history]
  assert sum(a != b for a, b in zip(bare, bare[1:])) > 50
  assert sum(a != b for a, b in zip(found, found[1:])) <= 2


def test_a_resumed_run_is_judged_alike():
  rng = random.Random(1)
  history = [
    {
      name: value * rng.lognormvariate(-0.03 * step, 0.4)
      for name, value in HEALTHY.items()
    }
    for step in range(80)
  ]
  unbroken = [collapse.assess(history[:end], **SHORT) for end in range(1, 81)]
  assert len(set(unbroken)) > 10
  start = collapse.start_of(history)
  for end in range(20, 81):  # the last rows, and the start as it was saved
    assert (
      collapse.assess(history[:end], start=start, **SHORT)
      == (unbroken[end - 1])
    )


def test_start_is_needed_where_the_history_is_cut():
  history = rows((10, {}), (30, {"entropy": 0.04}))
  assert collapse.assess(history[-20:], **SHORT).level == "ok"
  start = collapse.start_of(history)
  assert (
    collapse.assess(history[-20:], start=start, **SHORT).level == "collapse"
  )


def test_odd_rows_are_passed_over():
  odd = [
    {},
    {"entropy": None},
    {"entropy": math.nan},
    {"entropy": "low"},
    {"entropy": math.inf},
    {"step": 3, "collapse/reason": "words"},
  ]
  assert collapse.assess(odd * 10, **SHORT) == collapse.Verdict()
  bad = [{"entropy": 0.5}] * 10
  for _ in range(8):
    bad += [*odd, {"entropy": 0.01}]
  assert collapse.assess(bad, **SHORT).level == "collapse"
  assert collapse.assess(bad[:-14], **SHORT).level == "collapse"
  assert collapse.assess(bad[:-21], **SHORT).level == "ok"  # five of eight


def evaluations(*pairs, name="countdown"):
  return [
    {
      "step": 10 * i,
      f"eval/{name}/pass@1": a,
      f"eval/{name}/pass@8": 0.5,
      f"eval/{name}/pass@32": b,
      f"eval/{name}/pass@32/low": 0.0,
    }
    for i, (a, b) in enumerate(pairs)
  ]


@pytest.mark.parametrize(
  "pairs, level",
  [
    ([(0.1, 0.8), (0.1, 0.8), (0.3, 0.7)], "ok"),  # too few to judge
    ([(0.1, 0.8), (0.1, 0.8), (0.3, 0.78), (0.3, 0.78)], "ok"),
    ([(0.1, 0.8), (0.1, 0.8), (0.3, 0.7), (0.3, 0.7)], "warning"),
    ([(0.1, 0.8), (0.1, 0.8), (0.3, 0.6), (0.3, 0.6)], "collapse"),
    ([(0.1, 0.8), (0.1, 0.8), (0.3, 0.8), (0.3, 0.6)], "ok"),  # only once
    # Both fall: the policy is worse, not narrower.
    ([(0.1, 0.8), (0.1, 0.8), (0.05, 0.6), (0.05, 0.6)], "ok"),
    # Both rise.
    ([(0.1, 0.8), (0.1, 0.8), (0.3, 0.9), (0.3, 0.9)], "ok"),
    # Said until both of the last two are back.
    ([(0.1, 0.8), (0.1, 0.8), (0.3, 0.7), (0.3, 0.7), (0.3, 0.8)], "warning"),
    (
      [(0.1, 0.8), (0.1, 0.8), (0.3, 0.7), (0.3, 0.7), (0.3, 0.8), (0.3, 0.8)],
      "ok",
    ),
    (
      [
        (0.1, 0.8),
        (0.1, None),
        (0.1, 0.8),
        (0.3, 0.6),
        (math.nan, 0.6),
        (0.3, 0.6),
      ],
      "collapse",
    ),
  ],
)
def test_pass_at_k_falls_while_pass_at_1_rises(pairs, level):
  evals = evaluations(*pairs)
  verdict = collapse.assess([], evals=evals)
  assert verdict.level == level
  if level == "collapse":
    assert verdict.reason == (
      "pass@32 on countdown fell from 0.800 to 0.600 while pass@1 went from "
      "0.100 to 0.300"
    )


def test_every_evaluation_set_is_asked():
  good = evaluations(*[(0.1, 0.8)] * 4, name="good")
  bad = evaluations(*[(0.1, 0.8)] * 2, *[(0.3, 0.5)] * 2, name="a/b")
  merged = [one | other for one, other in zip(good, bad)]
  verdict = collapse.assess(rows((20, {})), evals=merged)
  assert verdict.level == "collapse"
  assert verdict.reason.startswith("pass@32 on a/b fell from 0.800 to 0.500")
  # Sets that take turns.
  turns = [row for pair in zip(bad, good) for row in pair]
  assert collapse.assess([], evals=turns) == verdict
  for count in range(4):  # too few of them
    assert collapse.assess([], evals=merged[4 - count :]).level == "ok"
  only_1 = [{"eval/x/pass@1": 0.1 * i, "eval/x/entropy": 1.0} for i in range(9)]
  assert collapse.assess([], evals=only_1).level == "ok"


@pytest.mark.parametrize(
  "options, word",
  [
    ({"window": 0}, "window"),
    ({"patience": 0}, "patience"),
    ({"entropy_share": (0.1, 0.3), "entropy_floor": (0.0, 0.0)}, "entropy"),
    ({"entropy_growth": (6.0, 3.0)}, "entropy"),
    ({"zero_spread": (0.98, 0.9)}, "frac_reward_zero_std"),
    ({"length_share": (0.1, 0.3)}, "mean_length"),
    ({"clipped": (0.9, 0.5)}, "clipped_ratio"),
    ({"pass_drop": (0.2, 0.1)}, "pass_drop"),
  ],
)
def test_mistakes_are_named_at_the_first_step(options, word):
  with pytest.raises(ValueError, match=word):
    collapse.assess(rows((1, {})), **options)
