"""A run so small that tests can afford many of them: a config file.

ProRL with everything that a resumed run must get right: a reference and an
optimiser that are reset every second step, groups carried over from step to
step, several updates a step, evaluations.
"""

from progrpo_jax.settings import defaults, methods


def get_config(method="prorl"):
  c = defaults.get_config()
  c.data.tasks = {
    "chain_sum": {
      "weight": 1.0,
      "options": {
        "template": "compact",
        "min_terms": 2,
        "max_terms": 5,
        "max_digits": 1,
        "num_train": 64,
        "num_validation": 8,
      },
    }
  }
  c.data.max_prompt_length = 12
  c.sampling.max_new_tokens = 4
  c.sampling.chunk = 4
  c.rewards.workers = 1
  # No busy machine reaches it: the clock must not decide a reward.
  c.rewards.deadline_s = 120.0
  c.algo.num_generations = 4
  c.train.total_steps = 4
  c.train.prompts_per_step = 4
  c.train.num_minibatches = 2
  c.train.num_iterations = 2
  c.optim.learning_rate = 3e-3
  c.eval.every = 2
  c.eval.num_problems = 6
  c.eval.num_samples = 4
  c.eval.batch_prompts = 4
  c.checkpoint.every = 1
  c.checkpoint.background = False
  c.log.tensorboard = False
  c.log.rollouts_every = 1
  c.warmup.embed_dim = 16
  c.warmup.num_layers = 2
  c.warmup.num_heads = 2
  c.warmup.num_kv_heads = 1
  c.warmup.mlp_dim = 32
  c.warmup.examples = 64
  c.warmup.steps = 200
  c.warmup.batch_size = 32
  c.warmup.learning_rate = 1e-2
  getattr(methods, method)(c)
  if method == "prorl":
    c.algo.beta = 0.01
    c.algo.arm.alpha = 0.3
    c.algo.dynamic_sampling.surplus = "carry"
    # Nearly half of the groups are mixed: a round of eight fills a batch of
    # four about as often as it does not, so there is both something to refill
    # and something to carry.
    c.algo.dynamic_sampling.prompts_per_round = 8
    c.algo.reset.modes = ("every",)
    c.algo.reset.period = 2
  return c
