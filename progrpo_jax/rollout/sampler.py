"""Sampling: from prompts to finished responses.

The prompt is read once per group, and the G samples share its keys. Tokens are
decoded in calls of a bounded number of them, each one loop on the devices.
Between two calls, about `CALL_S` seconds apart where the machine is slow, the
host reads two numbers, and may stop the run, give the cache of responses more
columns (it starts small, so that early tokens do not pay for late columns), or
move the rows that still live into a smaller batch: once at most half of them
live, the others would only cost time. A program is compiled for each pair of a
number of rows and a number of columns, when it is first reached.

A sample's random numbers depend on its own id alone, not on its row, the
batch around it, or the mesh. In float32 its tokens do not depend on these
either. In bfloat16 the last bits of the logits depend on the shapes of a
program, so that most long responses differ somewhere from those of another
batch; their distribution is the same.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import math
import time

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import ops
from progrpo_jax.devices import hosts, sharding
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import transformer

# Seconds that a call of decoding should take, by the pace of the one before it:
# a run that is asked to stop should do so within ten seconds.
CALL_S = 2.0

# Columns from which on a cache that is full is doubled; a smaller one becomes
# four times as large.
_DOUBLED = 256


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to sample.

  Attributes:
    num_generations: G, samples of each prompt.
    max_new_tokens: length limit of a response.
    temperature: > 0; divides the logits. 0 is greedy: the likeliest token,
      with log-probs at temperature 1.
    top_p: mass kept; 1.0 keeps all.
    top_k: tokens kept; 0 keeps all.
    stop_ids: token ids that end a response; they are part of it.
    chunk: tokens after which their keys are moved into the cache, and after
      which decoding may end.
    first_cache: columns of the cache at the start.
    call: tokens of a call at the most, between two looks of the host; fewer
      where they take longer than `CALL_S`, but a chunk.
    least_rows: rows of a device's share below which it is not made smaller.
    batch_prompts: prompts whose samples are drawn at one time, and whose keys
      the cache holds; 0 for all of them.
    max_turns: turns of a response at the most, see `turns`; what is sampled
      here is one turn.

  Raises:
    ValueError: a count is below its least value.
  """

  num_generations: int
  max_new_tokens: int
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  stop_ids: tuple[int, ...] = ()
  chunk: int = 16
  first_cache: int = 64
  call: int = 256
  least_rows: int = 8
  batch_prompts: int = 0
  max_turns: int = 1

  def __post_init__(self):
    for name, least in (
      ("num_generations", 1),
      ("max_new_tokens", 1),
      ("chunk", 1),
      ("first_cache", 1),
      ("call", 1),
      ("least_rows", 1),
      ("batch_prompts", 0),
      ("max_turns", 1),
    ):
      if getattr(self, name) < least:
        raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")


# Logical axes of what calls hand on, so that each call gets its arrays in the
# shardings for which it was compiled.
_ROWS = ("batch",)
_PREFIX = ("batch", "kv_heads")
_CACHE = ("batch", None, "kv_heads")


@struct.dataclass
class DecodeState:
  """What one call hands to the next; B rows, [N, R] in the cache.

  Attributes:
    step: int32 scalar, tokens drawn of each response that still lives.
    row_B: int32, number of each row's response among those of its device.
    token_B: int32, the last token drawn, which the next step reads.
    alive_B: bool, True while a response has not ended.
    length_B: int32, tokens of each response drawn while it lived.
    uniform_BT2: float32, the random numbers of each token.
    tokens_BT: int32, tokens drawn so far; meaningless from `length_B` on.
    logp_BT: float32, their log-probs.
    cache: keys and values of the responses, of all tokens but the last.
  """

  step: jax.Array
  row_B: jax.Array
  token_B: jax.Array
  alive_B: jax.Array
  length_B: jax.Array
  uniform_BT2: jax.Array
  tokens_BT: jax.Array
  logp_BT: jax.Array
  cache: cache_lib.Cache


class Engine:
  """A policy laid out for decoding.

  Make one for a rollout, after the update and before the first batch: it lays
  the weights out once, when they are first needed.

  Attributes:
    config: configuration of the policy.
    params: all parameters of the policy.
    mesh: mesh on which responses are drawn; that of the parameters, or another
      of the same devices in the same order.
    check: function called between two calls of decoding, which may raise to
      end it; every host calls it at the same points.
    pace: seconds that a token took in the last call; None before the first one
      with a cache of its size.
    row_steps: steps that were computed so far, summed over the rows.
    tokens: tokens of responses among them; the rest was for rows that had
      ended or that filled up a batch.
    columns: columns of keys that these steps read; those of a prompt once for
      the rows that share them.
  """

  def __init__(
    self,
    config: transformer.ModelConfig,
    params,
    mesh,
    check: Callable[[], None] = lambda: None,
  ):
    """Computes nothing yet."""
    self.config, self.params, self.mesh = config, params, mesh
    self.check = check
    self.pace: float | None = None
    self.row_steps = self.tokens = self.columns = 0

  @functools.cached_property
  def weights(self) -> dict:
    """Parameters as `transformer.decode` reads them."""
    return transformer.for_decoding(self.config, self.params, self.mesh)

  @functools.cached_property
  def reading(self) -> dict:
    """Parameters as `transformer.prefill` reads them."""
    return transformer.for_prompts(self.config, self.params, self.mesh)

  def generate(
    self, prompts: batch_lib.Prompts, rows, key, settings: Settings
  ) -> batch_lib.Rollout:
    """Samples one batch of prompts.

    Args:
      prompts: host prompts.
      rows: int [P], the prompts of the batch; a negative number is a prompt
        that fills it up, whose responses have no tokens.
      key: PRNG key; (key, id, g) fixes the random numbers of a sample.
      settings: how to sample.

    Returns:
      Rollout of host arrays with B = P * G rows, prompt-major.
    """
    put = functools.partial(sharding.put_rows, mesh=self.mesh)
    first_P = prompts.first_P
    if first_P is None:
      first_P = np.zeros(len(prompts), np.int64)
    with jax.set_mesh(self.mesh):
      state, prefix, look = _begin(
        self.config,
        self.reading,
        self.weights,
        *put(
          (
            prompts.tokens_PT[rows],
            prompts.mask_PT[rows],
            prompts.ids_P[rows].astype(np.uint32),
            first_P[rows].astype(np.uint32),
            rows >= 0,
          )
        ),
        key,
        settings,
      )
      return self._decode(state, prefix, look, settings)

  def _decode(self, state, prefix, look, s: Settings) -> batch_lib.Rollout:
    """Calls `_run` until no response lives or all are at their limit.

    Args:
      state: state after the first token.
      prefix: keys and values of the prompts.
      look: as `_look` returns it.
      s: how to sample.
    """
    shards = sharding.batch_shards(self.mesh)
    rows = len(state.row_B) // shards  # of each device, as all below
    prompts = len(prefix.mask_NC) // shards
    out = _Responses(rows * shards, shards, s)
    step, most = map(int, sharding.fetch(look))
    self.row_steps += rows * shards
    while most and step < s.max_new_tokens:
      size = state.cache.size
      smaller = _smaller(rows, prompts, prefix.mask_NC.shape[1], size, s)
      fitting = [count for count in smaller if count >= most]
      if fitting:
        out.put(state)
        rows = prompts = fitting[-1]
        state, prefix = _keep_living(state, prefix, rows)
        continue  # a larger cache may make the next halving worth it
      if step > size:
        state = state.replace(cache=_grow(state.cache, _next_size(size, s)))
        self.pace = None  # tokens take longer now
        continue
      self.check()
      before, begun = step, time.perf_counter()
      state, look = _run(
        self.config,
        self.weights,
        prefix,
        state,
        np.int32(smaller[0] if smaller else 0),
        np.int32(self._tokens_of_call(s)),
        s,
      )
      step, most = map(int, sharding.fetch(look))
      self.pace = (time.perf_counter() - begun) / (step - before)
      steps, width = shards * (step - before), prefix.mask_NC.shape[1]
      self.row_steps += steps * rows
      self.columns += steps * (prompts * width + rows * (size + s.chunk))
    out.put(state)
    rollout = out.rollout()
    self.tokens += int(rollout.mask_BT.sum())
    return rollout

  def _tokens_of_call(self, s: Settings) -> int:
    """Tokens that the next call may decode; they do not change the samples.

    A first call shows the pace by one chunk. Several hosts would have to
    agree on a pace: theirs are calls of `s.call` tokens.
    """
    if hosts.count() > 1:
      return s.call
    if self.pace is None:
      return s.chunk
    if s.call * self.pace <= CALL_S:
      return s.call
    return max(s.chunk, int(CALL_S / self.pace))


def sample(
  engine: Engine, prompts: batch_lib.Prompts, key, settings: Settings
) -> batch_lib.Rollout:
  """Samples host prompts, batch by batch, into host arrays.

  Args:
    engine: the policy.
    prompts: P prompts. One with a negative id only fills up a batch; its
      responses have no tokens.
    key: PRNG key of the sampling of a step.
    settings: how to sample.

  Returns:
    Rollout with B = P * G rows, prompt-major.
  """
  return jax.tree.map(
    lambda *arrays: np.concatenate(arrays),
    *batches(engine, prompts, key, settings),
  )


def batches(
  engine: Engine, prompts: batch_lib.Prompts, key, settings: Settings
) -> Iterator[batch_lib.Rollout]:
  """Yields the rollouts of settings.batch_prompts prompts at a time.

  The last batch is filled up with rows that are not decoded, so that one
  program serves all batches.
  """
  count = len(prompts)
  size = settings.batch_prompts or count
  for start in range(0, count, size):
    rows = np.arange(start, start + size)
    real = min(size, count - start)
    rows = np.where(rows < count, rows, -1)
    rows = np.where(prompts.ids_P[rows] < 0, -1, rows)
    rollout = engine.generate(prompts, rows, key, settings)
    yield jax.tree.map(
      lambda x, end=real * settings.num_generations: x[:end], rollout
    )


def lower(
  config: transformer.ModelConfig,
  params,
  mesh,
  prompts: int,
  width: int,
  settings: Settings,
) -> tuple[Callable, Callable]:
  """Prepares to lower the two programs of sampling from shapes alone.

  The devices may exist for the compiler only.

  Args:
    config: configuration of the policy.
    params: abstract parameters of the policy with their shardings.
    mesh: mesh of the devices.
    prompts: P, prompts of a batch.
    width: tokens of a prompt.
    settings: how to sample.

  Returns:
    (begin, run): functions without arguments that lower the reading of the
    prompts, and the loop over tokens with a cache of its last size.
  """
  size = 0
  while size < _next_size(size, settings):
    size = _next_size(size, settings)
  weights = jax.eval_shape(
    functools.partial(transformer.unroll, config), params
  )
  shape = jax.ShapeDtypeStruct
  rows = sharding.rows(mesh)
  key = jax.eval_shape(lambda: jax.random.key(0))
  inputs = (
    shape((prompts, width), jnp.int32, sharding=rows),
    shape((prompts, width), bool, sharding=rows),
    shape((prompts,), jnp.uint32, sharding=rows),
    shape((prompts,), jnp.uint32, sharding=rows),
    shape((prompts,), bool, sharding=rows),
    shape(key.shape, key.dtype, sharding=sharding.replicated(mesh)),
  )
  state, prefix, _ = jax.eval_shape(
    functools.partial(_begin, config, settings=settings),
    params,
    weights,
    *inputs,
  )
  state = state.replace(
    cache=jax.eval_shape(
      lambda: cache_lib.empty(config, prompts, settings.num_generations, size)
    )
  )

  def placed(path, x):
    names = _axes(path, x)
    names = (*names, *(None,) * (x.ndim - len(names)))
    return shape(
      x.shape, x.dtype, sharding=sharding.named(names, x.shape, mesh)
    )

  state, prefix = (
    jax.tree_util.tree_map_with_path(placed, tree) for tree in (state, prefix)
  )
  weights = jax.tree.map(
    lambda x, place: shape(x.shape, x.dtype, sharding=place),
    weights,
    transformer.decode_shardings(config, mesh),
  )

  def begin():
    with jax.set_mesh(mesh):
      return _begin.lower(config, params, weights, *inputs, settings)

  def run():
    with jax.set_mesh(mesh):
      zero = np.int32(0)
      return _run.lower(config, weights, prefix, state, zero, zero, settings)

  return begin, run


class _Responses:
  """Responses on the host, gathered from batches that become smaller."""

  def __init__(self, rows: int, shards: int, settings: Settings):
    """Makes room for `rows` responses, in order of their devices."""
    self.settings = settings
    shape = rows, settings.max_new_tokens
    self.shards = shards
    self.tokens_BT = np.zeros(shape, np.int32)
    self.logp_BT = np.zeros(shape, np.float32)
    self.length_B = np.zeros(rows, np.int32)

  def put(self, state: DecodeState) -> None:
    """Takes over what the rows of a state have drawn so far."""
    row_B, tokens_BT, logp_BT, length_B = sharding.fetch(
      (state.row_B, state.tokens_BT, state.logp_BT, state.length_B)
    )
    width = len(self.length_B) // self.shards
    first_B = np.arange(len(row_B)) // (len(row_B) // self.shards) * width
    row_B, length = first_B + row_B, self.settings.max_new_tokens
    self.tokens_BT[row_B] = tokens_BT[:, :length]
    self.logp_BT[row_B] = logp_BT[:, :length]
    self.length_B[row_B] = np.minimum(length_B, length)

  def rollout(self) -> batch_lib.Rollout:
    """Returns the responses, zero where they have ended."""
    mask_BT = np.arange(self.tokens_BT.shape[1]) < self.length_B[:, None]
    tokens_BT = np.where(mask_BT, self.tokens_BT, 0)
    stopped_BT = np.isin(tokens_BT, self.settings.stop_ids) & mask_BT
    return batch_lib.Rollout(
      tokens_BT=tokens_BT,
      mask_BT=mask_BT,
      logp_BT=np.where(mask_BT, self.logp_BT, np.float32(0)),
      finished_B=stopped_BT.any(axis=1),
    )


def _smaller(
  rows: int, prompts: int, width: int, size: int, s: Settings
) -> list[int]:
  """Numbers of rows to which a device's share may be made smaller, falling.

  While the responses of a prompt share its keys, a step reads `prompts * width
  + rows * size` columns of keys; in a smaller batch each row has keys of its
  own. Only sizes that read no more than now are taken.

  Args:
    rows: rows of a device now.
    prompts: prompts of a device whose keys are held.
    width: columns of a prompt.
    size: columns of a response.
    s: how to sample.
  """
  counts, now = [], prompts * width + rows * size
  count = rows
  while count > 1 and math.ceil(count / 2) >= s.least_rows:
    count = math.ceil(count / 2)
    if count * (width + size) <= now:
      counts.append(count)
  return counts


def _next_size(size: int, s: Settings) -> int:
  """Columns of the cache after `size`; 0 has none before it."""
  # The last token is never read. Whole chunks may run past the end.
  padded = math.ceil((s.max_new_tokens - 1) / s.chunk) * s.chunk
  first = math.ceil(s.first_cache / s.chunk) * s.chunk
  # Each size is a program of all layers. A longer one that is four times as
  # large would have attention read three times the keys that it needs.
  return min((4 if size < _DOUBLED else 2) * size or first, padded)


@functools.partial(jax.jit, static_argnames=("config", "settings"))
def _begin(
  config: transformer.ModelConfig,
  params,
  weights,
  prompt_PT,
  prompt_mask_PT,
  ids_P,
  first_P,
  real_P,
  key,
  settings: Settings,
) -> tuple[DecodeState, cache_lib.Prefix, jax.Array]:
  """Reads the prompts and draws the first token of each response.

  Reads with the parameters of training, whose layers are scanned: they cross
  the devices once more per batch, where one more program of unrolled layers
  would be compiled per width of prompts.

  Args:
    config: configuration of the policy.
    params: all parameters, from `transformer.for_prompts`.
    weights: the same, from `transformer.for_decoding`.
    prompt_PT: int32 tokens, padded on the left.
    prompt_mask_PT: bool, real tokens.
    ids_P: uint32 numbers of the draws.
    first_P: uint32, numbers of the first samples in their groups.
    real_P: bool, False for prompts that fill up the batch.
    key: PRNG key of the sampling of a step.
    settings: how to sample.

  Returns:
    (state, keys of the prompts by layer, look); see `_look`.
  """
  s, prompts = settings, len(prompt_PT)
  rows = prompts * s.num_generations
  size = _next_size(0, s)
  # The last prompt token predicts the first token of each sample.
  hidden, prefix = transformer.prefill(
    config, params, prompt_PT, prompt_mask_PT
  )
  uniform_BT2 = _uniforms(
    key, ids_P, first_P, s.num_generations, s.max_new_tokens
  )
  real_B = jnp.repeat(real_P, s.num_generations)
  token_B, logp_B, alive_B = _draw(
    weights,
    jnp.repeat(hidden[:, -1], s.num_generations, axis=0),
    uniform_BT2[:, 0],
    real_B,
    s,
  )
  columns = math.ceil((s.max_new_tokens - 1) / s.chunk) * s.chunk + 1

  def buffer(first_B):
    return jnp.zeros((rows, columns), first_B.dtype).at[:, 0].set(first_B)

  state = DecodeState(
    step=jnp.int32(1),
    row_B=jnp.arange(rows, dtype=jnp.int32)
    % (rows // sharding.shards_of("batch", prompts)),
    token_B=token_B,
    alive_B=alive_B,
    length_B=real_B.astype(jnp.int32),
    uniform_BT2=uniform_BT2,
    tokens_BT=buffer(token_B),
    logp_BT=buffer(logp_B),
    cache=cache_lib.empty(config, prompts, s.num_generations, size),
  )
  prefix = prefix.replace(k=tuple(prefix.k), v=tuple(prefix.v))
  return _placed(state), _placed(prefix), _look(state)


@functools.partial(
  jax.jit, static_argnames=("config", "settings"), donate_argnames="state"
)
def _run(
  config: transformer.ModelConfig,
  weights,
  prefix: cache_lib.Prefix,
  state: DecodeState,
  enough,
  call,
  settings: Settings,
) -> tuple[DecodeState, jax.Array]:
  """Decodes chunks of tokens, at least one.

  Ends before if the cache is full, the limit of tokens is reached, or at most
  `enough` rows of each device live. These are read on the devices: the host
  waits for nothing between two tokens.

  Args:
    config: configuration of the policy.
    weights: its parameters, from `transformer.for_decoding`.
    prefix: keys of the prompts by layer, of N rows.
    state: N * R rows; donated.
    enough: int32 scalar.
    call: int32 scalar, tokens that the chunks may have together.
    settings: how to sample.

  Returns:
    (state, look); see `_look`.
  """
  s, size = settings, state.cache.size
  shape = state.cache.k[0].shape[:2]  # [N, R]
  # The last step from which one more chunk is within the call and the cache.
  last = jnp.minimum(
    state.step + jnp.maximum(call - s.chunk, 0), size + 1 - s.chunk
  )

  def goes_on(state: DecodeState):
    step, most = _look(state)
    return (step <= last) & (step < s.max_new_tokens) & (most > enough)

  def chunk(state: DecodeState) -> DecodeState:
    def token(carry, t):
      token_B, alive_B, new = carry
      hidden, new = transformer.decode(
        config, weights, token_B.reshape(*shape, 1), prefix, new, state.cache
      )
      # Beyond the limit, at the end of the last chunk, numbers do not matter.
      column = jnp.minimum(state.step + t, s.max_new_tokens - 1)
      token_B, logp_B, still_B = _draw(
        weights,
        hidden.reshape(len(token_B), -1),
        lax.dynamic_index_in_dim(
          state.uniform_BT2, column, axis=1, keepdims=False
        ),
        alive_B,
        s,
      )
      return (token_B, still_B, new), (token_B, logp_B, alive_B)

    (token_B, alive_B, new), (tokens_TB, logp_TB, alive_TB) = lax.scan(
      token,
      (state.token_B, state.alive_B, cache_lib.empty(config, *shape, s.chunk)),
      jnp.arange(s.chunk),
    )

    def put(x_BT, x_TB):
      return lax.dynamic_update_slice(x_BT, x_TB.T, (0, state.step))

    return state.replace(
      step=state.step + s.chunk,
      token_B=token_B,
      alive_B=alive_B,
      length_B=state.length_B + jnp.sum(alive_TB, axis=0, dtype=jnp.int32),
      tokens_BT=put(state.tokens_BT, tokens_TB),
      logp_BT=put(state.logp_BT, logp_TB),
      cache=cache_lib.flush(state.cache, new),
    )

  state = lax.while_loop(goes_on, chunk, state)
  return _placed(state), _look(state)


def _placed(state):
  """A state or keys of prompts, constrained to be split as `_axes` says."""

  return jax.tree_util.tree_map_with_path(
    lambda path, x: sharding.constrain(x, _axes(path, x)), state
  )


def _axes(path, x) -> tuple[str | None, ...]:
  """Logical axes of an array of a state or of the keys of prompts."""
  if x.ndim == 0:
    return ()
  if path[0].name == "cache":
    return _CACHE
  return _PREFIX if path[0].name in ("k", "v") else _ROWS


def _look(state: DecodeState) -> jax.Array:
  """What the host reads between two calls, int32 [2].

  The step, and the largest number of rows of a device that live.
  """
  alive_B = state.alive_B
  shards = sharding.shards_of("batch", len(alive_B))
  living = jnp.sum(alive_B.reshape(shards, -1), axis=1, dtype=jnp.int32)
  return sharding.constrain(jnp.stack([state.step, jnp.max(living)]), ())


def _keep_living(
  state: DecodeState, prefix: cache_lib.Prefix, rows: int
) -> tuple[DecodeState, cache_lib.Prefix]:
  """Moves the living rows of each device into a batch of `rows` per device.

  No row leaves its device. Each has its prompt's keys to itself afterwards:
  the cache is [B, 1] and the keys of prompts [B].

  Args:
    state: state; the arrays of its cache are deleted.
    prefix: keys of the prompts; its arrays are deleted.
    rows: at least the number of rows of any device that live.

  Returns:
    (state, prefix) of the smaller batch.
  """
  group = state.cache.k[0].shape[1]
  index_B = _living(state.alive_B, rows)
  mask_NC = _take(prefix.mask_NC, index_B, _ROWS, group)
  rest = _take(
    {
      name: getattr(state, name)
      for name in DecodeState.__dataclass_fields__
      if name not in ("step", "cache")
    },
    index_B,
    _ROWS,
  )
  layers = [
    _replaced(_take_layer, layer, index_B)
    for layer in zip(
      state.cache.k, state.cache.v, prefix.k, prefix.v, strict=True
    )
  ]
  k, v, prefix_k, prefix_v = zip(*layers, strict=True)
  return (
    state.replace(cache=state.cache.replace(k=k, v=v), **rest),
    cache_lib.Prefix(k=prefix_k, v=prefix_v, mask_NC=mask_NC),
  )


def _grow(cache: cache_lib.Cache, size: int) -> cache_lib.Cache:
  """The cache with `size` columns; the arrays of the old one are deleted."""
  layers = [
    _replaced(_grow_layer, layer, size)
    for layer in zip(cache.k, cache.v, strict=True)
  ]
  k, v = zip(*layers, strict=True)
  return cache.replace(k=k, v=v)


def _replaced(function, arrays, *args):
  """Result of a function of a layer's arrays, which are deleted.

  Layer by layer, so that at any time one layer at most is held twice.
  """
  result = jax.block_until_ready(function(arrays, *args))
  for x in arrays:
    x.delete()
  return result


@functools.partial(jax.jit, static_argnames="size")
def _grow_layer(layer, size: int):
  """A layer's (k, v) with `size` columns."""
  return tuple(
    sharding.constrain(x, _CACHE) for x in cache_lib.grow(*layer, size)
  )


@functools.partial(jax.jit, static_argnames="rows")
def _living(alive_B, rows: int) -> jax.Array:
  """Numbers of `rows` rows of each device, the living ones in front."""
  return sharding.by_shard(
    lambda alive: jnp.argsort(~alive, stable=True)[:rows].astype(jnp.int32),
    (alive_B,),
    (_ROWS,),
  )


@functools.partial(jax.jit, static_argnames=("axes", "group"))
def _take(tree, index_B, axes, group: int = 1):
  """Rows of arrays by their numbers among those of their device.

  Args:
    tree: arrays of rows, or of one row for `group` consecutive numbers.
    index_B: int32 numbers, from `_living`.
    axes: logical axes of the arrays; the rest is not split.
    group: see `tree`.
  """

  def take(x):
    taken = sharding.by_shard(
      lambda x, index: x[index // group],
      (x, index_B),
      (axes + (None,) * (x.ndim - len(axes)), _ROWS),
    )
    return sharding.constrain(taken, axes)

  return jax.tree.map(take, tree)


@jax.jit
def _take_layer(layer, index_B):
  """Rows of a layer: (k, v) of the responses, and (k, v) of the prompts."""
  group = layer[0].shape[1]
  own = tuple(x.reshape(-1, 1, *x.shape[2:]) for x in layer[:2])
  return (
    *_take(own, index_B, _CACHE),
    *_take(layer[2:], index_B, _PREFIX, group),
  )


def _uniforms(key, ids_P, first_P, group: int, length: int) -> jax.Array:
  """Two uniform numbers for each sample and token, float32 [B, T, 2]."""
  by_prompt = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids_P)
  by_sample = jax.vmap(
    lambda k, first: jax.vmap(lambda g: jax.random.fold_in(k, g))(
      first + jnp.arange(group, dtype=jnp.uint32)
    )
  )(by_prompt, first_P)
  draw = jax.vmap(lambda k: jax.random.uniform(k, (length, 2)))
  return draw(by_sample.reshape(-1))


def _draw(weights, hidden_BD, uniform_B2, alive_B, s: Settings):
  """Token, log-prob and whether its response goes on, for each row."""
  logits_BV = ops.matmul_logits(hidden_BD, transformer.head(weights))
  token_B, logp_B = _choose(logits_BV, uniform_B2, s)
  stop_B = jnp.isin(token_B, jnp.array(s.stop_ids, jnp.int32))
  return token_B, logp_B, alive_B & ~stop_B


def _choose(logits_BV, uniform_B2, s: Settings):
  """A token a row and its log-prob."""
  if s.temperature == 0:
    token = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return token, jnp.max(logits_BV, axis=-1) - jax.nn.logsumexp(
      logits_BV, axis=-1
    )
  rows, vocab = logits_BV.shape
  return ops.sample_from_logits(
    logits_BV / s.temperature,
    uniform_B2,
    top_k=s.top_k,
    top_p=s.top_p,
    shards=sharding.shards_of("vocab", vocab),
    rows=ops.tile_rows(rows // sharding.shards_of("batch", rows)),
  )
