"""Sampling: one jitted call from prompts to finished responses.

The prompt is read once per group, and the G samples share its keys. Decoding
runs on the device in chunks of steps, and stops after the first chunk at whose
end no sample is alive. The cache of responses starts small and doubles, so
that early tokens do not pay for late columns.

A sample's random numbers depend on its own id alone, not on its row, the
batch around it, or the mesh. In float32 its tokens do not depend on these
either. In bfloat16 the last bits of the logits depend on the shapes of a
program, so that most long responses differ somewhere from those of another
batch; their distribution is the same.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import ops
from progrpo_jax.devices import sharding
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import transformer


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
    chunk: decode steps between early-stop checks.
    first_cache: columns of the cache at the start.
    batch_prompts: prompts whose samples are drawn at one time, and whose keys
      the cache holds; 0 for all of them.

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
  batch_prompts: int = 0

  def __post_init__(self):
    for name, least in (
      ("num_generations", 1),
      ("max_new_tokens", 1),
      ("chunk", 1),
      ("first_cache", 1),
      ("batch_prompts", 0),
    ):
      if getattr(self, name) < least:
        raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")


@struct.dataclass
class DecodeState:
  """What one decode step hands to the next; B rows.

  Attributes:
    step: int32 scalar, tokens of a response that are drawn.
    token_B: int32, the last of them, which the next step reads.
    alive_B: bool, True while a response has not ended.
    cache: keys and values of the responses.
    tokens_BT: int32 tokens drawn so far.
    logp_BT: float32, their log-probs.
    mask_BT: bool, True for tokens of responses that were alive.
  """

  step: jax.Array
  token_B: jax.Array
  alive_B: jax.Array
  cache: cache_lib.Cache
  tokens_BT: jax.Array
  logp_BT: jax.Array
  mask_BT: jax.Array


@functools.partial(jax.jit, static_argnames=("config", "settings"))
def generate(
  config: transformer.ModelConfig,
  params,
  prompt_PT,
  prompt_mask_PT,
  ids_P,
  key,
  settings: Settings,
) -> batch_lib.Rollout:
  """Samples G responses to each prompt.

  Args:
    config: configuration of the policy.
    params: all parameters of the policy.
    prompt_PT: int32 tokens, padded on the left.
    prompt_mask_PT: bool, real tokens.
    ids_P: uint32 numbers of the draws; (key, id, g) fixes the random numbers
      of a sample.
    key: PRNG key of the sampling of a step.
    settings: how to sample.

  Returns:
    Rollout with B = P * G rows, prompt-major.
  """
  s = settings
  prompts, group, length = len(prompt_PT), s.num_generations, s.max_new_tokens
  rows = prompts * group
  uniforms = _uniforms(key, ids_P, group, length)
  unrolled = transformer.unroll(config, params)
  head = transformer.head(unrolled)

  def draw(hidden_BD, column, alive_B):
    """Token, log-prob and whether its response goes on, for each row."""
    logits_BV = ops.matmul_logits(hidden_BD, head)
    token_B, logp_B = _choose(logits_BV, uniforms[:, column], s)
    stop_B = jnp.isin(token_B, jnp.array(s.stop_ids, jnp.int32))
    return (
      jnp.where(alive_B, token_B, 0),
      jnp.where(alive_B, logp_B, 0.0),
      alive_B & ~stop_B,
    )

  # The last prompt token predicts the first token of each sample.
  hidden, prefix = transformer.prefill(
    config, params, prompt_PT, prompt_mask_PT
  )
  token_B, logp_B, alive_B = draw(
    jnp.repeat(hidden[:, -1], group, axis=0), 0, jnp.ones(rows, bool)
  )

  # Token t - 1 is read into column t - 1 of the cache and token t is drawn;
  # the last token is never read. Whole chunks may run past the end.
  steps = length - 1
  padded = math.ceil(steps / s.chunk) * s.chunk
  size = min(math.ceil(s.first_cache / s.chunk) * s.chunk, padded)

  def buffer(first_B):
    return jnp.zeros((rows, padded + 1), first_B.dtype).at[:, 0].set(first_B)

  def decode(state: DecodeState, _):
    hidden, cache = transformer.decode(
      config,
      unrolled,
      state.token_B.reshape(prompts, group, 1),
      prefix,
      state.cache,
    )
    token_B, logp_B, alive_B = draw(
      hidden.reshape(rows, -1),
      jnp.minimum(state.step, length - 1),
      state.alive_B,
    )

    def put(x_BT, x_B):
      return lax.dynamic_update_slice(x_BT, x_B[:, None], (0, state.step))

    return DecodeState(
      step=state.step + 1,
      token_B=token_B,
      alive_B=alive_B,
      cache=cache,
      tokens_BT=put(state.tokens_BT, token_B),
      logp_BT=put(state.logp_BT, logp_B),
      mask_BT=put(state.mask_BT, state.alive_B),
    ), None

  state = DecodeState(
    step=jnp.int32(1),
    token_B=token_B,
    alive_B=alive_B,
    cache=cache_lib.empty(config, prompts, group, size),
    tokens_BT=buffer(token_B),
    logp_BT=buffer(logp_B),
    mask_BT=buffer(jnp.ones(rows, bool)),
  )
  # One loop for each size of the cache. Its condition is read on the device:
  # the host waits for nothing between two tokens.
  while steps > 0:
    state = lax.while_loop(
      lambda state, end=size: (
        (state.step <= min(end, steps)) & jnp.any(state.alive_B)
      ),
      lambda state: lax.scan(decode, state, length=s.chunk)[0],
      state,
    )
    if size >= padded:
      break
    size = min(2 * size, padded)
    state = state.replace(cache=cache_lib.grow(state.cache, size))

  tokens_BT, logp_BT, mask_BT = (
    x[:, :length] for x in (state.tokens_BT, state.logp_BT, state.mask_BT)
  )
  stopped_BT = jnp.isin(tokens_BT, jnp.array(s.stop_ids, jnp.int32)) & mask_BT
  return batch_lib.Rollout(
    tokens_BT=tokens_BT,
    mask_BT=mask_BT,
    logp_BT=logp_BT,
    finished_B=jnp.any(stopped_BT, axis=1),
  )


def sample(
  config: transformer.ModelConfig,
  params,
  prompts: batch_lib.Prompts,
  key,
  settings: Settings,
  mesh,
) -> batch_lib.Rollout:
  """Samples host prompts, batch by batch, into host arrays; see `generate`."""
  return jax.tree.map(
    lambda *arrays: np.concatenate(arrays),
    *batches(config, params, prompts, key, settings, mesh),
  )


def batches(
  config: transformer.ModelConfig,
  params,
  prompts: batch_lib.Prompts,
  key,
  settings: Settings,
  mesh,
) -> Iterator[batch_lib.Rollout]:
  """Yields the rollouts of settings.batch_prompts prompts at a time.

  The last batch is filled up with prompts of the first, whose samples are
  dropped, so that one program serves all batches.
  """
  count = len(prompts)
  size = settings.batch_prompts or count
  for start in range(0, count, size):
    rows = np.arange(start, start + size) % count
    tokens, mask, ids = sharding.put_rows(
      (
        prompts.tokens_PT[rows],
        prompts.mask_PT[rows],
        prompts.ids_P[rows].astype(np.uint32),
      ),
      mesh,
    )
    with jax.set_mesh(mesh):
      rollout = sharding.fetch(
        generate(config, params, tokens, mask, ids, key, settings)
      )
    real = min(size, count - start) * settings.num_generations
    yield jax.tree.map(lambda x, real=real: x[:real], rollout)


def _uniforms(key, ids_P, group: int, length: int) -> jax.Array:
  """Two uniform numbers for each sample and token, float32 [B, T, 2]."""
  by_prompt = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids_P)
  by_sample = jax.vmap(
    lambda k: jax.vmap(lambda g: jax.random.fold_in(k, g))(jnp.arange(group))
  )(by_prompt)
  draw = jax.vmap(lambda k: jax.random.uniform(k, (length, 2)))
  return draw(by_sample.reshape(-1))


def _choose(logits_BV, uniform_B2, s: Settings):
  """A token a row and its log-prob."""
  if s.temperature == 0:
    token = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    picked = jnp.take_along_axis(logits_BV, token[:, None], axis=1)[:, 0]
    return token, picked - jax.nn.logsumexp(logits_BV, axis=-1)
  return ops.sample_from_logits(
    logits_BV / s.temperature, uniform_B2, top_k=s.top_k, top_p=s.top_p
  )
