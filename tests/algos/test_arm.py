"""ARM against the toy group worked out by hand, then its properties."""

import functools
import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import ops
from progrpo_jax.algos import advantages, arm

O1 = [0.99, 0.95, 0.9, 0.97, 0.5, 0.99, 0.98, 0.6, 0.99, 0.92]
O2 = [0.99, 0.95, 0.9, 0.97, 0.2, 0.99, 0.98, 0.3, 0.99, 0.92]
O3 = [0.99] * 8 + [0.4, 0.1]
O4 = [0.9] * 10
Q = [0.5, 0.3, 0.8, 0.9, 0.95, 0.6, 0.99, 0.7, 0.2, 0.4]

LOGP_BT = np.log(np.array([O1, O2, O3, O4], np.float32))
MASK_BT = np.ones((4, 10), bool)
C_ANSWER_PG = np.array([[0.547723, 0.244949, 0.2, 0.9]], np.float32)
C_PROMPT_P = np.array([0.244949], np.float32)
CORRECT_PG = np.array([[True, True, False, False]])
ADV_PG = np.array([[1.0, 1.0, -1.0, -1.0]], np.float32)

UNIT = st.floats(0, 1, width=16)


@st.composite
def groups(draw):
  """(adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG)."""
  # Few shapes: each is compiled anew.
  shape = draw(st.sampled_from([(1, 1), (2, 4)]))
  bools = hnp.arrays(bool, shape)
  return (
    draw(hnp.arrays(np.float32, shape, elements=st.floats(-3, 3, width=16))),
    draw(bools),
    draw(hnp.arrays(np.float32, shape[:1], elements=UNIT)),
    draw(hnp.arrays(np.float32, shape, elements=UNIT)),
    draw(bools),
  )


# Golden numbers.


def test_answer_confidence_of_the_toy_group():
  # Two of ten tokens each: sqrt(.5 * .6), sqrt(.2 * .3), sqrt(.4 * .1), .9.
  by_hand = [math.sqrt(0.3), math.sqrt(0.06), math.sqrt(0.04), 0.9]
  got = arm.answer_confidence(LOGP_BT, MASK_BT)
  np.testing.assert_allclose(got, by_hand, rtol=1e-6)
  np.testing.assert_allclose(got, C_ANSWER_PG[0], atol=1e-6)


def test_prompt_confidence_of_the_toy_prompt():
  logp = np.log(np.array([Q], np.float32))
  mask = np.ones((1, 10), bool)
  np.testing.assert_allclose(
    arm.prompt_confidence(logp, mask), [math.sqrt(0.2 * 0.3)], rtol=1e-6
  )
  perplexity = math.prod(Q) ** (-1 / 10)
  whole = arm.prompt_confidence(logp, mask, low_prob_share=1.0)
  np.testing.assert_allclose(whole, [1 / perplexity], rtol=1e-6)
  np.testing.assert_allclose(whole, [0.566646], atol=1e-6)


def toy(correct, **options):
  correct = np.array([correct], bool)
  adv = advantages.grpo(correct.astype(np.float32))
  c_answer = arm.answer_confidence(LOGP_BT, MASK_BT)[None]
  c_prompt = arm.prompt_confidence(
    np.log(np.array([Q], np.float32)), np.ones((1, 10), bool)
  )
  return arm.reweight(adv, correct, c_prompt, c_answer, 0.3, **options)[0]


def test_golden_mixed_group():
  np.testing.assert_allclose(
    toy([1, 1, 0, 0]), [0.909166, 0.999998, -0.986513, -1.196513], atol=2e-6
  )


def test_golden_all_correct_group():
  np.testing.assert_allclose(
    toy([1, 1, 1, 1]), [-0.090832, 0, 0.013485, -0.196515], atol=2e-6
  )


def test_golden_centred_group():
  np.testing.assert_allclose(
    toy([1, 1, 1, 1], centre=True),
    [-0.022366, 0.068466, 0.081950, -0.128050],
    atol=2e-6,
  )


# Which tokens.


def test_tail_is_the_exact_ceil():
  counts = ops.tail_counts(40, 0.2)
  assert counts[[0, 1, 5, 6, 10, 11, 15, 16]].tolist() == [
    0,
    1,
    1,
    2,
    2,
    3,
    3,
    4,
  ]
  # 0.07 * 100 is 7.000000000000001 in binary; the tail is 7 tokens, not 8.
  assert 0.07 * 100 > 7
  assert ops.tail_counts(100, 0.07)[100] == 7


@pytest.mark.parametrize("percent", [1, 3, 7, 10, 30, 33, 55, 70, 99, 100])
def test_tail_is_the_exact_ceil_of_any_percentage(percent):
  n = np.arange(20_001)
  exact = -(-n * percent // 100)
  np.testing.assert_array_equal(ops.tail_counts(20_000, percent / 100), exact)


def test_at_least_one_token_counts():
  logp = np.log(np.array([[0.9, 0.5, 0.7]], np.float32))
  got = arm.answer_confidence(logp, np.ones((1, 3), bool), low_prob_share=0.01)
  np.testing.assert_allclose(got, [0.5], rtol=1e-6)
  assert ops.tail_counts(2, 1e-12).tolist() == [0, 1, 1]


def test_tail_mean_of_any_values():
  x = np.float32([[5, -1, 3, 9, np.nan], [2, 8, 4, 6, 7]])
  mask = np.array([[True, True, True, False, False], [True] * 5])
  np.testing.assert_allclose(ops.tail_mean(x, mask, 0.5), [1, 4])
  np.testing.assert_allclose(ops.tail_mean(x, mask, 1.0), [7 / 3, 5.4])
  weights = jax.grad(lambda x: jnp.sum(ops.tail_mean(x, mask, 0.5)))(
    jnp.asarray(x)
  )
  np.testing.assert_allclose(
    weights, [[0, 0.5, 0.5, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3, 0]]
  )


@pytest.mark.parametrize("junk", [0.0, -1e9, -np.inf, np.inf, np.nan])
@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_is_not_a_token(junk, left):
  pad = np.full((4, 5), junk, np.float32)
  off = np.zeros((4, 5), bool)
  order = slice(None, None, -1 if left else 1)
  logp = np.concatenate([LOGP_BT, pad][order], axis=1)
  mask = np.concatenate([MASK_BT, off][order], axis=1)
  np.testing.assert_allclose(
    arm.answer_confidence(logp, mask), C_ANSWER_PG[0], atol=1e-6
  )


def test_entropy_may_choose_the_tokens():
  # The two highest entropies stand at .9 and .5, not at the two lowest
  # probabilities; what is averaged are the probabilities all the same.
  logp = np.log(np.float32([[0.2, 0.9, 0.3, 0.5, 0.8, 0.1]]))
  entropy = np.float32([[0.1, 2.0, 0.3, 1.5, 0.4, np.nan]])
  mask = np.array([[True] * 5 + [False]])
  for confidence, name in (
    (arm.answer_confidence, "entropy_BT"),
    (arm.prompt_confidence, "entropy_PT"),
  ):
    np.testing.assert_allclose(
      confidence(logp, mask, 0.4, **{name: entropy}),
      [math.sqrt(0.9 * 0.5)],
      rtol=1e-6,
    )
    np.testing.assert_allclose(
      confidence(logp, mask, 0.4), [math.sqrt(0.2 * 0.3)], rtol=1e-6
    )


def test_entropy_that_falls_with_probability_chooses_the_same_tokens():
  np.testing.assert_array_equal(
    arm.answer_confidence(LOGP_BT, MASK_BT, entropy_BT=-LOGP_BT),
    arm.answer_confidence(LOGP_BT, MASK_BT),
  )
  # All tokens: nothing is left to choose.
  np.testing.assert_allclose(
    arm.answer_confidence(LOGP_BT, MASK_BT, 1.0, entropy_BT=LOGP_BT),
    arm.answer_confidence(LOGP_BT, MASK_BT, 1.0),
    rtol=1e-6,
  )


def test_share_is_of_each_response_not_of_the_batch():
  # 5 tokens: the lowest 1; 6 tokens: the lowest 2.
  logp = np.log(np.tile(np.float32([0.4, 0.1, 0.9, 0.9, 0.9, 0.9]), (2, 1)))
  mask = np.array([[True] * 5 + [False], [True] * 6])
  np.testing.assert_allclose(
    arm.answer_confidence(logp, mask), [0.1, 0.2], rtol=1e-6
  )


def test_empty_response_is_the_empty_product():
  got = arm.answer_confidence(np.full((1, 4), np.nan), np.zeros((1, 4), bool))
  np.testing.assert_array_equal(got, [1.0])


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_impossible_share_is_an_error(share):
  with pytest.raises(ValueError, match=str(share)):
    arm.answer_confidence(LOGP_BT, MASK_BT, low_prob_share=share)


# Which groups and which responses.


def test_all_wrong_group_is_left_alone_exactly():
  adv = np.float32([[0.1, -0.7, 1 / 3, 0.0]])
  got = arm.reweight(adv, np.zeros((1, 4), bool), C_PROMPT_P, C_ANSWER_PG, 0.3)
  np.testing.assert_array_equal(got, adv)


def test_all_correct_group_is_left_alone_when_only_mixed_ones_are_active():
  correct = np.array([[True] * 4, [True, False, False, False], [False] * 4])
  adv = np.zeros((3, 4), np.float32)
  c_answer = np.tile(C_ANSWER_PG, (3, 1))
  c_prompt = np.tile(C_PROMPT_P, 3)
  mixed = arm.reweight(adv, correct, c_prompt, c_answer, 0.3, active="mixed")
  literal = arm.reweight(adv, correct, c_prompt, c_answer, 0.3)
  assert np.any(np.asarray(mixed), axis=1).tolist() == [False, True, False]
  assert np.any(np.asarray(literal), axis=1).tolist() == [True, True, False]
  np.testing.assert_array_equal(mixed[1], literal[1])


def test_all_correct_groups_alone_if_asked():
  correct = np.array([[True] * 4, [True, False, False, False], [False] * 4])
  adv = np.zeros((3, 4), np.float32)
  arguments = correct, np.tile(C_PROMPT_P, 3), np.tile(C_ANSWER_PG, (3, 1)), 0.3
  alone = arm.reweight(adv, *arguments, active="all_correct")
  assert np.any(np.asarray(alone), axis=1).tolist() == [True, False, False]
  np.testing.assert_array_equal(alone[0], arm.reweight(adv, *arguments)[0])
  # The two kinds of active groups are all that the paper's formula shifts.
  np.testing.assert_array_equal(
    alone + arm.reweight(adv, *arguments, active="mixed"),
    arm.reweight(adv, *arguments),
  )


def test_right_and_wrong_responses_are_shifted_apart():
  """Together the two make up what is done to all."""
  arguments = ADV_PG, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG, 0.3
  wrong = arm.reweight(*arguments, apply_to="wrong")
  np.testing.assert_array_equal(wrong[CORRECT_PG], ADV_PG[CORRECT_PG])
  assert np.all(np.asarray(wrong)[~CORRECT_PG] != ADV_PG[~CORRECT_PG])
  np.testing.assert_array_equal(
    np.where(CORRECT_PG, arm.reweight(*arguments, apply_to="correct"), wrong),
    arm.reweight(*arguments),
  )


def test_only_correct_responses_if_asked():
  got = arm.reweight(
    ADV_PG, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG, 0.3, apply_to="correct"
  )
  np.testing.assert_allclose(
    got, [[1 + 0.3 * (0.244949 - 0.547723), 1, -1, -1]], atol=1e-6
  )
  np.testing.assert_array_equal(got[0, 2:], ADV_PG[0, 2:])


def test_centre_over_the_responses_it_applies_to():
  # Mean of .547723 and .244949 is .396336; the wrong ones have no say.
  got = arm.reweight(
    ADV_PG,
    CORRECT_PG,
    C_PROMPT_P,
    C_ANSWER_PG,
    0.3,
    apply_to="correct",
    centre=True,
  )
  shift = 0.3 * (0.396336 - 0.547723)
  np.testing.assert_allclose(got, [[1 + shift, 1 - shift, -1, -1]], atol=1e-6)


def test_centre_makes_the_prompt_irrelevant():
  got = [
    arm.reweight(
      ADV_PG, CORRECT_PG, np.float32([c]), C_ANSWER_PG, 0.3, centre=True
    )
    for c in (0.0, 1.0)
  ]
  np.testing.assert_array_equal(got[0], got[1])


def test_unknown_options_name_the_known_ones():
  arguments = ADV_PG, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG, 0.3
  with pytest.raises(ValueError, match="'some'.*any_correct.*mixed"):
    arm.reweight(*arguments, active="some")
  with pytest.raises(ValueError, match="'right'.*all.*correct.*wrong"):
    arm.reweight(*arguments, apply_to="right")


def test_masked_sample_is_neither_right_nor_wrong():
  valid = np.array([[True, True, True, False]])
  options = {"active": "mixed", "centre": True}
  correct = np.array([[True, True, True, False]])
  # Three right and one unknown: no wrong one is known, so not mixed.
  got = arm.reweight(
    ADV_PG, correct, C_PROMPT_P, C_ANSWER_PG, 0.3, valid_PG=valid, **options
  )
  np.testing.assert_array_equal(got, ADV_PG)
  # A verdict that says right of a response that is not valid is no verdict.
  got = arm.reweight(
    ADV_PG, ~valid, C_PROMPT_P, C_ANSWER_PG, 0.3, valid_PG=valid
  )
  np.testing.assert_array_equal(got, ADV_PG)
  # Nor has its confidence a part in the group's mean.
  got = arm.reweight(
    ADV_PG,
    CORRECT_PG,
    C_PROMPT_P,
    C_ANSWER_PG,
    0.3,
    valid_PG=valid,
    centre=True,
  )
  alone = arm.reweight(
    ADV_PG[:, :3],
    CORRECT_PG[:, :3],
    C_PROMPT_P,
    C_ANSWER_PG[:, :3],
    0.3,
    centre=True,
  )
  np.testing.assert_allclose(got[:, :3], alone, atol=1e-7)
  assert got[0, 3] == ADV_PG[0, 3]


def test_rewards_in_the_place_of_verdicts_are_refused():
  with pytest.raises(AssertionError, match="bool"):
    arm.reweight(
      ADV_PG, np.float32([[1, 1, -1, -1]]), C_PROMPT_P, C_ANSWER_PG, 0.3
    )


def test_shapes_are_named():
  with pytest.raises(AssertionError, match=r"\(1, 1\)"):
    arm.reweight(ADV_PG, CORRECT_PG, C_PROMPT_P[None], C_ANSWER_PG, 0.3)
  with pytest.raises(AssertionError, match=r"\(4, 1\)"):
    arm.reweight(ADV_PG, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG.T, 0.3)
  with pytest.raises(AssertionError, match=r"\(2,\)"):
    arm.reweight(ADV_PG, CORRECT_PG, np.ones(2), C_ANSWER_PG, 0.3)
  with pytest.raises(AssertionError, match=r"\(4, 9\)"):
    arm.answer_confidence(LOGP_BT, MASK_BT[:, 1:])
  with pytest.raises(AssertionError, match=r"\(4, 8\)"):
    arm.answer_confidence(LOGP_BT, MASK_BT, entropy_BT=LOGP_BT[:, 2:])


# Properties.


@hypothesis.given(
  groups(),
  st.sampled_from(arm.ACTIVE),
  st.sampled_from(arm.APPLY_TO),
  st.booleans(),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_shift_is_bounded_by_alpha(group, active, apply_to, centre):
  adv, correct, c_prompt, c_answer, valid = group
  got = arm.reweight(
    adv,
    correct,
    c_prompt,
    c_answer,
    0.3,
    active=active,
    apply_to=apply_to,
    centre=centre,
    valid_PG=valid,
  )
  assert got.shape == adv.shape
  assert got.dtype == jnp.float32
  assert np.all(np.abs(np.asarray(got) - adv) <= 0.3 + 1e-6)
  if centre:
    # Shifts of a group cancel: order without a push.
    np.testing.assert_allclose(
      np.sum(np.asarray(got) - adv, axis=1), 0, atol=1e-5
    )


@hypothesis.given(groups())
@hypothesis.settings(max_examples=40, deadline=None)
def test_less_confident_never_ranks_below_at_equal_advantage(group):
  adv, correct, c_prompt, c_answer, _ = group
  adv = np.zeros_like(adv)
  correct[:, 0] = True
  got = np.asarray(arm.reweight(adv, correct, c_prompt, c_answer, 0.3))
  for row, confidence in zip(got, c_answer):
    ordered = row[np.argsort(confidence, kind="stable")]
    assert np.all(np.diff(ordered) <= 0)


@hypothesis.given(groups())
@hypothesis.settings(max_examples=20, deadline=None)
def test_alpha_zero_is_the_base_method(group):
  adv, correct, c_prompt, c_answer, _ = group
  got = arm.reweight(adv, correct, c_prompt, c_answer, 0.0)
  np.testing.assert_array_equal(got, adv)


@pytest.mark.parametrize("centre", [True, False])
def test_no_gradient_flows_through_the_confidences(centre):
  def total(logp_BT, logp_PT):
    c_answer = arm.answer_confidence(logp_BT, MASK_BT).reshape(1, 4)
    c_prompt = arm.prompt_confidence(logp_PT, MASK_BT[:1])
    new = arm.reweight(
      ADV_PG, CORRECT_PG, c_prompt, c_answer, 0.3, centre=centre
    )
    return jnp.sum(new * jnp.arange(4.0))

  grads = jax.grad(total, argnums=(0, 1))(
    jnp.asarray(LOGP_BT), jnp.log(jnp.array([Q]))
  )
  for grad in grads:
    np.testing.assert_array_equal(grad, jnp.zeros_like(grad))


def test_jit_and_vmap_change_nothing():
  confidence = arm.answer_confidence(LOGP_BT, MASK_BT)
  np.testing.assert_allclose(
    jax.jit(arm.answer_confidence)(LOGP_BT, MASK_BT), confidence, rtol=1e-6
  )
  np.testing.assert_allclose(
    jax.vmap(arm.answer_confidence)(LOGP_BT[:, None], MASK_BT[:, None])[:, 0],
    confidence,
    rtol=1e-6,
  )
  by_entropy = functools.partial(arm.answer_confidence, entropy_BT=LOGP_BT)
  np.testing.assert_allclose(
    jax.jit(by_entropy)(LOGP_BT, MASK_BT),
    by_entropy(LOGP_BT, MASK_BT),
    rtol=1e-6,
  )
  call = functools.partial(arm.reweight, alpha=0.3)
  plain = call(ADV_PG, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG)
  arguments = ADV_PG, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG
  np.testing.assert_allclose(jax.jit(call)(*arguments), plain, rtol=1e-6)
  stacked = [np.stack([x, x]) for x in arguments]
  np.testing.assert_allclose(
    jax.vmap(call)(*stacked), np.stack([plain, plain]), rtol=1e-6
  )


# Metrics.


def test_metrics_by_hand():
  adv = np.float32([[0.1, -1.0], [0.0, 0.0], [0.2, -0.2]])
  correct = np.array([[True, False], [True, True], [False, False]])
  c_prompt = np.float32([0.2, 0.5, 0.9])
  c_answer = np.float32([[0.6, 0.4], [0.3, 0.5], [0.1, 0.1]])
  new = arm.reweight(adv, correct, c_prompt, c_answer, 0.5)
  got = arm.metrics(adv, new, correct, c_prompt, c_answer)
  gap = np.array([-0.4, -0.2, 0.2, 0.0, 0.8, 0.8])
  expected = {
    "arm/gap_mean": gap.mean(),
    "arm/gap_std": gap.std(),
    # 0.1 - 0.2 changes sign; advantages of 0 have none to change.
    "arm/sign_flip": 1 / 6,
    "arm/active_groups": 2 / 3,
    "arm/c_prompt_mean": 1.6 / 3,
    "arm/c_answer_mean": 2.0 / 6,
    "arm/bonus_abs_mean": 0.5 * (0.4 + 0.2 + 0.2) / 6,
  }
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    assert got[name].dtype == jnp.float32
    np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


def test_metrics_pass_over_masked_samples():
  valid = np.array([[True, True, True, False]])
  new = arm.reweight(
    ADV_PG, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG, 0.3, valid_PG=valid
  )
  got = arm.metrics(
    ADV_PG, new, CORRECT_PG, C_PROMPT_P, C_ANSWER_PG, valid_PG=valid
  )
  alone = arm.metrics(
    ADV_PG[:, :3], new[:, :3], CORRECT_PG[:, :3], C_PROMPT_P, C_ANSWER_PG[:, :3]
  )
  for name, value in alone.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


def test_metrics_count_active_groups_by_the_same_rule():
  correct = np.ones((1, 4), bool)
  got = arm.metrics(
    ADV_PG, ADV_PG, correct, C_PROMPT_P, C_ANSWER_PG, active="mixed"
  )
  assert got["arm/active_groups"] == 0
