"""Decisions on the reference, as tables of logged numbers."""

import math
import random

import pytest

from progrpo_jax.algos import reset


def run(total, first=1, last_reset=0, **options):
  """Steps at which a run of `total` steps resets, each with its reason."""
  found = []
  for step in range(first, total + 1):
    fires, reason = reset.should_reset(step, last_reset=last_reset, **options)
    assert fires == bool(reason)
    if fires:
      found.append((step, reason))
      last_reset = step
  return found


def steps(*args, **options):
  return [step for step, _ in run(*args, **options)]


def test_every():
  assert [s for s in range(10) if reset.every(s, 3)] == [3, 6, 9]
  with pytest.raises(ValueError, match="0"):
    reset.every(1, 0)


@pytest.mark.parametrize(
  "scores, patience, min_delta, expected",
  [
    ([], 1, 0.0, False),
    ([0.5], 1, 0.0, False),  # nothing to compare with
    ([0.5, 0.5], 1, 0.0, True),
    ([0.5, 0.6], 1, 0.0, False),
    ([0.5, 0.6, 0.55, 0.58], 2, 0.0, True),
    ([0.5, 0.6, 0.55, 0.61], 2, 0.0, False),
    ([0.5, 0.4, 0.3], 3, 0.0, False),  # too few to judge
    ([0.5, 0.4, 0.3, 0.2], 3, 0.0, True),
    ([0.5, 0.51, 0.52], 2, 0.05, True),  # a gain, but not enough of one
    ([0.2, 0.5, 0.1, 0.4], 2, 0.0, True),  # recovers, below its old height
    ([0.5, float("nan")], 1, 0.0, False),
    ([0.5, float("nan"), 0.4], 1, 0.0, True),
  ],
)
def test_stalled(scores, patience, min_delta, expected):
  assert reset.stalled(scores, patience, min_delta) is expected


def test_stalled_needs_patience():
  with pytest.raises(ValueError, match="0"):
    reset.stalled([1.0, 1.0], 0)


@pytest.mark.parametrize(
  "kls, options, expected",
  [
    ([], {"threshold": 0.1}, False),
    ([0.2], {"threshold": 0.1}, True),
    ([0.2, 0.1], {"threshold": 0.1}, False),  # only the last, and above it
    ([0.0, 0.001, 0.1], {"factor": 3, "window": 5}, False),  # fresh reference
    ([0.1] * 5 + [0.31], {"factor": 3, "window": 5}, True),
    ([0.1] * 5 + [0.29], {"factor": 3, "window": 5}, False),
    ([0.1] * 4 + [0.31], {"factor": 3, "window": 5}, False),  # too few
    ([0.0] + [0.1] * 4 + [0.31], {"factor": 3, "window": 5}, False),
    # One earlier spike moves nothing.
    ([0.1, 0.1, 9.0] + [0.1] * 4 + [0.31], {"factor": 3, "window": 7}, True),
    ([9.0] + [0.1] * 5 + [0.31], {"factor": 3, "window": 5}, True),
    ([0.1] * 5 + [0.4], {"factor": 3, "threshold": 1, "window": 5}, False),
    ([0.9] * 5 + [2.0], {"factor": 3, "threshold": 1, "window": 5}, False),
    ([0.9] * 5 + [3.0], {"factor": 3, "threshold": 1, "window": 5}, True),
    # Growth by the square, and what stands out from it.
    ([t**2 for t in range(1, 22)], {"factor": 4}, False),
    ([t**2 for t in range(1, 21)] + [5 * 21**2], {"factor": 4}, True),
    ([(t - 1) ** 2 for t in range(1, 23)], {"factor": 4}, False),
    ([(t - 1) ** 2 for t in range(1, 22)] + [5 * 21**2], {"factor": 4}, True),
    # Wild values: four times one of them is nothing to speak of.
    (
      [0.1, 1.0, 0.2, 2.0, 0.1, 1.5, 0.3, 4.5],
      {"factor": 3, "window": 7},
      False,
    ),
    ([0.1] * 5 + [-0.1], {"factor": 3, "window": 5}, False),  # k1 may be
    ([0.2, float("nan")], {"threshold": 0.1}, True),
    ([float("nan")], {"threshold": 0.1}, False),
  ],
)
def test_kl_spike(kls, options, expected):
  assert reset.kl_spike(kls, **options) is expected


def test_kl_spike_needs_a_bound():
  with pytest.raises(ValueError, match="factor or a threshold"):
    reset.kl_spike([0.1])
  with pytest.raises(ValueError, match="window"):
    reset.kl_spike([0.1], threshold=1.0, window=4)


POWERS = (0.5, 1.0, 1.5, 2.0, 3.0)


def grown(rng, power, noise, count):
  """A KL that grows like a power of the steps, with log-normal noise."""
  return [
    1e-4 * t**power * math.exp(rng.gauss(0, noise)) for t in range(1, count + 1)
  ]


@pytest.mark.parametrize("power", POWERS)
def test_growth_alone_is_no_spike(power):
  """Of 3 * 4 * 100 judgements at each power of the steps, none is wrong; a
  multiple of the median is passed at step 21 by growth like the square."""
  for noise in (0.1, 0.2, 0.3):
    for seed in range(4):
      kls = grown(random.Random(seed), power, noise, 120)
      assert not any(reset.kl_spike(kls[:n], factor=4.0) for n in range(1, 121))


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize(
  "noise, size, least", [(0.1, 6, 40), (0.2, 7, 39), (0.3, 10, 38)]
)
def test_a_spike_on_top_of_growth_is_seen_in_its_step(
  power, noise, size, least
):
  seen = 0
  for seed in range(40):
    rng = random.Random(seed)
    kls = grown(rng, power, noise, rng.randint(21, 150))
    kls[-1] *= size
    seen += reset.kl_spike(kls, factor=4.0)
  assert seen >= least


@pytest.mark.parametrize(
  "shares, window, expected",
  [
    ([], 1, False),
    ([0.6], 1, True),
    ([0.5], 1, False),  # above, not at
    ([0.9, 0.9], 3, False),  # too few to judge
    ([0.0, 0.9, 0.9], 3, True),
    ([0.9, 0.0, 0.0], 3, False),
    ([0.9, 0.9, 0.1, 0.1, 0.1], 3, False),  # the last ones
    ([0.3, 0.4, 1.0], 3, False),  # one batch without advantages
    ([0.6, float("nan"), 0.6], 2, True),
    ([0.6, float("nan")], 2, False),
  ],
)
def test_dominates(shares, window, expected):
  assert reset.dominates(shares, threshold=0.5, window=window) is expected


def test_dominates_refuses_what_cannot_be():
  for threshold in (-0.1, 1.0):
    with pytest.raises(ValueError, match="threshold"):
      reset.dominates([0.5], threshold=threshold)
  with pytest.raises(ValueError, match="window"):
    reset.dominates([0.5], threshold=0.5, window=0)


def test_no_modes_never_reset():
  assert steps(50, modes=()) == []


def test_periodic_resets():
  assert run(10, modes=("every",), period=4) == [
    (4, "4 steps since the last reset"),
    (8, "4 steps since the last reset"),
  ]


def test_listed_steps():
  assert steps(10, modes=["at"], at_steps=(3, 7, 99)) == [3, 7]


def test_period_counts_from_the_last_reset_whatever_caused_it():
  assert steps(12, modes=("at", "every"), at_steps=(2,), period=4) == [2, 6, 10]


SCORES = [
  (5 * i, s)
  for i, s in enumerate([0.1, 0.2, 0.3, 0.3, 0.25, 0.26, 0.24, 0.4, 0.3, 0.2])
]


def test_stall_since_the_last_reset():
  # 0.3 at step 10 is not beaten at 15 or 20: reset at 20. From there 0.25 is
  # the score to beat: 0.26 at 25 beats it, 0.24 does not, 0.4 at 35 does, and
  # then 0.3 and 0.2 do not: reset at 45.
  assert run(49, modes=["stall"], patience=2, history={"score": SCORES}) == [
    (20, "no validation gain in 2 evaluations"),
    (45, "no validation gain in 2 evaluations"),
  ]


def test_score_at_the_reset_is_the_one_to_beat():
  scores = [(20, 0.25), (25, 0.2), (30, 0.2)]
  options = {"modes": ["stall"], "patience": 2, "history": {"score": scores}}
  assert reset.should_reset(30, last_reset=20, **options)[0]
  assert not reset.should_reset(30, last_reset=21, **options)[0]


def test_kl_at_the_reset_itself_belongs_to_the_old_reference():
  history = {"kl": [(1, 0.1), (2, 0.5), (3, 0.1), (4, 0.6)]}
  assert run(4, modes=["kl"], kl_threshold=0.3, history=history) == [
    (2, "KL 0.5 stands out"),
    (4, "KL 0.6 stands out"),
  ]
  del history["kl"][2:]
  assert not reset.should_reset(
    3, last_reset=2, modes=["kl"], kl_threshold=0.3, history=history
  )[0]


def test_resets_when_the_kl_dominates():
  # Above one half from step 4 on: steps 4, 5, 6 are the first window of three
  # whose median is. The share at step 6 was still taken to the old reference:
  # 7, 8, 9 are the next window.
  history = {"kl_share": [(s, 0.1 if s < 5 else 0.8) for s in range(1, 10)]}
  options = {"modes": ["dominates"], "share_window": 3, "history": history}
  assert run(9, share_threshold=0.5, **options) == [
    (6, "KL above 50% of the gradient over 3 steps"),
    (9, "KL above 50% of the gradient over 3 steps"),
  ]
  assert steps(9, share_threshold=0.9, **options) == []
  assert steps(9, **options) == [6, 9]  # the default is one half
  assert steps(9, min_gap=5, **options) == [6]


AUTO = {
  "score": [(s, 0.5) for s in (0, 5, 10)],
  "kl": [(s, 0.9 if s == 7 else 0.1) for s in range(1, 13)],
  "kl_share": [(s, 0.8) for s in range(1, 13)],
}


@pytest.mark.parametrize(
  "settings, expected",
  [
    # Each trigger alone: what has no setting is not asked.
    ({"patience": 2, "share_threshold": None}, [(10, "no vali")]),
    ({"kl_threshold": 0.5, "share_threshold": None}, [(7, "KL 0.9 ")]),
    ({"share_window": 8}, [(8, "KL abov")]),
    # All of them: the spike, then the share over the 4 steps after it.
    (
      {"patience": 2, "kl_threshold": 0.5, "share_window": 4, "min_gap": 4},
      [(4, "KL abov"), (8, "KL abov"), (12, "KL abov")],
    ),
    (
      {"patience": 1, "kl_threshold": 0.5, "share_window": 6},
      [(5, "no vali"), (7, "KL 0.9 ")],
    ),
    (
      {"patience": 1, "kl_threshold": 0.5, "share_window": 4, "min_gap": 6},
      [(6, "no vali"), (12, "KL abov")],
    ),
  ],
)
def test_auto_takes_any_trigger_and_keeps_the_gap(settings, expected):
  found = run(12, modes=["auto"], history=AUTO, **settings)
  assert [(step, reason[:7]) for step, reason in found] == expected


def test_auto_is_the_three_modes():
  options = {
    "history": AUTO,
    "patience": 1,
    "kl_threshold": 0.5,
    "share_window": 3,
  }
  assert run(12, modes=["auto"], **options) == run(
    12, modes=["stall", "kl", "dominates"], **options
  )
  assert run(12, modes=["every", "auto"], period=2, **options) == run(
    12, modes=["every", "stall", "kl", "dominates"], period=2, **options
  )


def test_prorl_v2():
  # Every 200 steps, or a spike, or a stall; each counts from the last.
  history = {
    "score": [(s, s / 1000 if s <= 600 else 0.0) for s in range(0, 901, 50)],
    "kl": [(s, 5.0 if s == 120 else 0.1) for s in range(1, 901)],
  }
  assert run(
    900,
    modes=("every", "stall", "kl"),
    period=200,
    patience=3,
    kl_factor=4.0,
    kl_window=20,
    min_gap=50,
    history=history,
  ) == [
    (120, "KL 5 stands out"),
    (320, "200 steps since the last reset"),
    (520, "200 steps since the last reset"),
    (720, "200 steps since the last reset"),
    (900, "no validation gain in 3 evaluations"),
  ]


def test_the_gap_is_for_what_is_measured():
  history = {"kl": [(s, 1.0) for s in range(20)]}
  options = {"kl_threshold": 0.5, "history": history, "min_gap": 7}
  assert run(9, modes=("every", "kl"), period=3, **options) == [
    (s, "3 steps since the last reset") for s in (3, 6, 9)
  ]
  assert run(9, modes=("at", "kl"), at_steps=(1,), **options) == [
    (1, "step 1 is listed"),
    (8, "KL 1 stands out"),
  ]


def test_first_mode_that_fires_is_the_reason():
  options = {"period": 2, "at_steps": (2,)}
  for modes, word in ((("every", "at"), "since"), (("at", "every"), "listed")):
    assert (
      word in reset.should_reset(2, last_reset=0, modes=modes, **options)[1]
    )


def test_never_twice_at_one_step_and_never_within_the_gap():
  history = {"kl": [(s, 1.0) for s in range(20)]}
  options = {"modes": ["kl"], "kl_threshold": 0.5, "history": history}
  for gap in (0, 1):
    assert reset.should_reset(
      7, last_reset=7, min_gap=gap, modes=["at"], at_steps=[7]
    ) == (False, "")
  assert reset.should_reset(0, last_reset=0, modes=["at"], at_steps=[0]) == (
    False,
    "",
  )
  assert steps(9, min_gap=3, **options) == [3, 6, 9]
  assert steps(4, min_gap=0, **options) == [1, 2, 3, 4]


def test_resumed_run_decides_alike():
  rng = random.Random(0)
  history = {
    "score": [(s, rng.random()) for s in range(0, 200, 5)],
    "kl": [
      (s, (8 if s % 31 == 0 else 1) * (1 + rng.random() / 10))
      for s in range(1, 200)
    ],
    "kl_share": [(s, rng.random()) for s in range(1, 200)],
  }
  options = {
    "modes": ("auto", "every"),
    "patience": 2,
    "kl_factor": 2.2,
    "kl_window": 6,
    "share_threshold": 0.8,
    "share_window": 5,
    "period": 13,
    "min_gap": 4,
  }
  unbroken = steps(199, history=history, **options)
  assert (
    len({reason[:4] for _, reason in run(199, history=history, **options)}) == 4
  )  # every trigger has its say
  for stop in (17, 60, 133):
    # What was logged after the checkpoint is still in the log when the run
    # goes on from it, and will be logged once more, in any order.
    shuffled = {
      name: rng.sample(pairs, len(pairs)) for name, pairs in history.items()
    }
    last_reset = max((s for s in unbroken if s <= stop), default=0)
    resumed = steps(
      199, first=stop + 1, last_reset=last_reset, history=shuffled, **options
    )
    assert [s for s in unbroken if s <= stop] + resumed == unbroken


def test_later_of_two_values_for_a_step_holds():
  options = {"modes": ["kl"], "kl_threshold": 0.5, "last_reset": 0}
  assert reset.should_reset(1, history={"kl": [(1, 0.1), (1, 0.9)]}, **options)[
    0
  ]
  assert not reset.should_reset(
    1, history={"kl": [(1, 0.9), (1, 0.1)]}, **options
  )[0]


@pytest.mark.parametrize(
  "options, word",
  [
    ({"modes": ["weekly"]}, "weekly.*every.*at.*stall.*kl"),
    ({"modes": "every", "period": 3}, "sequence"),
    ({"modes": ["every"]}, "period"),
    ({"modes": ["every"], "period": 0}, "period"),
    ({"modes": ["stall"]}, "patience"),
    ({"modes": ["kl"]}, "kl_factor"),
    ({"modes": ["dominates"], "share_threshold": None}, "share_threshold"),
    (
      {"modes": ["auto"], "share_threshold": None},
      "patience.*kl_factor.*share_threshold",
    ),
  ],
)
def test_mistakes_are_named_at_the_first_step(options, word):
  with pytest.raises(ValueError, match=word):
    reset.should_reset(1, last_reset=0, **options)
  with pytest.raises(ValueError, match="before the last reset"):
    reset.should_reset(1, last_reset=2, modes=())
