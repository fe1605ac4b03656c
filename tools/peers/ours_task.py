"""The task of tools/peers/work.py as progrpo_jax reads one."""

from peers import work

from progrpo_jax.rewards.score import Score
from progrpo_jax.tasks import base

VERIFIER = "peers.ours_task:score"


def load(split, *, data_dir, seed, tokens, count=64):
  """Prompts of random words."""
  return [
      base.Row("peers.ours_task", work.prompt(n, tokens), None, {})
      for n in range(count)]


def score(completion, reference):
  """The share of even words."""
  share = work.reward(completion)
  return Score(share, share > 0.5)
