"""The step of tools/bench_peers.py by progrpo_jax: a whole training run.

Measures the loop of `progrpo train`, with its verifiers, metrics and files.
"""

import importlib.metadata
import json
import pathlib
import tempfile

import jax
import numpy as np
from peers import work
import tokenizers
import transformers

from progrpo_jax import loop
from progrpo_jax.build import answers
from progrpo_jax.build import stages as build
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config
from progrpo_jax.models import hf, parameters
from progrpo_jax.settings import defaults, methods


class View:
  """A `loop.View` that measures each step when its metrics are shown."""

  def __init__(self, watch: work.Watch, samples: int):
    """Measures steps of `samples` samples with `watch`."""
    self._watch, self._samples = watch, samples

  def phase(self, name):
    """Ignores the stages of a step."""

  def eval(self, step, metrics):
    """Ignores evaluations; there are none."""

  def message(self, text):
    """Ignores messages."""

  def step(self, step, metrics):
    """Ends a step and begins the next."""
    self._watch.begin()
    if metrics["verifier/masked"]:
      raise SystemExit("a verifier failed")
    self._watch.sampled(
      self._samples,
      metrics["completions/mean_length"],
      metrics["completions/max_length"],
      metrics["timing_s/sample"],
    )


def main() -> None:
  """Trains and writes the figures."""
  args = work.arguments()
  watch = work.Watch(args)
  with tempfile.TemporaryDirectory() as folder:
    base, run = pathlib.Path(folder) / "base", pathlib.Path(folder) / "run"
    if args.model:
      base = args.model
    else:
      write_base(base, args.layers)
    c = config(args, base, watch.total_steps)
    loop.train(c, run, View(watch, args.prompts * args.samples))
    before = load(c)
    c.model.init_from = str(run)
    after = load(c)
  changed = max(float(np.max(np.abs(a - b))) for a, b in zip(before, after))
  versions = {
    name: importlib.metadata.version(name) for name in ("progrpo_jax", "jax")
  }
  watch.write(versions, sum(x.size for x in after), changed)


def write_base(folder: pathlib.Path, layers: int) -> None:
  """Writes a random policy and its tokenizer as a Hugging Face directory."""
  model = model_config.ModelConfig(
    family="llama",
    vocab_size=work.VOCAB,
    num_layers=layers,
    embed_dim=work.WIDTH,
    num_heads=work.HEADS,
    num_kv_heads=work.KEY_HEADS,
    head_dim=work.HEAD,
    mlp_dim=work.HIDDEN,
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  hf.save(folder, model, parameters.init(model, jax.random.key(0), mesh))
  words = tokenizers.models.WordLevel(
    {str(i): i for i in range(work.VOCAB)}, unk_token="0"
  )
  tokenizer = tokenizers.Tokenizer(words)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer
  ).save_pretrained(folder)
  (folder / "generation_config.json").write_text(
    json.dumps(dict(eos_token_id=work.END))
  )


def config(args, base: pathlib.Path, total_steps: int):
  """Returns a config of GRPO without KL, with the loss averaged over tokens."""
  c = methods.grpo(defaults.get_config())
  c.model.init_from = str(base)
  c.algo.aggregate, c.algo.beta = "token_mean", 0.0
  c.algo.epsilon = c.algo.epsilon_high = work.CLIP
  c.algo.num_generations = args.samples
  if args.model:
    c.data.tasks = {"sentences": {}}
    c.model.system_prompt = work.SYSTEM
  else:
    c.data.tasks = {
      "words": {
        "module": "peers.ours_task",
        "options": {"tokens": args.prompt_tokens},
      }
    }
    c.model.remat = "layer"
  c.data.max_prompt_length = args.prompt_tokens
  c.sampling.max_new_tokens = args.new_tokens
  c.train.total_steps = total_steps
  c.train.prompts_per_step = args.prompts
  c.optim.learning_rate = work.learning_rate(args)
  c.optim.max_grad_norm = work.MAX_GRAD_NORM
  c.checkpoint.every = total_steps
  c.log.tensorboard, c.log.rollouts_every = False, 0
  return c


def load(c) -> list[np.ndarray]:
  """Returns all parameters of the policy that a config names."""
  policy = build.load_policy(c, answers.mesh_for(c))
  return [np.asarray(x) for x in jax.tree.leaves(policy.params)]


if __name__ == "__main__":
  main()
