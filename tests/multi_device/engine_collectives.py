"""Prints what the decode loop of a small policy sends between eight devices.

A line a mesh: its sizes, the collectives over values that no token changes,
and the bytes of all collectives of a token.
"""

from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import ahead, counts, hlo, programs
from progrpo_jax.settings import defaults

MODEL = model_config.ModelConfig(
  vocab_size=512,
  num_layers=2,
  embed_dim=64,
  num_heads=8,
  num_kv_heads=4,
  head_dim=16,
  mlp_dim=256,
)


def config():
  c = defaults.get_config()
  c.model.init_from = "-"
  c.data.tasks = {"countdown": {}}
  c.data.max_prompt_length, c.sampling.max_new_tokens = 16, 33
  c.sampling.chunk = 8
  c.algo.num_generations = 4
  c.train.prompts_per_step = 8
  c.eval.batch_prompts = 8
  return c


def main():
  c = config()
  for sizes in ((1, 8, 1), (2, 4, 1), (1, 4, 2)):
    mesh = sharding.make_mesh(*sizes)
    low = programs.lower(c, MODEL, mesh, "sample")
    module = hlo.parse(low.compile().as_text())
    loop = ahead.token_loop(module, c.sampling.chunk)
    again = sum(k.nbytes for k in counts.over_constants(module, loop))
    every = sum(k.nbytes for k in counts.collectives(module, loop.body))
    print(*sizes, again, every, flush=True)


if __name__ == "__main__":
  main()
