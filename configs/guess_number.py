"""Several turns on a laptop's CPU: guess a number from 1 to 3 in two turns.

  progrpo warmup --config configs/guess_number.py:base \
    --output runs/guess_number/base
  progrpo train --config configs/guess_number.py \
    --workdir runs/guess_number/grpo

Argument: `grpo` (default), or `base` for the warm-up, which needs no policy to
start from. The base has learnt to write some number. What the task replies it
has never read, so that it begins by guessing at random in both turns.

Hardware and hours: three minutes on two cores, half of them compiling. pass@1
of 32 problems: 0.44 (0.35 - 0.53) before, which is guessing at random; 0.85
(0.75 - 0.92) after 60 steps.
"""

from progrpo_jax.settings import defaults, methods


def get_config(variant: str = "grpo"):
  """GRPO on a task that answers, at the smallest scale."""
  if variant not in ("grpo", "base"):
    raise ValueError(f"no variant {variant!r}; known: grpo, base")
  c = methods.grpo(defaults.get_config())
  c.model.init_from = "" if variant == "base" else "runs/guess_number/base"
  c.data.tasks = {
    "guess_number": {
      "weight": 1.0,
      "options": {"most": 3, "template": "compact"},
    }
  }
  c.data.max_prompt_length = 8
  # Two guesses with their stop tokens, and a reply.
  c.sampling.max_new_tokens = 6
  c.sampling.max_turns = 2
  c.sampling.chunk = 6
  c.rewards.workers = 1
  c.algo.beta = 0.0
  c.algo.num_generations = 8
  c.train.total_steps = 60
  c.train.prompts_per_step = 32
  c.train.num_minibatches = 2
  c.optim.learning_rate = 2e-3
  c.eval.every = 30
  c.eval.num_problems = 32
  c.eval.num_samples = 8
  c.eval.batch_prompts = 32
  c.eval.temperature = 1.0
  c.eval.top_p = 1.0
  c.checkpoint.every = 30
  c.log.rollouts_every = 5
  c.warmup.embed_dim = 32
  c.warmup.num_layers = 2
  c.warmup.num_heads = 2
  c.warmup.num_kv_heads = 1
  c.warmup.mlp_dim = 64
  c.warmup.examples = 512
  c.warmup.steps = 200
  c.warmup.batch_size = 64
  c.warmup.learning_rate = 3e-3
  return c
