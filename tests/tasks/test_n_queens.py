import random

from progrpo_jax.rewards import gym
from progrpo_jax.tasks import n_queens

gym_n_queens = gym.load("games.n_queens")


def test_all_completions_of_an_empty_board_are_found():
  config = gym_n_queens.NQueensConfig(n=6, min_remove=6, max_remove=6, seed=0)
  entry = gym_n_queens.NQueensDataset(config)[0]
  texts = n_queens.solve(entry, 100, random.Random(0))
  assert sorted(texts) == entry["metadata"]["valid_answers"]
  assert len(n_queens.solve(entry, 2, random.Random(0))) == 2
