"""What a base method gets of a batch, and ARM on top of it."""

import dataclasses

import numpy as np
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.algos import advantages, arm
from progrpo_jax.learn import advantage
from progrpo_jax.rollout import rewarding
from progrpo_jax.tasks import base as tasks

P, G, T = 2, 4, 5
LENGTH = np.array([[5, 1, 3, 2], [2, 2, 4, 5]])
REWARD = np.array([[1, 1, 0, 1], [0, 1, 0, 1]], np.float32)


def row(judge="progrpo_jax.rewards.math:score", **meta):
  return tasks.Row("task", "1+1=", "2", meta, verifier=judge)


def made(functions=0, weights=None):
  rng = np.random.default_rng(0)
  mask_BT = np.arange(T) < LENGTH.reshape(-1, 1)
  meta = {}
  if functions:
    meta = dict(
      functions=[f"mine.f{j}" for j in range(functions)],
      weights=weights,
      judge="progrpo_jax.rewards.functions:score",
    )
  return groups_lib.Groups(
    prompts=batch_lib.Prompts(
      tokens_PT=np.ones((P, 3), np.int32),
      mask_PT=np.ones((P, 3), bool),
      user_mask_PT=np.ones((P, 3), bool),
      ids_P=np.arange(P),
      rows=(row(**meta), row(**meta)),
    ),
    rollout=batch_lib.Rollout(
      tokens_BT=rng.integers(0, 3, (P * G, T)).astype(np.int32),
      mask_BT=mask_BT,
      logp_BT=np.where(mask_BT, -rng.random((P * G, T)), 0).astype(np.float32),
      finished_B=np.ones(P * G, bool),
    ),
    texts_PG=(("",) * G,) * P,
    reward_PG=REWARD,
    correct_PG=REWARD > 0,
    valid_PG=np.array([[True] * 4, [True, True, True, False]]),
    fresh_P=np.ones(P, bool),
    values_PGJ=rng.random((P, G, functions)).astype(np.float32),
  )


def scores(groups, prompts=True):
  rng = np.random.default_rng(1)
  mask_NRT = groups.rollout.mask_BT.reshape(P, G, T)
  logp_NRT = np.where(mask_NRT, -rng.random((P, G, T)), 0).astype(np.float32)
  # A number at padding, which nothing may read.
  return batch_lib.Scores(
    np.where(mask_NRT, logp_NRT, 99.0),
    prompt_logp_NT=-np.ones((P, 3), np.float32) if prompts else None,
  )


def test_a_base_method_gets_what_its_arguments_name():
  groups = made()
  scored = scores(groups)
  seen = {}

  def base(
    reward_PG,
    valid_PG,
    correct_PG,
    logp_PG,
    mean_logp_PG,
    logp_PGT,
    tokens_PGT,
    mask_PGT,
    *,
    scale=2.0,
  ):
    seen.update({k: v.shape for k, v in locals().items() if k in READ})
    return scale * logp_PG + mean_logp_PG + tokens_PGT[..., 0]

  READ = advantage.reads(base)
  assert READ == set(advantage.INPUTS) - {"components_PGJ", "weights_PJ"}
  out = advantage.Advantage(base)(groups.reward_PG, groups, scored)
  logp = np.where(groups.rollout.mask_BT.reshape(P, G, T), scored.logp_NRT, 0)
  total = logp.sum(axis=-1)
  first = groups.rollout.tokens_BT.reshape(P, G, T)[..., 0]
  np.testing.assert_allclose(
    out.base_PG, 2 * total + total / LENGTH + first, rtol=1e-5
  )
  assert seen["tokens_PGT"] == seen["mask_PGT"] == (P, G, T)
  # Where the verifier failed there is no advantage, whatever the method says.
  assert out.adv_PG[1, 3] == 0 != out.base_PG[1, 3]


@pytest.mark.parametrize("name", ["ucpo", "unlikeliness", "dra", "maxrl"])
def test_arm_re_weights_any_method(name):
  groups = made()
  scored = scores(groups)
  made_ = advantage.Advantage(
    getattr(advantages, name), 0.5, advantage.Arm(centre=True)
  )
  out = made_(groups.reward_PG, groups, scored)
  plain = dataclasses.replace(made_, alpha=0.0)(
    groups.reward_PG, groups, scored
  )
  np.testing.assert_array_equal(out.base_PG, plain.base_PG)
  expected = arm.reweight(
    out.base_PG,
    groups.correct_PG,
    np.zeros(P),
    out.c_answer_PG,
    0.5,
    centre=True,
    valid_PG=groups.valid_PG,
  )
  np.testing.assert_allclose(
    out.adv_PG, np.where(groups.valid_PG, expected, 0), rtol=1e-5, atol=1e-6
  )
  assert np.any(out.adv_PG != plain.adv_PG)


def test_arm_that_is_only_measured_needs_no_entropy():
  """With alpha 0 a batch may not be scored, whatever the tail."""
  groups = made()
  scored = scores(groups, prompts=False)
  of = {
    tail: advantage.Advantage(advantages.grpo, 0.0, advantage.Arm(tail=tail))(
      groups.reward_PG, groups, scored
    )
    for tail in ("entropy", "probability")
  }
  np.testing.assert_array_equal(of["entropy"].adv_PG, of["probability"].adv_PG)
  assert of["entropy"].metrics == of["probability"].metrics


def test_log_probs_are_the_samplers_where_nothing_was_scored():
  groups = made()
  sampled = batch_lib.Scores(groups.rollout.logp_BT.reshape(P, G, T))
  out = advantage.Advantage(advantages.ucpo)(groups.reward_PG, groups, sampled)
  mean = groups.rollout.logp_BT.reshape(P, G, T).sum(-1) / LENGTH
  np.testing.assert_allclose(
    out.base_PG,
    advantages.ucpo(REWARD, groups.correct_PG, mean, valid_PG=groups.valid_PG),
    rtol=1e-5,
  )


def test_terms_of_a_reward_by_a_verifier_and_what_shaping_added():
  groups = made()
  shaped = REWARD - np.float32(0.25) * (LENGTH > 3)
  values, weights = rewarding.components(groups, shaped)
  np.testing.assert_array_equal(values[..., 0], REWARD)
  np.testing.assert_array_equal(values[..., 1], -0.25 * (LENGTH > 3))
  np.testing.assert_array_equal(weights, np.ones((P, 2)))
  out = advantage.Advantage(advantages.gdpo)(shaped, groups, scores(groups))
  np.testing.assert_allclose(
    out.base_PG,
    advantages.gdpo(values, weights, valid_PG=groups.valid_PG),
    rtol=1e-5,
  )
  # Without shaping the last term is the same for all, and adds nothing.
  plain = advantage.Advantage(advantages.gdpo)(REWARD, groups, scores(groups))
  alone = advantages.gdpo(REWARD[..., None], valid_PG=groups.valid_PG)
  np.testing.assert_allclose(plain.base_PG, alone, rtol=1e-5)


def test_terms_of_a_reward_by_functions_have_their_weights():
  groups = made(functions=2, weights=[2.0, 0.5])
  values, weights = rewarding.components(groups, REWARD)
  np.testing.assert_array_equal(values[..., :2], groups.values_PGJ)
  np.testing.assert_array_equal(weights, [[2.0, 0.5, 1.0]] * P)
  assert np.all(rewarding.components(made(functions=2), REWARD)[1] == 1)


def test_a_prompt_without_functions_beside_one_with_them():
  groups = made(functions=2, weights=[2.0, 0.5])
  mixed = dataclasses.replace(
    groups,
    prompts=dataclasses.replace(
      groups.prompts, rows=(groups.prompts.rows[0], row())
    ),
  )
  mixed.values_PGJ[1] = np.nan
  values, weights = rewarding.components(mixed, REWARD)
  np.testing.assert_array_equal(values[1, :, 0], REWARD[1])
  assert np.all(np.isnan(values[1, :, 1]))
  np.testing.assert_array_equal(weights, [[2.0, 0.5, 1.0], [1.0, 0.0, 1.0]])
  out = advantage.Advantage(advantages.gdpo)(REWARD, mixed, scores(mixed))
  assert np.all(np.isfinite(out.base_PG)) and np.any(out.base_PG[1])


def test_how_far_a_method_is_from_grpo():
  groups = made()
  own = advantage.Advantage(advantages.grpo)(REWARD, groups, scores(groups))
  assert own.metrics["advantage/moved_right"] == 0
  assert own.metrics["advantage/moved_wrong"] == 0
  # MaxRL divides by the mean in the place of the deviation. Rewards 1, 1, 0, 1
  # and 0, 1, 0 (the fourth has no verdict): means 3/4 and 1/3, deviations
  # sqrt(3)/4 and sqrt(2)/3.
  moved = advantage.Advantage(advantages.maxrl)(
    REWARD, groups, scores(groups)
  ).metrics
  spread, mean = np.array([3**0.5 / 4, 2**0.5 / 3]), np.array([3 / 4, 1 / 3])
  right = np.array([3 * 1 / 4, 1 * 2 / 3])  # sums of |reward - mean|
  wrong = np.array([1 * 3 / 4, 2 * 1 / 3])
  for name, sizes in (("right", right), ("wrong", wrong)):
    want = np.abs(sizes / mean - sizes / spread).sum() / (sizes / spread).sum()
    assert moved[f"advantage/moved_{name}"] == pytest.approx(want, rel=1e-4)
  # Groups of equal rewards have no advantage to be moved.
  same = np.ones_like(REWARD)
  still = advantage.Advantage(advantages.maxrl)(same, groups, scores(groups))
  assert still.metrics["advantage/moved_right"] == 0
