"""The update: exact at its beginning, the same however cut, safe from NaN."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax import ops, packing
from progrpo_jax.algos import aggregate, kl, losses
from progrpo_jax.algos import objective as objective_lib
from progrpo_jax.learn import optim, update
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import lora, scoring, transformer

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=40, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
)
N, R, P, T = 12, 2, 5, 6
DIST = scoring.Distribution(temperature=0.8, chunk=16)
TX = optim.adamw(optim.schedule(0.003), weight_decay=0.1)
OBJECTIVE = functools.partial(
  objective_lib.objective,
  loss_fn=losses.clip,
  kl_fn=kl.k3,
  beta=0.1,
  aggregate_fn=aggregate.token_mean,
  entropy_coef=0.01,
)
FIRST, LATER = np.bool_(True), np.bool_(False)
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def params(random_params):
  """On the host, so that no donation can take them."""
  return jax.device_get(random_params(CONFIG))


def sequences():
  """Responses of all lengths to none, prompts too."""
  rng = np.random.default_rng(5)
  length = rng.integers(0, T + 1, (N, R))
  length[0] = [T, 0]
  return batch_lib.Sequences(
    prompt_NT=rng.integers(0, 40, (N, P), np.int32),
    prompt_mask_NT=np.arange(P) >= rng.integers(0, P, (N, 1)),
    tokens_NRT=rng.integers(0, 40, (N, R, T), np.int32),
    mask_NRT=np.arange(T) < length[..., None],
  )


@pytest.fixture(scope="module")
def batch(params):
  """Scored by these parameters, in other micro-batches than the update's."""
  q = sequences()
  scores = jax.device_get(
    scoring.score(CONFIG, params, q, DIST, packing.Layout(rows=3))
  )
  rng = np.random.default_rng(6)
  return batch_lib.TrainBatch(
    sequences=q,
    old_logp_NRT=scores.logp_NRT,
    ref_logp_NRT=scores.logp_NRT,
    adv_NR=rng.normal(size=(N, R)).astype(np.float32),
    fresh_NR=np.ones((N, R), bool),
  )


LAYOUT = packing.Layout(tokens=24, rows=2)


def half(batch, index):
  """One of two minibatches."""
  return update.pack(
    update.take_prompts(batch, np.arange(index, N, 2), N), LAYOUT
  )


@pytest.fixture(scope="module")
def run():
  """On a minibatch of several micro-batches: compiled once for all tests."""
  compiled = update.make(CONFIG, TX, OBJECTIVE, DIST)

  def call(state, batch, index, first, key):
    return compiled(state, half(batch, int(index)), first, key)

  call.compiled = compiled
  return call


def state(params, skipped=0):
  params = jax.tree.map(jnp.array, params)
  return state_lib.TrainState(
    params=params,
    opt_state=jax.jit(TX.init)(params),
    skipped=jnp.int32(skipped),
  )


def mean(metrics, name):
  total, count = metrics[name]
  return float(total / count)


def equal(a, b):
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b)
  )


def close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_first_update_is_on_policy_exactly_and_later_ones_are_not(
  params, batch, run
):
  now, metrics = run(state(params), batch, np.int32(0), FIRST, KEY)
  total, count = metrics["ratio/mean"]
  assert total == count == batch.sequences.mask_NRT[::2].sum()
  assert mean(metrics, "ratio/square_mean") == 1.0
  assert mean(metrics, "clip_ratio/region_mean") == 0.0
  assert mean(metrics, "kl") == 0.0
  assert mean(metrics, "skipped_updates") == 0.0
  assert mean(metrics, "grad_norm") > 0
  now, metrics = run(now, batch, np.int32(1), LATER, KEY)
  assert mean(metrics, "ratio/square_mean") != 1.0
  assert mean(metrics, "clip_ratio/region_mean") > 0
  assert mean(metrics, "kl") > 0


def test_loss_goes_down_on_a_batch_learned_again(params, batch, run):
  now, seen = state(params), []
  for i in range(6):
    now, metrics = run(now, batch, np.int32(0), np.bool_(i == 0), KEY)
    seen.append(mean(metrics, "loss"))
  assert seen[-1] < seen[0] - 0.1


def test_responses_of_an_earlier_policy_keep_their_own_log_probs(params, batch):
  fresh = batch.fresh_NR.copy()
  fresh[1::3] = False
  old = np.where(fresh[..., None], batch.old_logp_NRT, batch.old_logp_NRT - 0.3)
  given = batch.replace(fresh_NR=fresh, old_logp_NRT=np.float32(old))
  given = update.pack(given, LAYOUT)
  read = jax.jit(functools.partial(update.loss_inputs, CONFIG, dist=DIST))
  inputs = read(params, given, first=FIRST, key=KEY)
  logp = np.asarray(inputs.logp_BT).reshape(N, R, T)
  mask = batch.sequences.mask_NRT
  np.testing.assert_array_equal(
    np.asarray(inputs.mask_BT).reshape(N, R, T), mask
  )
  old, is_fresh = np.where(mask, old, 0), fresh[..., None] & mask
  np.testing.assert_array_equal(logp[is_fresh], np.float32(old)[is_fresh])
  np.testing.assert_allclose(
    logp[~fresh], batch.old_logp_NRT[~fresh], atol=1e-5
  )
  # Afterwards nothing is put in the place of what the policy says.
  moved = jax.tree.map(lambda x: 1.1 * x, params)
  later = np.asarray(read(moved, given, first=LATER, key=KEY).logp_BT)
  scores = scoring.score(CONFIG, moved, batch.sequences, DIST)
  np.testing.assert_allclose(later.reshape(N, R, T), scores.logp_NRT, atol=1e-4)


RULES = (
  aggregate.token_mean,
  aggregate.sequence_mean,
  functools.partial(aggregate.constant, length=T),
)


@jax.jit
def packed_gradient(params, batch, rule, first):
  """Loss and gradient under one of `RULES`: one compilation for all."""

  def objective(inputs):
    loss_BT, metrics = losses.clip(inputs)
    args = loss_BT, inputs.mask_BT
    pairs = [f(*args) for f in RULES[:2]]
    pairs.append(RULES[2](*args, sequences=inputs.sequences))
    total, count = (jnp.stack(x)[rule] for x in zip(*pairs))
    return total, count, metrics

  loss, gradient, _ = update.minibatch_gradient(
    CONFIG,
    params,
    {},
    batch,
    scoring.Distribution(temperature=0.8, chunk=16),
    objective,
    first,
    KEY,
  )
  return loss, gradient


def gradient_of(params, batch, rule, first, layout=LAYOUT):
  return packed_gradient(params, update.pack(batch, layout), rule, first)


@functools.partial(jax.jit, static_argnames=("config", "rule"))
def plain_gradient(params, batch, rule, config=CONFIG, temperature=0.8):
  """The same, transcribed: each response padded behind its padded prompt."""
  q = batch.sequences
  rows = jnp.concatenate(
    [jnp.repeat(q.prompt_NT, R, 0), q.tokens_NRT.reshape(-1, T)], axis=1
  )
  mask = q.mask_NRT.reshape(-1, T)
  real = jnp.concatenate([jnp.repeat(q.prompt_mask_NT, R, 0), mask], axis=1)

  def total(params):
    logits = transformer.logits(config, params, rows, real)
    logp = jax.nn.log_softmax(logits / temperature)[:, P - 1 : -1]
    logp = jnp.take_along_axis(logp, rows[:, P:, None], axis=2)[..., 0]
    inputs = batch_lib.LossInputs(
      logp_BT=logp,
      old_logp_BT=batch.old_logp_NRT.reshape(-1, T),
      mask_BT=mask,
      adv_B=batch.adv_NR.reshape(-1),
    )
    value, count = RULES[rule](losses.clip(inputs)[0], mask)
    return value / count

  return jax.value_and_grad(total)(params)


def of_one_response(batch):
  """The same sequences, each with a prompt of its own."""
  q = batch.sequences
  return batch.replace(
    sequences=batch_lib.Sequences(
      prompt_NT=np.repeat(q.prompt_NT, R, 0),
      prompt_mask_NT=np.repeat(q.prompt_mask_NT, R, 0),
      tokens_NRT=q.tokens_NRT.reshape(-1, 1, T),
      mask_NRT=q.mask_NRT.reshape(-1, 1, T),
    ),
    old_logp_NRT=batch.old_logp_NRT.reshape(-1, 1, T),
    ref_logp_NRT=batch.ref_logp_NRT.reshape(-1, 1, T),
    adv_NR=batch.adv_NR.reshape(-1, 1),
    fresh_NR=batch.fresh_NR.reshape(-1, 1),
  )


@pytest.mark.parametrize("rule", range(len(RULES)))
def test_gradient_of_packed_rows_is_that_of_padded_sequences(
  params, batch, rule
):
  """However rows and micro-batches are cut, and prompts shared or not."""
  moved = batch.replace(old_logp_NRT=batch.old_logp_NRT + np.float32(0.05))
  expected = plain_gradient(params, moved, rule)
  assert optax.tree.norm(expected[1]) > 0.1
  for found in (
    gradient_of(params, moved, rule, LATER),
    gradient_of(params, moved, rule, LATER, packing.Layout(rows=12, tokens=99)),
    gradient_of(params, of_one_response(moved), rule, LATER),
  ):
    close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_packed_adapters_is_that_of_padded_sequences(
  random_params, batch
):
  config = dataclasses.replace(
    CONFIG,
    lora=config_lib.LoRA(rank=2, alpha=4.0, targets=("q_proj", "down_proj")),
  )
  moved = batch.replace(old_logp_NRT=batch.old_logp_NRT + np.float32(0.05))
  # Both factors are drawn: with B = 0 the gradient of A would be 0.
  params = random_params(config)
  trained, frozen = lora.split(config, params)
  loss, expected = plain_gradient(params, moved, 0, config=config)

  def objective(inputs):
    loss_BT, metrics = losses.clip(inputs)
    return *aggregate.token_mean(loss_BT, inputs.mask_BT), metrics

  found = update.minibatch_gradient(
    config,
    trained,
    frozen,
    update.pack(moved, LAYOUT),
    DIST,
    objective,
    LATER,
    KEY,
  )
  wanted = lora.split(config, expected)[0]
  assert optax.tree.norm(wanted) > 0.1
  close(found[:2], (loss, wanted), rtol=1e-4, atol=1e-5)


def test_gradient_of_packed_flowrl_is_that_of_padded_sequences(
  random_params, batch
):
  """Log Z of a prompt, dropout included, from the prompt's padded row."""
  params = random_params(FLOW)
  ids_N = np.arange(N, dtype=np.uint32)
  given = batch.replace(base_advantage_NR=batch.adv_NR, id_N=ids_N)
  dropout = jax.random.split(KEY)[0]

  def objective(inputs):
    loss_BT, metrics = losses.flowrl(inputs, beta=1.0)
    return *aggregate.token_mean(loss_BT, inputs.mask_BT), metrics

  @jax.value_and_grad
  def plain(params):
    q = batch.sequences
    rows = jnp.concatenate(
      [jnp.repeat(q.prompt_NT, R, 0), q.tokens_NRT.reshape(-1, T)], axis=1
    )
    mask = q.mask_NRT.reshape(-1, T)
    real = jnp.concatenate([jnp.repeat(q.prompt_mask_NT, R, 0), mask], axis=1)
    hidden, _ = transformer.prefill(FLOW, params, rows, real)
    logits = ops.matmul_logits(hidden, transformer.head(params))
    logp = jax.nn.log_softmax(logits / DIST.temperature)[:, P - 1 : -1]
    logp = jnp.take_along_axis(logp, rows[:, P:, None], axis=2)[..., 0]
    prompt = real[:, :P, None]
    mean = jnp.sum(jnp.where(prompt, hidden[:, :P], 0), 1) / prompt.sum(1)
    keys = jax.vmap(lambda i: jax.random.fold_in(dropout, i))(ids_N)
    value, count, _ = objective(
      batch_lib.LossInputs(
        logp_BT=logp,
        old_logp_BT=batch.old_logp_NRT.reshape(-1, T),
        ref_logp_BT=batch.ref_logp_NRT.reshape(-1, T),
        mask_BT=mask,
        adv_B=batch.adv_NR.reshape(-1),
        reward_B=batch.adv_NR.reshape(-1),
        log_z_B=transformer.log_z(FLOW, params, mean, jnp.repeat(keys, R)),
      )
    )
    return value / count

  found = update.minibatch_gradient(
    FLOW, params, {}, update.pack(given, LAYOUT), DIST, objective, LATER, KEY
  )
  expected = plain(params)
  assert optax.tree.norm(expected[1]["log_z"]) > 0.01
  close(found[:2], expected, rtol=1e-4, atol=1e-4)


def test_without_scores_the_first_update_takes_its_own_log_probs(params, batch):
  """The sampler's stay those of responses that an earlier policy sampled."""
  fresh = batch.fresh_NR.copy()
  fresh[1::3] = False
  sampled = batch.old_logp_NRT + np.float32(0.25)
  given = batch.replace(fresh_NR=fresh, old_logp_NRT=sampled)
  own = batch.replace(
    fresh_NR=fresh,
    old_logp_NRT=np.where(fresh[..., None], batch.old_logp_NRT, sampled),
  )

  def gradient(batch, **options):
    rows = update.pack(batch, LAYOUT)
    return jax.jit(
      lambda params, rows: update.minibatch_gradient(
        CONFIG, params, {}, rows, DIST, OBJECTIVE, FIRST, KEY, **options
      )
    )(params, rows)

  loss, found, metrics = gradient(given, scored=False)
  close((loss, found), gradient(own, scored=True)[:2], rtol=1e-4, atol=1e-6)
  difference = metrics["sampling/logp_difference_mean"]
  assert difference[1] == np.sum(batch.sequences.mask_NRT & fresh[..., None])
  assert difference[0] / difference[1] == pytest.approx(0.25, rel=1e-4)
  # A loss that must see the whole minibatch says the same.
  whole = gradient(given, scored=False, whole=True)
  close(whole[2], metrics, rtol=1e-4, atol=1e-4)
  assert metrics["entropy/kept"][1] == np.sum(batch.sequences.mask_NRT)
  # Of fresh responses the ratio is 1, to the bit.
  fresh_only = batch.replace(old_logp_NRT=sampled)
  metrics = gradient(fresh_only, scored=False)[2]
  assert mean(metrics, "ratio/square_mean") == 1.0


# Every loss that draws or compares tokens, and dropout in the head that
# estimates log Z, in one objective: compiled once a cut.
FLOW = dataclasses.replace(CONFIG, partition_head=True)


def _all_at_once(inputs):
  terms = [
    losses.clip_cov(inputs, share=0.05, cov_low=0.0),
    losses.kl_cov(inputs, share=0.3),
    losses.high_entropy(inputs, share=0.4),
    losses.flowrl(inputs, beta=1.0),
  ]
  loss_BT = sum(loss_BT for loss_BT, _ in terms)
  total, count = aggregate.token_mean(loss_BT, inputs.mask_BT)
  return total, count, terms[0][1] | terms[1][1] | terms[2][1]


@jax.jit
def gradient_of_all(params, batch):
  return update.minibatch_gradient(
    FLOW, params, {}, batch, DIST, _all_at_once, LATER, KEY, whole=True
  )


@pytest.mark.parametrize(
  "per_row, layout",
  [(4, packing.Layout(rows=1)), (1, packing.Layout(tokens=24, rows=2))],
)
def test_cut_does_not_matter_to_losses_that_see_the_whole_minibatch(
  random_params, batch, per_row, layout
):
  """Six prompts of four responses, cut into bundles, rows, micro-batches."""
  params = random_params(FLOW)
  rng = np.random.default_rng(8)
  prompts = slice(None, None, 2)

  def cut(per_row):
    def rows(x):
      return x.reshape(-1, per_row, *x.shape[2:])

    def repeated(x):
      return np.repeat(x[prompts], 4 // per_row, axis=0)

    q = batch.sequences
    return batch.replace(
      sequences=batch_lib.Sequences(
        prompt_NT=repeated(q.prompt_NT),
        prompt_mask_NT=repeated(q.prompt_mask_NT),
        tokens_NRT=rows(q.tokens_NRT),
        mask_NRT=rows(q.mask_NRT),
      ),
      old_logp_NRT=rows(moved),
      ref_logp_NRT=rows(batch.ref_logp_NRT),
      adv_NR=rows(batch.adv_NR),
      base_advantage_NR=rows(batch.adv_NR),
      fresh_NR=rows(batch.fresh_NR),
      id_N=np.repeat(np.arange(6, dtype=np.uint32), 4 // per_row),
    )

  moved = batch.old_logp_NRT + rng.normal(scale=0.2, size=(N, R, T)).astype(
    np.float32
  )
  whole = gradient_of_all(
    params, update.pack(cut(4), packing.Layout(tokens=120, rows=6))
  )
  parts = gradient_of_all(params, update.pack(cut(per_row), layout))
  assert (
    0 < whole[2]["clip_cov/dropped"][0] < whole[2]["clip_cov/candidates"][0]
  )
  kept, tokens = whole[2]["high_entropy/kept"]
  assert kept == np.ceil(0.4 * tokens) > 1
  assert optax.tree.norm(whole[1]["log_z"]) > 0.01
  # The largest entries of the gradient are about 50.
  close(parts, whole, rtol=1e-4, atol=5e-4)


def test_rules_differ_on_ragged_responses(params, batch):
  norms = [
    float(optax.tree.norm(gradient_of(params, batch, i, FIRST)[1]))
    for i in range(3)
  ]
  assert len({round(x, 3) for x in norms}) == 3


def test_value_put_in_the_place_of_another_keeps_the_gradient(params, batch):
  close(
    gradient_of(params, batch, 0, FIRST),
    gradient_of(params, batch, 0, LATER),
    rtol=1e-3,
    atol=1e-5,
  )


def test_masked_responses_have_no_influence(params, batch, run):
  mask = batch.sequences.mask_NRT.copy()
  mask[2] = mask[5, 0] = False
  silent = batch.replace(sequences=batch.sequences.replace(mask_NRT=mask))
  noise = np.where(mask, 0, np.float32(np.nan))
  off = ~mask.any(axis=-1)
  loud = silent.replace(
    sequences=silent.sequences.replace(
      tokens_NRT=np.where(mask, silent.sequences.tokens_NRT, 7)
    ),
    old_logp_NRT=silent.old_logp_NRT + noise,
    ref_logp_NRT=silent.ref_logp_NRT + noise,
    adv_NR=np.where(off, np.float32(np.nan), silent.adv_NR),
  )
  a, metrics_a = run(state(params), silent, np.int32(0), FIRST, KEY)
  b, metrics_b = run(state(params), loud, np.int32(0), FIRST, KEY)
  equal(a, b)
  equal(metrics_a, metrics_b)
  c, _ = run(state(params), batch, np.int32(0), FIRST, KEY)
  assert (a.params["embed"]["tokens"] != c.params["embed"]["tokens"]).any()


def test_update_without_a_token_changes_nothing_and_is_counted(
  params, batch, run
):
  """Nor the moments and the schedule, by which Adam moves on by itself."""
  before, _ = run(state(params), batch, np.int32(0), FIRST, KEY)
  before = jax.device_get(before)
  nothing = batch.replace(
    sequences=batch.sequences.replace(mask_NRT=np.zeros((N, R, T), bool))
  )
  after, metrics = run(
    jax.tree.map(jnp.array, before), nothing, np.int32(0), LATER, KEY
  )
  equal((after.params, after.opt_state), (before.params, before.opt_state))
  assert after.skipped == 1
  assert mean(metrics, "skipped_updates") == 1.0
  assert mean(metrics, "empty_updates") == 1.0
  assert metrics["loss"][1] == metrics["grad_norm"][1] == 0.0
  good, metrics = run(after, batch, np.int32(1), LATER, KEY)
  assert good.skipped == 0 and mean(metrics, "empty_updates") == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_update_that_is_not_finite_changes_nothing_and_is_counted(
  params, batch, run, value
):
  before, _ = run(state(params), batch, np.int32(0), FIRST, KEY)
  before = jax.device_get(before)
  bad = batch.adv_NR.copy()
  bad[0, 0] = value  # its response has tokens
  after, metrics = run(
    jax.tree.map(jnp.array, before),
    batch.replace(adv_NR=bad),
    np.int32(0),
    LATER,
    KEY,
  )
  equal((after.params, after.opt_state), (before.params, before.opt_state))
  assert after.skipped == 1
  assert mean(metrics, "skipped_updates") == 1.0
  assert metrics["loss"][1] == metrics["grad_norm"][1] == 0.0
  again, _ = run(after, batch.replace(adv_NR=bad), np.int32(0), LATER, KEY)
  assert again.skipped == 2
  good, _ = run(again, batch, np.int32(1), LATER, KEY)
  assert good.skipped == 0
  assert (good.params["norm"]["scale"] != before.params["norm"]["scale"]).any()


@pytest.mark.parametrize("rate", [np.nan, np.inf, 1e38, 1e30])
def test_update_whose_result_is_not_finite_changes_nothing(rate):
  """The loss and the gradient are; the weights would not be, or so great that
  their norm is not."""
  tx = optim.adamw(lambda _: rate, weight_decay=0.1)
  params = {"w": jnp.ones(3)}
  before = tx.init(params)
  gradient = {"w": jnp.array([1.0, 2.0, 3.0])}
  after, opt_state, finite = jax.jit(lambda *a: optim.apply_if_finite(tx, *a))(
    0.5, gradient, before, params
  )
  assert not finite
  equal((after, opt_state), (params, before))


def test_update_whose_moments_are_not_finite_changes_nothing():
  tx = optim.adamw(lambda _: 1e-3, max_grad_norm=None)
  params = {"w": jnp.ones(3)}
  before = tx.init(params)
  # Its square is beyond float32, its norm, of one number alone, is not.
  gradient = {"w": jnp.array([0.0, 0.0, 1.2e19])}
  moments = jax.tree.map(
    lambda x: jnp.full_like(x, 3.4e38) if x.shape else x, before
  )
  after, opt_state, finite = optim.apply_if_finite(
    tx, jnp.float32(0.5), gradient, moments, params
  )
  assert not finite
  equal((after, opt_state), (params, moments))


def test_refused_results_are_counted(params, batch):
  """Through the whole update, as a run calls it."""
  run = update.make(CONFIG, optim.adamw(lambda _: jnp.nan), OBJECTIVE, DIST)
  before = jax.device_get(state(params))
  packed = update.pack(batch, LAYOUT)
  after, metrics = run(state(params), packed, FIRST, KEY)
  equal((after.params, after.opt_state), (before.params, before.opt_state))
  assert after.skipped == 1 and mean(metrics, "skipped_updates") == 1.0


def test_weight_that_is_not_finite_is_seen(params, batch, run):
  broken = jax.tree.map(np.copy, params)
  broken["norm"]["scale"][3] = np.nan
  before = jax.device_get(state(broken))
  after, metrics = run(state(broken), batch, np.int32(0), FIRST, KEY)
  equal((after.params, after.opt_state), (before.params, before.opt_state))
  assert after.skipped == 1 and mean(metrics, "skipped_updates") == 1.0
  # What could not be measured is left out: a step's means stay finite.
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics)), metrics


def test_state_that_goes_in_is_donated(params, batch, run):
  given = state(params)
  after, _ = run(given, batch, np.int32(0), FIRST, KEY)
  assert all(
    x.is_deleted() for x in jax.tree.leaves((given.params, given.opt_state))
  )
  assert not any(x.is_deleted() for x in jax.tree.leaves(after))


def test_other_batches_and_minibatches_compile_nothing(params, batch, run):
  now, _ = run(state(params), batch, np.int32(0), FIRST, KEY)
  before = run.compiled._cache_size()
  now, _ = run(now, batch, np.int32(1), LATER, KEY)
  turned = jax.tree.map(lambda x: x[::-1].copy(), batch)
  run(now, turned, np.int32(0), FIRST, KEY)
  assert run.compiled._cache_size() == before


def test_advantages_of_tokens_take_the_place_of_those_of_responses(
  params, batch, run
):
  """What stands at tokens that do not count, or by response, is not read."""
  mask = batch.sequences.mask_NRT
  same = batch.replace(
    adv_NR=np.full_like(batch.adv_NR, np.nan),
    adv_NRT=np.where(mask, batch.adv_NR[..., None], np.float32(np.nan)),
  )
  expected, _ = run(state(params), batch, np.int32(0), FIRST, KEY)
  got, metrics = run(state(params), same, np.int32(0), FIRST, KEY)
  assert mean(metrics, "skipped_updates") == 0.0
  close(got.params, expected.params, rtol=1e-5, atol=1e-6)

  # Each token has its own, wherever its response was packed.
  rng = np.random.default_rng(9)
  own = batch.replace(
    adv_NRT=rng.normal(size=mask.shape).astype(np.float32) * mask
  )
  rows, given = jax.tree.map(jnp.asarray, (update.pack(own, LAYOUT), params))
  inputs = update.loss_inputs(CONFIG, given, rows, DIST, LATER, KEY)
  assert inputs.adv_B is None
  np.testing.assert_array_equal(
    inputs.adv_BT, own.adv_NRT.reshape(inputs.adv_BT.shape)
  )


def test_a_token_that_the_policy_did_not_write_has_no_gradient(
  params, batch, run
):
  """It is context: its own log-prob is in no loss, be its inputs NaN."""
  mask = batch.sequences.mask_NRT.copy()
  mask[..., 1:3] = False  # a reply, wherever a response is long enough
  holes = ~mask & (np.arange(T) < batch_lib.extents(mask)[..., None])
  assert holes.any() and (mask & (np.arange(T) > 2)).any()
  talk = batch.replace(sequences=batch.sequences.replace(mask_NRT=mask))

  def learnt(filled):
    changed = np.where(holes, np.float32(filled), batch.old_logp_NRT)
    given = talk.replace(old_logp_NRT=changed, ref_logp_NRT=changed)
    return run(state(params), given, np.int32(0), FIRST, KEY)

  (one, metrics), (other, _) = learnt(-1.0), learnt(np.nan)
  assert mean(metrics, "skipped_updates") == 0.0
  assert mean(metrics, "grad_norm") > 0
  assert metrics["ratio/mean"][1] == mask[::2].sum()
  equal(one.params, other.params)

  # The packed gradient of the log-probs is that of a plain pass over the
  # tokens that were written, and another with the reply's among them.
  rows = jax.tree.map(jnp.asarray, update.pack(talk, LAYOUT))

  def packed(params):
    read = update.loss_inputs(CONFIG, params, rows, DIST, LATER, KEY)
    return jnp.sum(jnp.where(read.mask_BT, read.logp_BT, 0.0))

  q = talk.sequences
  tokens = np.concatenate(
    [np.repeat(q.prompt_NT, R, 0), q.tokens_NRT.reshape(-1, T)], axis=1
  )
  real = np.arange(T) < batch_lib.extents(mask)[..., None]
  seen = np.concatenate(
    [np.repeat(q.prompt_mask_NT, R, 0), real.reshape(-1, T)], axis=1
  )

  def plain(params, counted):
    logits = transformer.logits(CONFIG, params, tokens, seen) / DIST.temperature
    logp = jax.nn.log_softmax(logits)[:, P - 1 : -1]
    logp = jnp.take_along_axis(logp, tokens[:, P:, None], axis=2)[..., 0]
    return jnp.sum(jnp.where(counted.reshape(-1, T), logp, 0.0))

  gradient = jax.grad(plain)(params, mask)
  found = jax.grad(packed)(params)
  close(found, gradient, rtol=1e-3, atol=1e-3)
  with pytest.raises(AssertionError):
    close(found, jax.grad(plain)(params, real), rtol=1e-3, atol=1e-3)
