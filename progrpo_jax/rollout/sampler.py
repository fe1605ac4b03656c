"""Sampling: one jitted call from prompts to finished responses.

The prompt is read once per group and its keys are shared by the G samples.
Decoding runs on the device in chunks; after each chunk it stops if nothing is
alive. The cache of responses starts small and doubles, so that early tokens do
not pay for late columns. A sample's randomness comes from its own id: neither
its row, nor the batch around it, nor the mesh changes what it draws from given
logits. In float32 neither changes its tokens; in bfloat16 the last bits of the
logits depend on the shapes of a program, and most long responses part ways
with those of another batch somewhere. The distribution is the same.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math

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
    chunk: tokens decoded between two looks at whether any sample is alive.
    first_cache: columns of the cache at the start.
    batch_prompts: prompts whose samples are drawn, and whose keys are held,
      at one time; 0 for all of them.

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
        ("num_generations", 1), ("max_new_tokens", 1), ("chunk", 1),
        ("first_cache", 1), ("batch_prompts", 0)):
      if getattr(self, name) < least:
        raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")


@functools.partial(jax.jit, static_argnames=("config", "settings"))
def generate(
    config: transformer.ModelConfig, params, prompt_PT, prompt_mask_PT, ids_P,
    key, settings: Settings,
) -> batch_lib.Rollout:
  """Samples G responses to each prompt.

  Args:
    config: of the policy.
    params: of the policy.
    prompt_PT: int32, padded on the left.
    prompt_mask_PT: bool.
    ids_P: uint32 draw numbers; (key, id, g) fixes a sample's randomness.
    key: of this step's sampling.
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

  def choose(hidden_BD, column, alive):
    logits = ops.matmul_logits(hidden_BD, head)
    token, logp = _choose(logits, uniforms[:, column], s)
    stop = jnp.isin(token, jnp.array(s.stop_ids, jnp.int32))
    return (
        jnp.where(alive, token, 0), jnp.where(alive, logp, 0.0),
        alive & ~stop)

  hidden, prefix = transformer.prefill(
      config, params, prompt_PT, prompt_mask_PT)
  first = choose(
      jnp.repeat(hidden[:, -1], group, axis=0), 0, jnp.ones(rows, bool))

  # Token t - 1 goes in at column t - 1 of the cache, token t comes out; the
  # last token never goes in. Whole chunks may run past the end.
  steps = length - 1
  padded = math.ceil(steps / s.chunk) * s.chunk
  buffers = tuple(
      jnp.zeros((rows, padded + 1), x.dtype).at[:, 0].set(x)
      for x in (first[0], first[1], jnp.ones(rows, bool)))
  size = min(math.ceil(s.first_cache / s.chunk) * s.chunk, padded)
  cache = cache_lib.empty(config, prompts, group, size)

  def decode(carry, _):
    t, token, alive, cache, (tokens, logps, masks) = carry
    hidden, cache = transformer.decode(
        config, unrolled, token.reshape(prompts, group, 1), prefix, cache)
    before = alive
    token, logp, alive = choose(
        hidden.reshape(rows, -1), jnp.minimum(t, length - 1), alive)
    tokens = lax.dynamic_update_slice(tokens, token[:, None], (0, t))
    logps = lax.dynamic_update_slice(logps, logp[:, None], (0, t))
    masks = lax.dynamic_update_slice(masks, before[:, None], (0, t))
    return (t + 1, token, alive, cache, (tokens, logps, masks)), None

  carry = (jnp.int32(1), first[0], first[2], cache, buffers)
  while steps > 0:
    carry = lax.while_loop(
        lambda c, end=size: (c[0] <= min(end, steps)) & jnp.any(c[2]),
        lambda c: lax.scan(decode, c, length=s.chunk)[0], carry)
    if size >= padded:
      break
    size = min(2 * size, padded)
    carry = (*carry[:3], cache_lib.grow(carry[3], size), carry[4])

  tokens, logps, masks = (x[:, :length] for x in carry[4])
  stopped = jnp.isin(tokens, jnp.array(s.stop_ids, jnp.int32)) & masks
  return batch_lib.Rollout(
      tokens_BT=tokens, mask_BT=masks, logp_BT=logps,
      finished_B=jnp.any(stopped, axis=1))


def sample(
    config: transformer.ModelConfig, params, prompts: batch_lib.Prompts, key,
    settings: Settings, mesh,
) -> batch_lib.Rollout:
  """`generate` from host prompts to host arrays, a batch after the other."""
  return jax.tree.map(
      lambda *parts: np.concatenate(parts),
      *batches(config, params, prompts, key, settings, mesh))


def batches(
    config: transformer.ModelConfig, params, prompts: batch_lib.Prompts, key,
    settings: Settings, mesh,
) -> Iterator[batch_lib.Rollout]:
  """Yields the rollout of each settings.batch_prompts prompts in turn.

  In float32 a sample does not depend on its batch (in bfloat16 only its
  random numbers do not: see above). The last one is filled up with
  prompts of the first, whose samples are dropped.
  """
  count = len(prompts)
  size = settings.batch_prompts or count
  for start in range(0, count, size):
    rows = np.arange(start, start + size) % count
    tokens, mask, ids = sharding.put_rows(
        (prompts.tokens_PT[rows], prompts.mask_PT[rows],
         prompts.ids_P[rows].astype(np.uint32)), mesh)
    with jax.set_mesh(mesh):
      rollout = sharding.fetch(
          generate(config, params, tokens, mask, ids, key, settings))
    real = min(size, count - start) * settings.num_generations
    yield jax.tree.map(lambda x, real=real: x[:real], rollout)


def _uniforms(key, ids_P, group: int, length: int) -> jax.Array:
  """Two uniform numbers for each sample and token, float32 [B, T, 2]."""
  by_prompt = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids_P)
  by_sample = jax.vmap(
      lambda k: jax.vmap(lambda g: jax.random.fold_in(k, g))(
          jnp.arange(group)))(by_prompt)
  draw = jax.vmap(lambda k: jax.random.uniform(k, (length, 2)))
  return draw(by_sample.reshape(-1))


def _choose(logits_BV, uniform_B2, s: Settings):
  """A token a row and its log-prob."""
  if s.temperature == 0:
    token = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    picked = jnp.take_along_axis(logits_BV, token[:, None], axis=1)[:, 0]
    return token, picked - jax.nn.logsumexp(logits_BV, axis=-1)
  return ops.sample_from_logits(
      logits_BV / s.temperature, uniform_B2, top_k=s.top_k, top_p=s.top_p)
