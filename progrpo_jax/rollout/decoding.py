"""The compiled programs of sampling: reading the prompts, and decoding.

`begin` reads each prompt once, which its G samples share, and draws their first
tokens. `run` decodes chunks of tokens in one loop on the devices; the host may
look between two calls, never within one. sampler.py calls them.

A sample's random numbers depend on its own id alone, not on its row, the
batch around it, or the mesh. In float32 its tokens do not depend on these
either. In bfloat16 the last bits of the logits depend on the shapes of a
program, so that most long responses differ somewhere from those of another
batch; their distribution is the same.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import ops
from progrpo_jax.devices import sharding
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters, transformer

# Columns from which on a cache that is full is doubled; a smaller one becomes
# four times as large.
_DOUBLED = 256


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to sample.

  Attributes:
    num_generations: G, samples of each prompt.
    max_new_tokens: length limit of a response.
    temperature: at least 0. Above 0 it divides the logits; 0 takes the
      likeliest token, with log-probs at temperature 1.
    top_p: mass kept; 1.0 keeps all.
    top_k: tokens kept; 0 keeps all.
    stop_ids: token ids that end a response; they are part of it.
    chunk: tokens after which their keys are moved into the cache, and after
      which decoding may end.
    first_cache: columns of the cache at the start.
    call: tokens of a call at the most, between two looks of the host; fewer
      where they take longer than `sampler.CALL_S`, but a chunk.
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
ROWS = ("batch",)
PREFIX = ("batch", "kv_heads")
CACHE = ("batch", None, "kv_heads")


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


def next_size(size: int, s: Settings) -> int:
  """Columns of the cache after `size`; 0 has none before it."""
  # The last token is never read. Whole chunks may run past the end.
  padded = math.ceil((s.max_new_tokens - 1) / s.chunk) * s.chunk
  first = math.ceil(s.first_cache / s.chunk) * s.chunk
  # Each size is a program of all layers. A longer one that is four times as
  # large would have attention read three times the keys that it needs.
  return min((4 if size < _DOUBLED else 2) * size or first, padded)


def lower(
  config: config_lib.ModelConfig,
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
    settings: temperature, lengths and sizes of the batches.

  Returns:
    Two functions without arguments: they lower `begin`, and `run` with a cache
    of its last size.
  """
  size = 0
  while size < next_size(size, settings):
    size = next_size(size, settings)
  weights = jax.eval_shape(functools.partial(parameters.unroll, config), params)
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
    functools.partial(begin, config, settings=settings),
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
    parameters.decode_shardings(config, mesh),
  )

  def lower_begin():
    with jax.set_mesh(mesh):
      return begin.lower(config, params, weights, *inputs, settings)

  def lower_run():
    with jax.set_mesh(mesh):
      zero = np.int32(0)
      return run.lower(config, weights, prefix, state, zero, zero, settings)

  return lower_begin, lower_run


@functools.partial(jax.jit, static_argnames=("config", "settings"))
def begin(
  config: config_lib.ModelConfig,
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
    params: all parameters, from `parameters.for_prompts`.
    weights: the same, from `parameters.for_decoding`.
    prompt_PT: int32 tokens, padded on the left.
    prompt_mask_PT: bool, real tokens.
    ids_P: uint32 numbers of the draws.
    first_P: uint32, numbers of the first samples in their groups.
    real_P: bool, False for prompts that fill up the batch.
    key: PRNG key of the sampling of a step.
    settings: temperature, lengths and sizes of the batches.

  Returns:
    (state, keys of the prompts by layer, look); see `look`.
  """
  s, prompts = settings, len(prompt_PT)
  rows = prompts * s.num_generations
  size = next_size(0, s)
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
  return _placed(state), _placed(prefix), look(state)


@functools.partial(
  jax.jit, static_argnames=("config", "settings"), donate_argnames="state"
)
def run(
  config: config_lib.ModelConfig,
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
    weights: its parameters, from `parameters.for_decoding`.
    prefix: keys of the prompts by layer, of N rows.
    state: N * R rows; donated.
    enough: int32 scalar.
    call: int32 scalar, tokens that the chunks may have together.
    settings: temperature, lengths and sizes of the batches.

  Returns:
    (state, look); see `look`.
  """
  s, size = settings, state.cache.size
  shape = state.cache.k[0].shape[:2]  # [N, R]
  # The last step from which one more chunk is within the call and the cache.
  last = jnp.minimum(
    state.step + jnp.maximum(call - s.chunk, 0), size + 1 - s.chunk
  )

  def goes_on(state: DecodeState):
    step, most = look(state)
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
  return _placed(state), look(state)


def look(state: DecodeState) -> jax.Array:
  """What the host reads between two calls, int32 [2].

  The step, and the largest number of rows of a device that live.
  """
  alive_B = state.alive_B
  shards = sharding.shards_of("batch", len(alive_B))
  living = jnp.sum(alive_B.reshape(shards, -1), axis=1, dtype=jnp.int32)
  return sharding.constrain(jnp.stack([state.step, jnp.max(living)]), ())


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
    return CACHE
  return PREFIX if path[0].name in ("k", "v") else ROWS


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
