"""Sampling: from prompts to finished responses.

The prompt is read once per group, and the G samples share its keys. Tokens are
decoded in calls of a bounded number of them, each one loop on the devices.
Between two calls, about `CALL_S` seconds apart where the machine is slow, the
host reads two numbers, and may stop the run, give the cache of responses more
columns (it starts small, so that early tokens do not pay for late columns), or
move the rows that still live into a smaller batch: once at most half of them
live, the others would only cost time. A program is compiled for each pair of a
number of rows and a number of columns, when it is first reached.
"""

from collections.abc import Callable, Iterator
import functools
import time

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax.devices import hosts, sharding
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters
from progrpo_jax.rollout import decoding, resizing

# Seconds that a call of decoding should take, by the pace of the one before it:
# a run that is asked to stop should do so within ten seconds.
CALL_S = 2.0


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
    config: config_lib.ModelConfig,
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
  def decode_params(self) -> dict:
    """Parameters as `transformer.decode` reads them."""
    return parameters.for_decoding(self.config, self.params, self.mesh)

  @functools.cached_property
  def prompt_params(self) -> dict:
    """Parameters as `transformer.prefill` reads them."""
    return parameters.for_prompts(self.config, self.params, self.mesh)

  def generate(
    self, prompts: batch_lib.Prompts, rows, key, settings: decoding.Settings
  ) -> batch_lib.Rollout:
    """Samples one batch of prompts.

    Args:
      prompts: host prompts.
      rows: int [P], the prompts of the batch; a negative number is a prompt
        that fills it up, whose responses have no tokens.
      key: PRNG key; (key, id, g) fixes the random numbers of a sample.
      settings: temperature, lengths and sizes of the batches.

    Returns:
      Rollout of host arrays with B = P * G rows, prompt-major.
    """
    put = functools.partial(sharding.put_rows, mesh=self.mesh)
    first_P = prompts.first_P
    if first_P is None:
      first_P = np.zeros(len(prompts), np.int64)
    with jax.set_mesh(self.mesh):
      state, prefix, look = decoding.begin(
        self.config,
        self.prompt_params,
        self.decode_params,
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

  def _decode(
    self, state, prefix, look, s: decoding.Settings
  ) -> batch_lib.Rollout:
    """Calls `decoding.run` until no response lives or all are at their limit.

    Args:
      state: state after the first token.
      prefix: keys and values of the prompts.
      look: as `decoding.look` returns it.
      s: temperature, lengths and sizes of the batches.
    """
    shards = sharding.batch_shards(self.mesh)
    rows = len(state.row_B) // shards  # of each device, as all below
    prompts = len(prefix.mask_NC) // shards
    out = _Responses(rows * shards, shards, s)
    step, most = map(int, sharding.fetch(look))
    self.row_steps += rows * shards
    while most and step < s.max_new_tokens:
      size = state.cache.size
      smaller = resizing.smaller(
        rows, prompts, prefix.mask_NC.shape[1], size, s
      )
      fitting = [count for count in smaller if count >= most]
      if fitting:
        out.put(state)
        rows = prompts = fitting[-1]
        state, prefix = resizing.keep_living(state, prefix, rows)
        continue  # a larger cache may make the next halving worth it
      if step > size:
        state = state.replace(
          cache=resizing.grow(state.cache, decoding.next_size(size, s))
        )
        self.pace = None  # tokens take longer now
        continue
      self.check()
      before, begun = step, time.perf_counter()
      state, look = decoding.run(
        self.config,
        self.decode_params,
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

  def _tokens_of_call(self, s: decoding.Settings) -> int:
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
  engine: Engine, prompts: batch_lib.Prompts, key, settings: decoding.Settings
) -> batch_lib.Rollout:
  """Samples host prompts, batch by batch, into host arrays.

  Args:
    engine: the policy.
    prompts: P prompts. One with a negative id only fills up a batch; its
      responses have no tokens.
    key: PRNG key of the sampling of a step.
    settings: temperature, lengths and sizes of the batches.

  Returns:
    Rollout with B = P * G rows, prompt-major.
  """
  return jax.tree.map(
    lambda *arrays: np.concatenate(arrays),
    *batches(engine, prompts, key, settings),
  )


def batches(
  engine: Engine, prompts: batch_lib.Prompts, key, settings: decoding.Settings
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


class _Responses:
  """Responses on the host, gathered from batches that become smaller."""

  def __init__(self, rows: int, shards: int, settings: decoding.Settings):
    """Makes room for `rows` responses, in order of their devices."""
    self.settings = settings
    shape = rows, settings.max_new_tokens
    self.shards = shards
    self.tokens_BT = np.zeros(shape, np.int32)
    self.logp_BT = np.zeros(shape, np.float32)
    self.length_B = np.zeros(rows, np.int32)

  def put(self, state: decoding.DecodeState) -> None:
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
