"""Sampling: the right tokens, the right log-probs, whoever stands beside."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch, errors
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters, scoring, transformer
from progrpo_jax.rollout import decoding, resizing, sampler

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=40, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
)
P, G, WIDTH, LENGTH = 4, 3, 6, 14
KEY = jax.random.key(11)
# Thirteen steps of decoding in chunks of four: a ragged end; a cache of 4, then
# 16 columns; at most two chunks a call.
BASE = decoding.Settings(
  num_generations=G,
  max_new_tokens=LENGTH,
  temperature=0.7,
  stop_ids=(0, 8),
  chunk=4,
  first_cache=4,
  call=8,
)


def engine_of(params, **options):
  """An engine on one device."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return sampler.Engine(CONFIG, params, mesh, **options)


def draw(engine, tokens, mask, ids, key=KEY, settings=BASE):
  """A rollout of prompts that are arrays."""
  return sampler.sample(
    engine,
    batch.Prompts(
      tokens_PT=tokens,
      mask_PT=mask,
      user_mask_PT=mask,
      ids_P=ids.astype(np.int64),
      rows=(None,) * len(ids),
    ),
    key,
    settings,
  )


@pytest.fixture(scope="module")
def params(random_params):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return jax.device_put(
    random_params(CONFIG, scale=0.2), parameters.shardings(CONFIG, mesh)
  )


@pytest.fixture(scope="module")
def engine(params):
  return engine_of(params)


@pytest.fixture(scope="module")
def prompts():
  rng = np.random.default_rng(1)
  mask = np.arange(WIDTH) >= np.array([[0], [2], [5], [1]])
  tokens = np.where(mask, rng.integers(0, 40, (P, WIDTH)), 0)
  return tokens, mask, np.array([7, 0, 123456, 4_000_000_000], np.uint32)


@pytest.fixture(scope="module")
def sampled(engine, prompts):
  """A function of changes to the settings; each is sampled once."""

  @functools.cache
  def run(**changes):
    settings = dataclasses.replace(BASE, **changes)
    return draw(engine, *prompts, settings=settings)

  return run


@pytest.fixture(scope="module")
def greedy(params, prompts):
  """Likeliest tokens and their log-probs, by a plain loop over `logits`."""
  logits = jax.jit(transformer.logits, static_argnums=0)
  tokens, mask, _ = prompts
  tokens = np.pad(tokens, ((0, 0), (0, LENGTH)))
  mask = np.pad(mask, ((0, 0), (0, LENGTH)))
  logps = []
  for column in range(WIDTH, WIDTH + LENGTH):
    logp = np.asarray(jax.nn.log_softmax(logits(CONFIG, params, tokens, mask)))[
      :, column - 1
    ]
    tokens[:, column] = logp.argmax(axis=-1)
    mask[:, column] = True
    logps.append(logp.max(axis=-1))
  return tokens[:, WIDTH:], np.stack(logps, axis=1)


def lengths(rollout):
  return rollout.mask_BT.sum(axis=1)


def test_greedy_equals_a_plain_loop(sampled, greedy):
  rollout = sampled(temperature=0.0, stop_ids=())
  tokens, logps = (np.repeat(x, G, axis=0) for x in greedy)
  np.testing.assert_array_equal(rollout.tokens_BT, tokens)
  np.testing.assert_allclose(rollout.logp_BT, logps, atol=1e-4)
  assert rollout.mask_BT.all() and not rollout.finished_B.any()
  assert len(np.unique(tokens)) > 5


def test_shapes_and_types(sampled):
  rollout = sampled()
  assert rollout.tokens_BT.shape == (P * G, LENGTH)
  assert rollout.tokens_BT.dtype == np.int32
  assert rollout.mask_BT.dtype == rollout.finished_B.dtype == bool
  assert rollout.logp_BT.dtype == np.float32
  assert (rollout.tokens_BT >= 0).all() and (rollout.tokens_BT < 40).all()


@pytest.mark.parametrize(
  "options",
  [
    dict(temperature=0.7),
    dict(temperature=1.0, top_k=5),
    dict(temperature=1.0, top_p=0.9),
    dict(temperature=0.7, top_k=5, top_p=0.9),
  ],
)
def test_log_probs_are_those_of_the_scorer(params, prompts, sampled, options):
  rollout = sampled(first_cache=64, **options)
  tokens, mask, _ = prompts
  scores = scoring.score(
    CONFIG,
    params,
    batch.Sequences(
      prompt_NT=tokens,
      prompt_mask_NT=mask,
      tokens_NRT=rollout.tokens_BT.reshape(P, G, LENGTH),
      mask_NRT=rollout.mask_BT.reshape(P, G, LENGTH),
    ),
    scoring.Distribution(**options),
  )
  difference = np.abs(
    np.asarray(scores.logp_NRT).reshape(P * G, LENGTH) - rollout.logp_BT
  )
  assert difference.max() < 1e-4
  assert rollout.logp_BT.min() < -1


def test_responses_end_with_a_stop_token_or_at_the_limit(sampled):
  rollout = sampled()
  length = lengths(rollout)
  assert length.min() < 8 and length.max() == LENGTH, "vary the seed"
  assert 1 <= length.min()
  for tokens, mask, logp, finished, n in zip(
    rollout.tokens_BT,
    rollout.mask_BT,
    rollout.logp_BT,
    rollout.finished_B,
    length,
  ):
    np.testing.assert_array_equal(mask, np.arange(LENGTH) < n)
    assert not np.isin(tokens[: n - 1], BASE.stop_ids).any()
    assert finished == np.isin(tokens[n - 1], BASE.stop_ids)
    assert finished or n == LENGTH
    assert not tokens[n:].any() and not logp[n:].any()
    assert (logp[:n] < 0).all()
  assert rollout.finished_B.any() and not rollout.finished_B.all()


def test_stop_token_as_the_last_token_allowed_is_an_end(sampled, greedy):
  # This row first shows this token at the limit itself, so it ends there.
  row, column = next(
    (i, t)
    for t in range(LENGTH - 1, 1, -1)
    for i, tokens in enumerate(greedy[0])
    if tokens[t] not in tokens[:t]
  )
  rollout = sampled(
    temperature=0.0,
    stop_ids=(int(greedy[0][row, column]),),
    max_new_tokens=column + 1,
  )
  assert (lengths(rollout)[row * G :][:G] == column + 1).all()
  assert rollout.finished_B[row * G :][:G].all()


def test_sample_depends_on_key_id_and_number_alone(engine, prompts, sampled):
  expected = sampled().tokens_BT.reshape(P, G, LENGTH)
  # The same prompts in another order,
  order = np.array([2, 0, 3, 1])
  moved = draw(engine, *(x[order] for x in prompts))
  np.testing.assert_array_equal(
    moved.tokens_BT.reshape(P, G, LENGTH), expected[order]
  )
  # and fewer of them, fewer times, in a wider bucket.
  tokens, mask, ids = (x[[3, 1]] for x in prompts)
  tokens, mask = (np.pad(x, ((0, 0), (3, 0))) for x in (tokens, mask))
  fewer = draw(
    engine,
    tokens,
    mask,
    ids,
    settings=dataclasses.replace(BASE, num_generations=2),
  )
  np.testing.assert_array_equal(
    fewer.tokens_BT.reshape(2, 2, LENGTH), expected[[3, 1], :2]
  )


def test_other_key_or_id_gives_other_samples(engine, prompts, sampled):
  expected = sampled().tokens_BT.reshape(P, G, LENGTH)
  tokens, mask, ids = prompts
  other = draw(engine, tokens, mask, ids, jax.random.key(12))
  assert (other.tokens_BT.reshape(expected.shape) != expected).any(
    axis=2
  ).mean() > 0.8
  # The same prompt under two numbers: other samples; and all of one group
  # differ from each other.
  tokens, mask = (np.repeat(x[:1], P, axis=0) for x in (tokens, mask))
  drawn = draw(engine, tokens, mask, ids)
  assert len(np.unique(np.asarray(drawn.tokens_BT), axis=0)) > 8


@pytest.mark.parametrize("first_cache", [1, 64])
def test_size_of_the_first_cache_changes_nothing(sampled, first_cache):
  a, b = sampled(), sampled(first_cache=first_cache)
  np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
  np.testing.assert_array_equal(a.mask_BT, b.mask_BT)
  np.testing.assert_allclose(a.logp_BT, b.logp_BT, atol=1e-5)


def test_shorter_limit_gives_the_beginning(sampled):
  whole, one = sampled(), sampled(max_new_tokens=1)
  assert one.tokens_BT.shape == (P * G, 1)
  np.testing.assert_array_equal(one.tokens_BT, whole.tokens_BT[:, :1])
  np.testing.assert_allclose(one.logp_BT, whole.logp_BT[:, :1], atol=1e-6)
  assert one.mask_BT.all()
  np.testing.assert_array_equal(
    one.finished_B, np.isin(one.tokens_BT[:, 0], BASE.stop_ids)
  )


def test_first_tokens_follow_the_distribution(engine, params, prompts):
  # Chi-square would ask for many draws; a group of 2000 first tokens is cheap.
  tokens, mask, ids = (x[:1] for x in prompts)
  n = 2000
  rollout = draw(
    engine,
    tokens,
    mask,
    ids,
    settings=dataclasses.replace(BASE, num_generations=n, max_new_tokens=1),
  )
  logits = np.asarray(transformer.logits(CONFIG, params, tokens, mask))[0, -1]
  probs = np.asarray(jax.nn.softmax(logits / 0.7))
  counts = np.bincount(np.asarray(rollout.tokens_BT)[:, 0], minlength=40)
  error = (counts - n * probs) / np.sqrt(n * probs * (1 - probs) + 1e-9)
  assert np.abs(error[probs > 0.005]).max() < 4


@pytest.mark.parametrize("column, most", [(0, 0), (4, 1)])
def test_decoding_stops_when_nothing_is_alive(
  params, prompts, greedy, column, most
):
  """Every row has met a stop token by this column."""
  tokens = greedy[0]
  stops = tuple(sorted({int(t) for t in tokens[:, column]}))
  ends = np.isin(tokens, stops).argmax(axis=1)
  # The last row to end decides how many chunks of four are run, of four.
  chunks = math.ceil(ends.max() / 4)
  assert chunks <= most
  engine = engine_of(params)
  rollout = draw(
    engine,
    *prompts,
    settings=dataclasses.replace(
      BASE, temperature=0.0, stop_ids=stops, num_generations=1
    ),
  )
  assert engine.row_steps == P * (1 + 4 * chunks)
  assert engine.tokens == rollout.mask_BT.sum() == P + ends.sum()
  np.testing.assert_array_equal(lengths(rollout), ends + 1)
  assert rollout.finished_B.all()


# Most responses end within a few tokens, so that the batch is made smaller
# several times.
SHORT = tuple(range(0, 40, 5))


@pytest.mark.parametrize(
  "changes",
  [
    dict(),
    dict(temperature=0.0),
    dict(top_p=0.9),
    dict(top_k=5),
    dict(call=1, chunk=2, first_cache=2),
    dict(batch_prompts=3),
  ],
)
def test_smaller_batches_give_the_same_samples(params, prompts, changes):
  settings = dataclasses.replace(
    BASE, num_generations=8, max_new_tokens=30, stop_ids=SHORT, **changes
  )
  found = []
  for least in (1, 10**6):
    engine = engine_of(params)
    rollout = draw(
      engine, *prompts, settings=dataclasses.replace(settings, least_rows=least)
    )
    found.append((engine, rollout))
  (smaller, some), (whole, every) = found
  np.testing.assert_array_equal(some.tokens_BT, every.tokens_BT)
  np.testing.assert_array_equal(some.mask_BT, every.mask_BT)
  np.testing.assert_array_equal(some.finished_B, every.finished_B)
  np.testing.assert_allclose(some.logp_BT, every.logp_BT, atol=1e-5)
  assert smaller.tokens == whole.tokens == some.mask_BT.sum()
  assert len(set(lengths(some))) > 1
  # Greedy responses of a prompt are all alike, so that many end at one time.
  share = 1.0 if "temperature" in changes else 0.7
  assert smaller.row_steps < share * whole.row_steps


def test_batches_become_smaller_where_fewer_keys_are_read():
  s = dataclasses.replace(BASE, least_rows=8)
  # 64 rows of 8 prompts read 8 * 100 + 64 * 50 = 4,000 columns; 32 rows with
  # keys of their own would read 32 * 150 = 4,800, and 16 rows 2,400.
  assert resizing.smaller(64, 8, 100, 50, s) == [16, 8]
  assert resizing.smaller(64, 8, 100, 400, s) == [32, 16, 8]
  # Rows that have them to themselves read fewer in any case.
  assert resizing.smaller(16, 16, 100, 50, s) == [8]
  assert resizing.smaller(8, 8, 100, 50, s) == []
  odd = dataclasses.replace(BASE, least_rows=1)
  assert resizing.smaller(5, 5, 1, 1, odd) == [3, 2, 1]


def test_prompts_that_fill_up_a_batch_are_not_decoded(params, prompts, sampled):
  tokens, mask, ids = prompts
  engine = engine_of(params)
  rollout = draw(
    engine, tokens, mask, np.where(np.arange(P) == 1, -1, ids.astype(np.int64))
  )
  expected = sampled()
  filling = np.arange(P * G) // G == 1
  assert not rollout.mask_BT[filling].any()
  assert not rollout.tokens_BT[filling].any()
  assert not rollout.finished_B[filling].any()
  np.testing.assert_array_equal(
    rollout.tokens_BT[~filling], expected.tokens_BT[~filling]
  )
  # Nothing real: one token is drawn and thrown away.
  engine = engine_of(params)
  draw(engine, tokens, mask, np.full(P, -1))
  assert (engine.row_steps, engine.tokens) == (P * G, 0)


def test_a_cache_grows_fourfold_at_first_then_twofold():
  s = decoding.Settings(num_generations=1, max_new_tokens=3000)
  sizes = [0]
  while sizes[-1] < 3008:  # whole chunks of 16
    sizes.append(decoding.next_size(sizes[-1], s))
  assert sizes == [0, 64, 256, 512, 1024, 2048, 3008]


def test_columns_of_keys_that_are_read_are_counted(params, prompts):
  engine = engine_of(params)
  draw(engine, *prompts, settings=dataclasses.replace(BASE, stop_ids=()))
  # Four steps with a cache of 4, twelve with one of 16; the chunk's 4 beside.
  rows = P * G
  assert engine.columns == (
    4 * (P * WIDTH + rows * (4 + 4)) + 12 * (P * WIDTH + rows * (16 + 4))
  )
  assert engine.row_steps == rows * 17


def _looked(params, prompts, monkeypatch, seconds):
  """(looks of the host, rollout) where each call takes `seconds`."""
  now, looks = [0.0], []

  def read():
    now[0] += seconds
    return now[0]

  monkeypatch.setattr(sampler.time, "perf_counter", read)
  rollout = draw(
    engine_of(params, check=lambda: looks.append(1)),
    *prompts,
    settings=dataclasses.replace(
      BASE, max_new_tokens=25, stop_ids=(), first_cache=64, call=12
    ),
  )
  return len(looks), rollout


def test_slow_calls_have_fewer_tokens_and_draw_the_same(
  params, prompts, monkeypatch
):
  # 24 steps in chunks of 4: after the first one 12 and 8 at full pace, or one
  # chunk a call. A call of 4 takes 1.25 s: 2 s suffice for 6 tokens, a chunk.
  quick, expected = _looked(params, prompts, monkeypatch, 0.0)
  slow, found = _looked(params, prompts, monkeypatch, 1.25)
  assert (quick, slow) == (3, 6)
  jax.tree.map(np.testing.assert_array_equal, expected, found)
  # 0.9 s: 8 tokens, which then seem twice as fast, 12, and the last 4 - 4.
  assert _looked(params, prompts, monkeypatch, 0.9)[0] == 3


def test_hosts_do_not_choose_their_own_pace(params, prompts, monkeypatch):
  monkeypatch.setattr(sampler.hosts, "count", lambda: 2)
  assert _looked(params, prompts, monkeypatch, 100.0)[0] == 2


def test_the_host_may_end_decoding_between_two_calls(params, prompts):
  looks = []

  def stop():
    looks.append(1)
    if len(looks) == 2:
      raise errors.Preempted

  settings = dataclasses.replace(BASE, stop_ids=())
  with pytest.raises(errors.Preempted):
    draw(engine_of(params, check=stop), *prompts, settings=settings)


def test_second_batch_of_a_bucket_compiles_nothing(engine, prompts, sampled):
  sampled()
  programs = decoding.begin, decoding.run
  before = [program._cache_size() for program in programs]
  tokens, mask, ids = prompts
  draw(
    engine, (tokens + 5) % 40, mask[::-1].copy(), ids + 1, jax.random.key(99)
  )
  assert [program._cache_size() for program in programs] == before
  draw(
    engine,
    tokens[:, 1:],
    mask[:, 1:],
    ids,
    settings=dataclasses.replace(BASE, max_new_tokens=1),
  )
  assert [program._cache_size() for program in programs] == [
    before[0] + 1,
    before[1],
  ]


def test_results_are_host_arrays(sampled):
  assert {type(x) for x in jax.tree.leaves(sampled())} == {np.ndarray}


@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_of_prompts_give_the_same_samples(
  engine, prompts, sampled, size
):
  """The last batch of three is filled up, and cut again."""
  rollout = draw(
    engine, *prompts, settings=dataclasses.replace(BASE, batch_prompts=size)
  )
  expected = sampled()
  np.testing.assert_array_equal(rollout.tokens_BT, expected.tokens_BT)
  np.testing.assert_array_equal(rollout.mask_BT, expected.mask_BT)
  np.testing.assert_array_equal(rollout.finished_B, expected.finished_B)
  np.testing.assert_allclose(rollout.logp_BT, expected.logp_BT, atol=1e-5)


def computations(text):
  """Of a compiled program: {name: its lines}."""
  parts, name = {}, None
  for line in text.splitlines():
    head = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
    if head and not line.startswith(" "):
      name = head.group(1)
      parts[name] = []
    elif name:
      parts[name].append(line)
  return parts


def copies_in_loops(text, elements):
  """Copies of arrays this large in bodies of loops, and what these call."""
  parts = computations(text)
  todo = re.findall(r"body=%?([\w.\-]+)", text)
  assert todo, "no loop"
  reached = set()
  while todo:
    name = todo.pop()
    if name not in reached:
      reached.add(name)
      for line in parts[name]:
        todo += re.findall(
          r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)", line
        )
  found = []
  for name in reached:
    for line in parts[name]:
      copy = re.search(r"= \w+\[([\d,]+)\]\S* copy(?:-start)?\(", line)
      if copy and math.prod(map(int, copy.group(1).split(","))) >= elements:
        found.append(line.strip())
  return found


def test_copies_of_the_cache_would_be_found():
  @jax.jit
  def bad(cache):
    def body(carry):
      t, cache, total = carry
      new = cache.at[t].set(t)
      # The old cache is read after the new one was written.
      return t + 1, new, total + jnp.cumsum(cache)[t] + new[t - 1]

    return jax.lax.while_loop(
      lambda c: c[0] < 5, body, (1, cache, jnp.float32(0))
    )

  @jax.jit
  def good(cache):
    return jax.lax.while_loop(
      lambda c: c[0] < 5,
      lambda c: (c[0] + 1, c[1].at[c[0]].set(c[0])),
      (1, cache),
    )

  x = jnp.zeros(1000)
  assert copies_in_loops(bad.lower(x).compile().as_text(), 1000)
  assert not copies_in_loops(good.lower(x).compile().as_text(), 1000)


def test_cache_is_written_in_place(engine, prompts):
  tokens, mask, ids = prompts
  settings = dataclasses.replace(BASE, first_cache=64)
  with jax.set_mesh(engine.mesh):
    state, prefix, _ = decoding.begin(
      CONFIG,
      engine.params,
      engine.decode_params,
      *sharding.put_rows(
        (tokens, mask, ids, np.zeros_like(ids), ids >= 0), engine.mesh
      ),
      KEY,
      settings,
    )
    text = (
      decoding.run.lower(
        CONFIG,
        engine.decode_params,
        prefix,
        state,
        np.int32(0),
        np.int32(8),
        settings,
      )
      .compile()
      .as_text()
    )
  heads = CONFIG.num_kv_heads
  assert f"f32[{P},{G},{heads},8,16]" in text  # the keys of one layer
  cache = P * G * heads * 8 * 16
  assert copies_in_loops(text, cache) == []


@pytest.mark.parametrize(
  "wrong",
  [
    {"num_generations": 0},
    {"max_new_tokens": 0},
    {"chunk": 0},
    {"first_cache": 0},
    {"call": 0},
    {"least_rows": 0},
    {"batch_prompts": -1},
  ],
)
def test_settings_that_would_never_end_are_refused(wrong):
  (name,) = wrong
  with pytest.raises(ValueError, match=name):
    decoding.Settings(**{"num_generations": 2, "max_new_tokens": 4} | wrong)
