"""The prompts and rewards of tools/peers/work.py as a progrpo_jax task."""

from peers import work

from progrpo_jax.rewards.score import Score
from progrpo_jax.tasks import base

VERIFIER = "peers.ours_task:score"


def load(split, *, data_dir, seed, tokens, count=64):
  """Returns prompts of random words."""
  return [
    base.Row("peers.ours_task", work.prompt(n, tokens), None, {})
    for n in range(count)
  ]


def score(completion, reference):
  """Returns the share of even words."""
  share = work.reward(completion)
  return Score(share, share > 0.5)
