"""Run by `test_eight_devices.py` in a process that has eight CPU devices.

With the argument `decoding` it checks long decoding, with `turns` responses of
several turns, otherwise a whole step.
"""

import dataclasses
import functools
import math
import re
import sys

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import packing
from progrpo_jax.algos import aggregate, kl, losses
from progrpo_jax.algos import objective as objective_lib
from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim, update
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters, scoring
from progrpo_jax.rewards import serving
from progrpo_jax.rollout import decoding, sampler, turns
from progrpo_jax.tasks import base

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=64,
  num_layers=2,
  embed_dim=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=64,
)
N, R, P, T = 16, 2, 5, 6
DIST = scoring.Distribution(temperature=0.8, chunk=64)
TX = optim.adamw(
  optim.schedule(1e-3), b1=0.5, weight_decay=0.1, max_grad_norm=None
)
SETTINGS = decoding.Settings(
  num_generations=R,
  max_new_tokens=T,
  temperature=0.8,
  top_p=0.95,
  stop_ids=(1, 2, 3, 4),
  chunk=8,
)
OBJECTIVE = functools.partial(
  objective_lib.objective,
  loss_fn=losses.clip,
  kl_fn=kl.k3,
  beta=0.1,
  aggregate_fn=aggregate.token_mean,
)


def step(params, where, config=CONFIG):
  """Sampling, scoring and two updates on a mesh; everything on the host.

  Args:
    params: host arrays.
    where: the mesh.
    config: of the model.
  """
  rng = np.random.default_rng(0)
  prompt = rng.integers(0, 64, (N, P), np.int32)
  mask = np.arange(P) >= rng.integers(0, P, (N, 1))
  params = jax.device_put(params, parameters.shardings(config, where))
  rollout = sampler.sample(
    sampler.Engine(config, params, where),
    batch_lib.Prompts(
      tokens_PT=prompt,
      mask_PT=mask,
      user_mask_PT=mask,
      ids_P=np.arange(N),
      rows=(None,) * N,
    ),
    jax.random.key(3),
    SETTINGS,
  )
  sequences = batch_lib.Sequences(
    prompt_NT=prompt,
    prompt_mask_NT=mask,
    tokens_NRT=rollout.tokens_BT.reshape(N, R, T),
    mask_NRT=rollout.mask_BT.reshape(N, R, T),
  )
  layout = packing.Layout(tokens=24, rows=1)
  with jax.set_mesh(where):
    scores = scoring.score(config, params, sequences, DIST, layout)
    adv = rng.normal(size=(N, R)).astype(np.float32)
    batch = update.pack(
      batch_lib.TrainBatch(
        sequences=sequences,
        old_logp_NRT=scores.logp_NRT,
        ref_logp_NRT=scores.logp_NRT,
        adv_NR=adv,
        fresh_NR=np.ones((N, R), bool),
      ),
      layout,
    )
    run = update.make(config, TX, OBJECTIVE, DIST)
    before = state_lib.create(config, TX, params, where)
    after, metrics = run(before, batch, np.bool_(True), jax.random.key(3))
    # Half of the first gradient is the first moment after one update.
    gradient = jax.device_get(optim.optax.tree.get(after.opt_state, "mu"))
    check_places(config, after, where)
    again, later = run(after, batch, np.bool_(False), jax.random.key(4))
    check_places(config, again, where)
    assert run._cache_size() == 1
  return dict(
    tokens=rollout.tokens_BT,
    finished=rollout.finished_B,
    sampled_logp=rollout.logp_BT,
    scores=jax.device_get(scores),
    metrics=jax.device_get(metrics),
    later=jax.device_get(later),
    gradient=jax.tree.map(lambda g: 2 * g, gradient),
  )


def check_places(config, state, where):
  """Every array of the state is where it was born, through updates too."""
  expected = state_lib.shardings(config, TX, where)
  for x, s in zip(
    jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
  ):
    assert x.sharding.is_equivalent_to(s, x.ndim), (x.shape, x.sharding, s)
    assert x.sharding.shard_shape(x.shape) == s.shard_shape(x.shape)


def check_equal(found, expected):
  """Asserts that the results of two meshes agree."""
  for name in ("tokens", "finished"):
    np.testing.assert_array_equal(found[name], expected[name], name)
  for name in ("sampled_logp", "scores", "gradient", "metrics"):
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
      found[name],
      expected[name],
    )
  assert (
    found["metrics"]["ratio/mean"][0] == (found["metrics"]["ratio/mean"][1])
  )
  assert found["metrics"]["clip_ratio/region_mean"][0] == 0
  np.testing.assert_allclose(
    found["later"]["loss"], expected["later"]["loss"], atol=1e-3
  )


def largest_array(text):
  """Elements of the largest array in a program for one device."""
  return max(
    math.prod(map(int, dims.split(",")))
    for dims in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
  )


def check_birth(where):
  """No device ever holds a large parameter whole, and each has its part."""
  made = []
  real = jax.jit

  def jit(*args, **kwargs):
    made.append(real(*args, **kwargs))
    return made[-1]

  config = config_lib.ModelConfig.tiny(
    vocab_size=512,
    num_layers=2,
    embed_dim=64,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    mlp_dim=256,
    tie_embeddings=False,
  )
  whole = min(512 * 64, 2 * 64 * 256)
  key = jax.random.key(0)
  jax.jit = jit
  try:
    params = parameters.init(config, key, where)
    born = len(made)
    state = state_lib.create(config, TX, params, where)
  finally:
    jax.jit = real
  programs = [made[born - 1].lower(key), made[-1].lower(params)]
  for program in programs:
    assert largest_array(program.compile().as_text()) <= whole / 4
  # The same programs without shardings would be found out.
  plain = real(
    lambda k: parameters.nn.meta.unbox(parameters._init(config, k))
  ).lower(key)
  assert largest_array(plain.compile().as_text()) >= whole
  for tree in (
    params,
    optim.optax.tree.get(state.opt_state, "mu"),
    optim.optax.tree.get(state.opt_state, "nu"),
  ):
    split = jax.tree.map(lambda x: x.sharding.shard_shape(x.shape), tree)
    assert split["embed"]["tokens"] == (256, 16)
    assert split["head"]["kernel"] == (16, 256)
    assert split["layers"]["attention"]["q"] == (2, 16, 4, 8)
    assert split["layers"]["attention"]["o"] == (2, 4, 8, 16)
    assert split["layers"]["mlp"]["down"] == (2, 128, 16)
    assert split["norm"]["scale"] == (64,)
  held = sum(
    s.data.nbytes
    for x in jax.tree.leaves(state)
    for s in x.addressable_shards
    if s.device == jax.devices()[0]
  )
  assert held < 0.15 * sum(x.nbytes for x in jax.tree.leaves(state))


def decode(params, where, tensor=None):
  """Long decoding, in batches that become smaller.

  Args:
    params: parameters of the policy.
    where: mesh that holds them.
    tensor: devices along "tensor" while decoding; None takes those of the mesh.

  Returns:
    The rollout, and the text of the last program of the loop over tokens.
  """
  rng = np.random.default_rng(2)
  prompt = rng.integers(0, 64, (N, P), np.int32)
  mask = np.arange(P) >= rng.integers(0, P, (N, 1))
  params = jax.device_put(params, parameters.shardings(CONFIG, where))
  shapes, last, run = set(), [], decoding.run

  def recorded(*args):
    shape = tuple(x.shape for x in jax.tree.leaves(args[2:4]))
    if shape not in shapes:
      shapes.add(shape)
      last[:] = [run.lower(*args)]
    return run(*args)

  before = run._cache_size()
  drawn_on = sharding.refactored(where, tensor or where.shape["tensor"])
  engine = sampler.Engine(CONFIG, params, drawn_on)
  decoding.run = recorded
  try:
    rollout = sampler.sample(
      engine,
      batch_lib.Prompts(
        tokens_PT=prompt,
        mask_PT=mask,
        user_mask_PT=mask,
        ids_P=np.arange(N),
        rows=(None,) * N,
      ),
      jax.random.key(3),
      dataclasses.replace(
        SETTINGS,
        num_generations=4,
        max_new_tokens=33,
        stop_ids=tuple(range(8)),
        first_cache=8,
        call=8,
        least_rows=2,
      ),
    )
  finally:
    decoding.run = run
  # A call with arrays in other shardings would have been compiled again.
  assert run._cache_size() - before == len(shapes) > 2
  return engine, rollout, last[0].compile().as_text()


def check_decoding(params, meshes):
  """Samples are the same on all meshes, and no weight moves for a token."""
  _, expected, _ = decode(params, sharding.make_mesh(devices=jax.devices()[:1]))
  assert len(set(expected.mask_BT.sum(axis=1))) > 5
  for *sizes, tensor in meshes:
    where = sharding.make_mesh(*sizes)
    engine, found, text = decode(params, where, tensor)
    np.testing.assert_array_equal(found.tokens_BT, expected.tokens_BT)
    np.testing.assert_array_equal(found.mask_BT, expected.mask_BT)
    np.testing.assert_array_equal(found.finished_B, expected.finished_B)
    np.testing.assert_allclose(found.logp_BT, expected.logp_BT, atol=1e-5)
    assert engine.row_steps < N * 4 * 33
    # What passes between devices is no larger than one row's hidden states of
    # a device or the sums of its logits: no weight, logits or keys.
    for kind, shape in collectives(text):
      assert math.prod(shape) <= 4 * CONFIG.embed_dim, (sizes, kind, shape)
    print("decodes alike on", sizes, "with tensor", tensor)


class Replies:
  """Replies with the length of what was written; nobody decodes here."""

  def to(self, row):
    return True

  def answer(self, text):
    return text

  def ask(self, talks):
    return [
      serving.Outcome("ok", "+" * (1 + len(talk[-1]["content"]) % 3), "")
      for _, talk in talks
    ]


class Letters:
  """A tokenizer whose text is one letter a token."""

  def decode(self, ids):
    return "".join(chr(65 + i) for i in ids)

  def encode_reply(self, text):
    return [9] * len(text)


def converse(params, where):
  """Responses of up to three turns on a mesh."""
  rng = np.random.default_rng(2)
  prompt = rng.integers(0, 64, (N, P), np.int32)
  mask = np.arange(P) >= rng.integers(0, P, (N, 1))
  row = base.Row(task="", prompt="", reference=None, meta={})
  return turns.sample(
    sampler.Engine(
      CONFIG, jax.device_put(params, parameters.shardings(CONFIG, where)), where
    ),
    batch_lib.Prompts(
      tokens_PT=prompt,
      mask_PT=mask,
      user_mask_PT=mask,
      ids_P=np.arange(N),
      rows=(row,) * N,
    ),
    jax.random.key(3),
    dataclasses.replace(
      SETTINGS, max_new_tokens=16, stop_ids=tuple(range(20)), max_turns=3
    ),
    Letters(),
    Replies(),
  ).rollout


def check_turns(params, meshes):
  """Turns and replies are the same on all meshes."""
  expected = converse(params, sharding.make_mesh(devices=jax.devices()[:1]))
  counts = {len(batch_lib.runs(mask)) for mask in expected.mask_BT}
  assert 5 in counts and len(counts) > 1, counts
  for sizes in meshes:
    found = converse(params, sharding.make_mesh(*sizes))
    np.testing.assert_array_equal(found.tokens_BT, expected.tokens_BT)
    np.testing.assert_array_equal(found.mask_BT, expected.mask_BT)
    np.testing.assert_array_equal(found.finished_B, expected.finished_B)
    np.testing.assert_allclose(found.logp_BT, expected.logp_BT, atol=1e-5)
    print("converses alike on", sizes)


def collectives(text):
  """(kind, shape) of each array that devices exchange in a program."""
  found = []
  for line in text.splitlines():
    match = re.search(
      r"= (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|"
      r"collective-permute)(?:-start)?\(",
      line,
    )
    if match:
      found += [
        (match.group(2), tuple(map(int, dims.split(","))))
        for dims in re.findall(r"\w+\[([\d,]+)\]", match.group(1))
      ]
  return found


def check_few_heads(params, expected):
  """Two key heads on a `tensor` axis of four are held by all."""
  where = sharding.make_mesh(1, 2, 4)
  places = parameters.shardings(CONFIG, where)
  k = places["layers"]["attention"]["k"]
  assert k.shard_shape((2, 32, 2, 8)) == (2, 16, 2, 8)
  q = places["layers"]["attention"]["q"]
  assert q.shard_shape((2, 32, 4, 8)) == (2, 16, 1, 8)
  rng = np.random.default_rng(0)
  prompt = rng.integers(0, 64, (N, P), np.int32)
  mask = np.arange(P) >= rng.integers(0, P, (N, 1))
  sequences = batch_lib.Sequences(
    prompt_NT=prompt,
    prompt_mask_NT=mask,
    tokens_NRT=expected["tokens"].reshape(N, R, T),
    mask_NRT=expected["scores"].logp_NRT < 0,
  )
  with jax.set_mesh(where):
    found = scoring.score(
      CONFIG, jax.device_put(params, places), sequences, DIST
    )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    jax.device_get(found),
    expected["scores"],
  )


def main():
  assert jax.device_count() == 8
  rng = np.random.default_rng(1)
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: np.float32(
      (path[-1].key == "scale") + 0.2 * rng.normal(size=x.shape)
    ),
    parameters.abstract_params(CONFIG),
  )
  if sys.argv[1:] == ["decoding"]:
    check_decoding(params, [(2, 2, 2, 2), (8, 1, 1, 1), (2, 4, 1, 2)])
    return
  if sys.argv[1:] == ["turns"]:
    check_turns(params, [(1, 4, 2), (8, 1, 1)])
    return
  expected = step(params, sharding.make_mesh(devices=jax.devices()[:1]))
  assert len(np.unique(expected["tokens"])) > 20
  assert not expected["finished"].all() and expected["finished"].any()
  for sizes in ((8, 1, 1), (1, 4, 2), (2, 2, 2)):
    check_equal(step(params, sharding.make_mesh(*sizes)), expected)
    print("equal on", sizes)
  check_few_heads(params, expected)
  check_birth(sharding.make_mesh(1, 4, 2))


if __name__ == "__main__":
  main()
