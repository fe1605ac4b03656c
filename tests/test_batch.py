"""The records of a batch: trees of arrays, and the two forms of advantages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.tasks import base


def inputs(**changes):
  zeros = jnp.zeros((2, 3))
  return batch.LossInputs(
    logp_BT=zeros, old_logp_BT=zeros, mask_BT=zeros == 0, **changes
  )


def test_advantages_of_sequences_are_spread_over_their_tokens():
  spread = inputs(adv_B=jnp.array([1.0, -2.0])).token_adv_BT
  np.testing.assert_array_equal(spread, [[1, 1, 1], [-2, -2, -2]])


def test_advantages_of_tokens_stay():
  adv = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(inputs(adv_BT=adv).token_adv_BT, adv)


@pytest.mark.parametrize(
  "changes", [{}, dict(adv_B=jnp.zeros(2), adv_BT=jnp.zeros((2, 3)))]
)
def test_neither_or_both_forms_of_advantages_are_refused(changes):
  with pytest.raises(ValueError, match="either adv_B or adv_BT"):
    _ = inputs(**changes).token_adv_BT


def test_records_are_trees_whose_absent_parts_have_no_leaves():
  given = inputs(adv_B=jnp.zeros(2))
  assert len(jax.tree.leaves(given)) == 4
  doubled = jax.jit(lambda x: jax.tree.map(lambda a: a, x))(given)
  assert isinstance(doubled, batch.LossInputs)
  assert doubled.ref_logp_BT is None and doubled.adv_BT is None


def test_number_of_prompts_is_that_of_their_rows():
  prompts = batch.Prompts(
    tokens_PT=np.zeros((2, 5), np.int32),
    mask_PT=np.ones((2, 5), bool),
    user_mask_PT=np.ones((2, 5), bool),
    ids_P=np.arange(2),
    rows=("a", "b"),
  )
  assert len(prompts) == 2


def digest(tokens=(5, 6), mask=(True, True), **parts):
  parts = dict(task="sums", prompt="1+1=", reference=2, meta={}) | parts
  return batch.Prompts(
    tokens_PT=np.array([tokens], np.int32),
    mask_PT=np.array([mask]),
    user_mask_PT=np.array([mask]),
    ids_P=np.arange(1),
    rows=(base.Row(**parts),),
  ).digest()


def test_digests_of_prompts_tell_what_is_sampled_and_verified():
  assert digest() == digest() != ""
  # An object's text has its address, which is no difference.
  assert digest(meta=object()) == digest(meta=object()) != digest()
  assert digest(place="line 1") == digest()
  different = [
    digest(tokens=(5, 7)),
    digest(mask=(False, True)),
    digest(tokens=(0, 5, 6), mask=(False, True, True)),
    digest(reference=3),
    digest(prompt="1+1 ="),
    digest(meta={"tests": [1]}),
    digest(verifier="math"),
    digest(context=({"role": "system", "content": "Briefly."},)),
  ]
  assert len({digest(), *different}) == 1 + len(different)
