"""The streams of random numbers of a step.

All keys of a run are folded from one. Each use of a step has a stream of its
own, so that what is folded into its key, such as the number of a draw, meets
the same number of no other use. Two uses keep clear of the others by a large
number of their own: evaluations, which fold one into the key of the run
(`evaluators.held_out.STREAM`), and later turns of a response, which fold one
into the key of its samples (`rollout.turns.STREAM`).
"""

import enum

import jax


class Stream(enum.IntEnum):
  """What random numbers of a step are for; its number is folded in."""

  SAMPLE = 0  # responses, by the number of a prompt's draw and of the sample
  UPDATE = 1  # dropout and losses that draw, by the number of the update
  REPHRASE = 2  # rephrased solutions, by the number of a prompt's draw
  CHOOSE = 3  # prompts of the minibatches, by the number of the pass


def stream_key(key: jax.Array, step: int, stream: Stream) -> jax.Array:
  """Returns the PRNG key of a stream of a step.

  Args:
    key: PRNG key of the run.
    step: steps done.
    stream: use of the random numbers.
  """
  return jax.random.fold_in(jax.random.fold_in(key, step), int(stream))
