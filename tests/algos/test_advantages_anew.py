"""Advantages that weigh groups or right responses anew.

Golden numbers by hand, then independent transcriptions in numpy, response by
response, then what all of them promise.
"""

import functools
import inspect
import itertools
import math

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.algos import advantages

# Two of eight are right.
REWARD = np.array([[1.0, 1, 0, 0, 0, 0, 0, 0]])
CORRECT = REWARD > 0
LOGP = np.array([[-0.1, -0.5, -0.3, -0.2, -0.9, -0.8, -0.7, -0.6]])

PASSK = functools.partial(advantages.passk, k=2)
WEIGHTED = functools.partial(
  advantages.gdpo, weights_PJ=np.array([[1.0, 0.5]] * 2)
)
ALL = [
  advantages.maxrl,
  PASSK,
  advantages.ucpo,
  advantages.unlikeliness,
  advantages.focal,
  advantages.dra,
  advantages.quantile,
  functools.partial(advantages.quantile, interpolate=True),
  advantages.nsr,
  advantages.gdpo,
  WEIGHTED,
]
# Those that give 0 to a group of equal rewards and verdicts, whatever the
# responses are.
BLIND = [ALL[i] for i in (0, 1, 2, 4, 6, 7, 9, 10)]


def call(function, inputs, **more):
  names = inspect.signature(function).parameters
  return function(**{k: v for k, v in (inputs | more).items() if k in names})


def inputs(reward_PG, seed=0):
  """All that these functions read, for rewards of which 1 is right."""
  rng = np.random.default_rng(seed)
  reward_PG = np.asarray(reward_PG, np.float32)
  shape = reward_PG.shape
  mask_PGT = np.arange(6) < rng.integers(1, 7, shape)[..., None]
  return dict(
    reward_PG=reward_PG,
    correct_PG=reward_PG >= 1,
    logp_PG=-5 * rng.random(shape, np.float32),
    mean_logp_PG=-rng.random(shape, np.float32),
    tokens_PGT=rng.integers(0, 3, (*shape, 6)).astype(np.int32),
    mask_PGT=mask_PGT,
    components_PGJ=np.stack([reward_PG, 3 * reward_PG**2], axis=-1),
  )


def test_maxrl_golden():
  got = advantages.maxrl(REWARD)
  np.testing.assert_array_equal(got, np.where(CORRECT, 3.0, -1.0))
  # A problem that one in eight solves weighs 1 / p.
  np.testing.assert_allclose(advantages.maxrl([[1] + [0] * 7])[0, 0], 7.0)


def test_maxrl_of_rewards_that_are_no_pass_rate_is_zero():
  got = advantages.maxrl([[-1.0, 1.0], [-1.0, 0.5], [0.0, 0.0]])
  np.testing.assert_array_equal(got, np.zeros((3, 2)))


def test_passk_golden():
  # 1 - 15/28 = 0.464286, deviation 0.498723, C(5,1)/C(7,1) = 5/7.
  got = advantages.passk(CORRECT, 2)
  np.testing.assert_allclose(
    got, np.where(CORRECT, 1.074172, -0.358057), atol=2e-6
  )


def test_passk_is_the_mean_over_all_sets_of_k():
  """The definition: every set, its reward, its standardised advantage."""
  for correct in ([1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]):
    for k in (1, 2, 3, 4):
      sets = list(itertools.combinations(range(6), k))
      reward = np.array([any(correct[i] for i in s) for s in sets], float)
      spread = np.sqrt(reward.mean() * (1 - reward.mean()))
      expected = np.zeros(6)
      if spread:
        each = (reward - reward.mean()) / spread
        for i in range(6):
          expected[i] = np.mean([a for a, s in zip(each, sets) if i in s])
      got = advantages.passk(np.array([correct], bool), k)
      np.testing.assert_allclose(got[0], expected, atol=2e-6)
      np.testing.assert_allclose(np.sum(got), 0, atol=1e-5)


def test_passk_of_one_is_grpo_on_verdicts():
  np.testing.assert_allclose(
    advantages.passk(CORRECT, 1), advantages.grpo(REWARD), atol=1e-5
  )


def test_passk_needs_k_known_responses():
  valid = np.array([[True, False, True, False, False, False, False, False]])
  assert np.any(advantages.passk(CORRECT, 1, valid_PG=valid))
  assert not np.any(advantages.passk(CORRECT, 3, valid_PG=valid))
  for k in (0, 9):
    with pytest.raises(ValueError, match=f"G=8.*{k}"):
      advantages.passk(CORRECT, k)


def test_ucpo_golden():
  # q = softmax(-0.1, -0.5) = 0.598688, 0.401312; 1 / q over its sum:
  # 0.401312, 0.598688; weights 0.4 + 0.2 of it, of A = 1.732051 twice.
  got = advantages.ucpo(REWARD, CORRECT, LOGP, eps=0.0)
  np.testing.assert_allclose(got[0, :2], [1.663677, 1.800424], atol=2e-6)
  np.testing.assert_allclose(got[0, 2:], -0.577350, atol=2e-6)


def test_ucpo_keeps_the_sum_and_favours_the_unlikely():
  got = np.asarray(advantages.ucpo(REWARD, CORRECT, LOGP, tau=1.0))
  plain = np.asarray(advantages.grpo(REWARD))
  np.testing.assert_allclose(got.sum(), plain.sum(), atol=1e-5)
  assert got[0, 1] > plain[0, 0] > got[0, 0]
  np.testing.assert_allclose(
    advantages.ucpo(REWARD, CORRECT, LOGP, tau=0.0), plain, rtol=1e-6
  )


def test_unlikeliness_golden():
  # The likeliest of eight keeps 1 - 0.25 * 7/8; four are less likely than the
  # other right one: 1 - 0.25 * 4/8.
  shaped = np.array([1 - 0.25 * 7 / 8, 1 - 0.25 * 4 / 8, *[0.0] * 6])
  expected = (shaped - shaped.mean()) / shaped.std()
  got = advantages.unlikeliness(REWARD, CORRECT, LOGP, eps=0.0)
  np.testing.assert_allclose(got[0], expected, atol=2e-6)


def test_unlikeliness_of_equal_log_probs_is_equal():
  got = advantages.unlikeliness(
    [[1.0, 1, 0]], np.array([[True, True, False]]), [[-1.0, -1, -2]]
  )
  assert got[0, 0] == got[0, 1]
  all_right = advantages.unlikeliness(
    np.ones((1, 3)), np.ones((1, 3), bool), np.zeros((1, 3))
  )
  np.testing.assert_array_equal(all_right, 0)


@pytest.mark.parametrize("name", ["unlikeliness", "dra"])
def test_a_group_that_is_right_throughout_learns_its_rare_answers(name):
  """What GRPO and UCPO leave at 0."""
  tokens = np.array([[[1, 2, 3]] * 3 + [[7, 8, 9]]])
  given = dict(
    reward_PG=np.ones((1, 4)),
    correct_PG=np.ones((1, 4), bool),
    logp_PG=np.array([[-1.0, -1.0, -1.0, -9.0]]),
    tokens_PGT=tokens,
    mask_PGT=np.ones_like(tokens, bool),
  )
  got = np.asarray(call(getattr(advantages, name), given))
  assert got[0, 3] > 0 and np.all(got[0, :3] < 0)
  assert got[0, 0] == got[0, 1] == got[0, 2]


def test_focal_golden():
  # 1.732051 * 0.75 ** 2 and -0.577350 * 0.75 ** 2.
  got = advantages.focal(REWARD, CORRECT, gamma=2.0, eps=0.0)
  np.testing.assert_allclose(
    got, np.where(CORRECT, 0.974279, -0.324760), atol=2e-6
  )
  np.testing.assert_allclose(
    advantages.focal(REWARD, CORRECT, gamma=0.0), advantages.grpo(REWARD)
  )


def test_dra_golden():
  # Bigrams with the blank before: {_1, 12, 23}, {_1, 12, 24}, {_9, 99}.
  tokens = np.array([[[1, 2, 3], [1, 2, 4], [9, 9, 0]]])
  mask = np.array([[[True] * 3, [True] * 3, [True, True, False]]])
  shaped = np.array([1 / (1 + 2 / 3), 1 / (1 + 2 / 3), 1.0])
  expected = (shaped - shaped.mean()) / shaped.std()
  got = advantages.dra(np.ones((1, 3)), tokens, mask, n=2, eps=0.0)
  np.testing.assert_allclose(got[0], expected, atol=2e-6)


def test_quantile_has_two_regimes():
  # p = 2/8 <= 0.6: the baseline is 0, the deviation sqrt(3) / 4.
  got = advantages.quantile(REWARD, eps=0.0)
  np.testing.assert_allclose(got, np.where(CORRECT, 2.309401, 0.0), atol=2e-6)
  for wrong in range(1, 16):
    reward = np.array([[0.0] * wrong + [1.0] * (16 - wrong)])
    got = np.asarray(advantages.quantile(reward))
    easy = (16 - wrong) / 16 > 0.6
    assert np.all(got[reward == 1] == 0) == easy, wrong
    assert np.all(got[reward == 0] == 0) == (not easy), wrong


def test_quantile_at_the_edge_of_the_regimes():
  """0.4 of five rewards is two of them: p = 0.6 is still hard."""
  got = np.asarray(advantages.quantile([[0.0, 0, 1, 1, 1]]))
  assert np.all(got[0, :2] == 0) and np.all(got[0, 2:] > 0)
  interpolated = np.asarray(
    advantages.quantile([[0.0, 0, 1, 1, 1]], interpolate=True)
  )
  sigma = 0.24**0.5
  np.testing.assert_allclose(
    interpolated[0], [-0.6 / sigma] * 2 + [0.4 / sigma] * 3, rtol=1e-5
  )


@pytest.mark.parametrize("k", [0.0, -0.1, 1.1])
def test_a_quantile_lies_between_0_and_1(k):
  with pytest.raises(ValueError, match=f"{k}"):
    advantages.quantile(REWARD, k)


def test_nsr_golden():
  np.testing.assert_allclose(
    advantages.nsr(REWARD, CORRECT), np.where(CORRECT, 0.1, -1.0), rtol=1e-6
  )
  # Without a right response all are pushed down: there is no baseline.
  np.testing.assert_array_equal(
    advantages.nsr(np.zeros((1, 3)), np.zeros((1, 3), bool)), -np.ones((1, 3))
  )
  got = advantages.nsr(REWARD, CORRECT, weight=0.0)
  np.testing.assert_array_equal(got, np.where(CORRECT, 0.0, -1.0))
  # Partial credit, and half of a right answer taken off by shaping.
  got = advantages.nsr([[0.5, 0.25]], np.array([[True, False]]))
  np.testing.assert_allclose(got, [[0.05, -0.75]], rtol=1e-6)


def test_gdpo_golden():
  # Two prompts, two responses, two terms: (1, 1) and (0, 0); (1, 0) and (1, 1).
  terms = np.array([[[1.0, 1], [0, 0]], [[1, 0], [1, 1]]])
  # Standardised: +-1, and 0 where all are equal; sums 2, -2, -1, 1, of
  # deviation sqrt(10 / 4).
  got = advantages.gdpo(terms)
  np.testing.assert_allclose(
    got, np.array([[2, -2], [-1, 1]]) / 2.5**0.5, rtol=1e-5
  )
  # GRPO on the sum, 2, 0 and 1, 2, sees no difference between the groups.
  summed = np.abs(advantages.grpo(terms.sum(axis=-1)))
  np.testing.assert_allclose(summed, 1, rtol=1e-5)


def test_gdpo_weighs_terms_after_their_scale():
  terms = np.array([[[1.0, 900], [0, 0], [0, 100]]])
  heavy = advantages.gdpo(terms, weights_PJ=np.array([[1.0, 0.0]]), eps=0.0)
  first = np.asarray(advantages.grpo(terms[..., 0], eps=0.0))
  np.testing.assert_allclose(heavy, first / first.std(), rtol=1e-6)


def test_gdpo_leaves_out_who_has_no_opinion():
  nan = np.nan
  terms = np.array([[[1.0, nan], [0.0, 5.0], [0.5, 1.0]]])
  first = np.asarray(advantages.grpo(terms[..., 0]))
  second = np.asarray(advantages.grpo([[5.0, 1.0]]))
  total = first + np.array([[0.0, *second[0]]])
  np.testing.assert_allclose(
    advantages.gdpo(terms), total / np.sqrt(np.mean(total**2)), rtol=1e-5
  )


def _grpo(reward, valid, eps=1e-6):
  out = np.zeros(len(reward))
  known = reward[valid]
  if len(known) and np.ptp(known) > 0:
    out[valid] = (known - known.mean()) / (known.std() + eps)
  return out


def _ngrams(tokens, mask, n):
  words = [None] * (n - 1) + [
    int(t) if m else None for t, m in zip(tokens, mask)
  ]
  return {tuple(words[i : i + n]) for i in range(len(mask)) if mask[i]}


def _expected(name, given, valid):
  """Advantages of one group, loop by loop, in double precision."""
  reward = given["reward_PG"].astype(float)
  right, count = given["correct_PG"] & valid, int(valid.sum())
  size = len(reward)
  out = np.zeros(size)
  plain = _grpo(reward, valid)
  if name == "maxrl" and count and reward[valid].mean() > 0:
    out[valid] = reward[valid] / reward[valid].mean() - 1
  elif name == "passk":
    wrong = count - int(right.sum())
    if count >= 2:
      mean = 1 - math.comb(wrong, 2) / math.comb(count, 2)
      sigma = (mean * (1 - mean)) ** 0.5
      for i in np.flatnonzero(valid) if sigma else ():
        without = 0 if right[i] else (wrong - 1) / (count - 1)
        out[i] = (1 - mean - without) / sigma
  elif name == "ucpo":
    out = plain.copy()
    if right.any():
      q = np.exp(given["mean_logp_PG"][right].astype(float))
      q /= q.sum()
      share = 0.8 / len(q) + 0.2 * (1 / q) / np.sum(1 / q)
      out[right] *= len(q) * share
  elif name == "unlikeliness":
    logp = given["logp_PG"]
    shaped = reward.copy()
    for i in np.flatnonzero(right):
      rank = 1 + np.sum(logp[valid] > logp[i])
      shaped[i] *= 1 - 0.25 * (count - rank) / count
    out = _grpo(shaped, valid)
  elif name == "focal":
    out = plain * (1 - right.sum() / max(count, 1)) ** 0.5
  elif name == "dra":
    sets = [
      _ngrams(t, m, 3) for t, m in zip(given["tokens_PGT"], given["mask_PGT"])
    ]
    shaped = reward.copy()
    for i in np.flatnonzero(valid):
      shaped[i] /= sum(
        len(sets[i] & sets[j]) / (len(sets[i]) * len(sets[j])) ** 0.5
        for j in np.flatnonzero(valid)
      )
    out = _grpo(shaped, valid)
  elif name == "quantile" and count:
    known = np.sort(reward[valid])
    base = known[int(np.ceil(0.4 * count - 1e-6)) - 1]
    out[valid] = (reward[valid] - base) / (known.std() + 1e-6)
  elif name == "nsr":
    out[valid] = np.where(right, 0.1 * reward, reward - 1)[valid]
  return out


@pytest.mark.parametrize(
  "name",
  ["maxrl", "passk", "ucpo", "unlikeliness", "focal", "dra", "quantile", "nsr"],
)
@hypothesis.given(st.integers(0, 2**31))
@hypothesis.settings(max_examples=25, deadline=None)
def test_against_a_transcription_in_numpy(name, seed):
  rng = np.random.default_rng(seed)
  # Rewards with partial credit, some of them unknown.
  reward = rng.choice([0.0, 0.25, 1.0], (3, 5), p=[0.5, 0.2, 0.3])
  valid = rng.random((3, 5)) > 0.2
  given = inputs(reward, seed)
  function = PASSK if name == "passk" else getattr(advantages, name)
  got = call(function, given, valid_PG=valid)
  for p in range(3):
    expected = _expected(name, {k: v[p] for k, v in given.items()}, valid[p])
    np.testing.assert_allclose(got[p], expected, rtol=2e-5, atol=1e-5)


def test_gdpo_against_a_transcription_in_numpy():
  rng = np.random.default_rng(5)
  terms = rng.random((4, 6, 3))
  terms[1, :, 0] = 0.3  # a term that is equal throughout its group
  terms[2, 1, 2] = np.nan
  valid = rng.random((4, 6)) > 0.2
  weights = rng.random((4, 3))
  total = np.zeros((4, 6))
  for p, j in itertools.product(range(4), range(3)):
    known = valid[p] & ~np.isnan(terms[p, :, j])
    total[p] += weights[p, j] * _grpo(terms[p, :, j], known)
  expected = total / (np.sqrt(np.mean(total[valid] ** 2)) + 1e-6)
  got = advantages.gdpo(terms, weights, valid_PG=valid)
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("function", BLIND)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.3, 1 / 3])
def test_equal_rewards_have_advantage_exactly_zero(function, reward):
  got = call(function, inputs(np.full((2, 7), reward)))
  np.testing.assert_array_equal(got, np.zeros((2, 7)))


@pytest.mark.parametrize(
  "function", [f for f in ALL if f is not advantages.nsr]
)
def test_a_group_without_right_answers_teaches_nothing(function):
  np.testing.assert_array_equal(call(function, inputs(np.zeros((2, 5)))), 0)


@pytest.mark.parametrize(
  "function", [f for f in ALL if f not in (PASSK, advantages.nsr)]
)
def test_one_response_teaches_nothing(function):
  for reward in (0.0, 1.0):
    given = inputs(np.full((2, 1), reward))
    np.testing.assert_array_equal(call(function, given), np.zeros((2, 1)))


@pytest.mark.parametrize("function", ALL)
def test_a_response_without_a_verdict_has_no_influence(function):
  given = inputs([[1.0, 0, 0.5, 1, 1], [0, 1, 1, 0.5, 0]], seed=2)
  valid = np.array([[True, True, True, True, False]] * 2)
  kept = {
    k: v[:, :4] if v.ndim > 1 and v.shape[1] == 5 else v
    for k, v in given.items()
  }
  for key, value in given.items():
    if value.dtype == np.float32:
      value[:, 4] = np.nan
    elif value.dtype == bool and key != "mask_PGT":
      value[:, 4] = True
  got = call(function, given, valid_PG=valid)
  np.testing.assert_array_equal(got[:, 4], 0)
  np.testing.assert_allclose(
    got[:, :4], call(function, kept), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("function", ALL)
def test_no_valid_response_at_all(function):
  given = inputs([[1.0, 0, 0.5], [0, 1, 1]])
  got = call(function, given, valid_PG=np.zeros((2, 3), bool))
  np.testing.assert_array_equal(got, np.zeros((2, 3)))


@pytest.mark.parametrize("function", ALL)
def test_shape_and_type(function):
  given = inputs([[1.0, 0, 1]] * 2)
  got = call(function, given)
  assert got.shape == (2, 3) and got.dtype == jnp.float32
  with pytest.raises(AssertionError, match=r"\(2, 2\)"):
    call(function, given, valid_PG=np.ones((2, 2), bool))
  with pytest.raises(AssertionError, match="bool"):
    call(function, given, valid_PG=np.ones((2, 3)))
  if "correct_PG" in inspect.signature(function).parameters:
    with pytest.raises(AssertionError, match="bool"):
      call(function, given, correct_PG=given["reward_PG"])


@pytest.mark.parametrize("function", ALL)
def test_jit_changes_nothing(function):
  given = inputs(np.random.default_rng(0).choice([0.0, 0.5, 1.0], (2, 6)))
  valid = np.random.default_rng(1).random((2, 6)) > 0.3
  given["valid_PG"] = valid
  names = inspect.signature(function).parameters
  given = {k: v for k, v in given.items() if k in names}
  np.testing.assert_allclose(
    jax.jit(lambda kwargs: function(**kwargs))(given),
    function(**given),
    rtol=1e-6,
    atol=1e-7,
  )


@pytest.mark.parametrize("name", ["ucpo", "unlikeliness"])
def test_no_gradient_goes_through_log_probs(name):
  """They are part of the advantage, a constant of the policy gradient."""

  def total(logp_PG):
    out = getattr(advantages, name)(REWARD, CORRECT, logp_PG)
    return jnp.sum(out**2)

  np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(LOGP)), 0)
