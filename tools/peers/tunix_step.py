"""The step of tools/bench_peers.py by Tunix's GRPO learner, on one device.

Tunix's own JAX sampler ("vanilla") generates. With one update per step the
learner takes the old log-probs from the update's own pass, without scoring the
samples first.
"""

import importlib.metadata
import json

from flax import nnx
import jax
import numpy as np
import optax
from peers import work
import transformers
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as llama_params
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout


class Words:
  """A tokenizer whose words are ids."""

  def encode(self, text, **_):
    """Returns the ids of a text."""
    return [int(word) for word in text.split()]

  def decode(self, ids, **_):
    """Returns the text of ids."""
    return " ".join(map(str, ids))

  def bos_id(self):
    """Returns None: prompts do not begin with a special token."""
    return None

  def eos_id(self):
    """Returns an id that the model has no logit for."""
    return work.END

  def pad_id(self):
    """Returns an id that the model has no logit for; nothing is padded."""
    return work.PAD


class Pretrained:
  """The tokenizer of a pretrained policy, as Tunix asks for one."""

  def __init__(self, folder):
    """Reads the tokenizer in a folder of Hugging Face's format."""
    self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

  def prompt(self, number: int) -> str:
    """Returns problem `number` in the words of the chat template."""
    return self._tokenizer.apply_chat_template(
      work.conversation(work.problem(number)),
      add_generation_prompt=True,
      tokenize=False,
    )

  def encode(self, text, **_):
    """Returns the ids of a text, which has its special tokens already."""
    return self._tokenizer.encode(text, add_special_tokens=False)

  def decode(self, ids, **_):
    """Returns the text of ids, without special tokens."""
    return self._tokenizer.decode(ids, skip_special_tokens=True)

  def bos_id(self):
    """Returns None: the template has written what a prompt begins with."""
    return None

  def eos_id(self):
    """Returns the id that ends an answer."""
    return self._tokenizer.eos_token_id

  def pad_id(self):
    """Returns the id that fills up."""
    return self._tokenizer.pad_token_id


def main() -> None:
  """Trains and writes the figures."""
  args = work.arguments()
  watch = work.Watch(args)
  mesh = jax.sharding.Mesh(
    np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp")
  )
  tokenizer = Pretrained(args.model) if args.model else Words()
  model = make_model(args, mesh)
  before = leaves(model)
  with mesh:
    cluster = rl_cluster.RLCluster(
      actor=model,
      tokenizer=tokenizer,
      cluster_config=cluster_config(args, mesh, watch.total_steps),
    )
    learner = grpo_learner.GRPOLearner(
      rl_cluster=cluster,
      reward_fns=make_rewards(args, watch, tokenizer),
      algo_config=grpo_learner.GRPOConfig(
        num_generations=args.samples,
        num_iterations=1,
        beta=0.0,
        epsilon=work.CLIP,
        loss_agg_mode="token-mean",
      ),
    )
    learner.train(batches(args, watch, cluster.actor_trainer.model, tokenizer))
  after = leaves(cluster.actor_trainer.model)
  changed = max(float(np.max(np.abs(a - b))) for a, b in zip(before, after))
  versions = {
    name: importlib.metadata.version(name) for name in ("google-tunix", "jax")
  }
  watch.write(versions, sum(x.size for x in after), changed)


def make_rewards(args, watch: work.Watch, tokenizer):
  """Returns the reward function, which also ends the sampling of a step."""
  if not args.model:
    return lambda prompts, completions, **_: watch.rewards(completions)

  def rewards(prompts, completions, number, **_):
    # The token that ends an answer is not in its text.
    most = args.new_tokens
    lengths = [min(len(tokenizer.encode(t)) + 1, most) for t in completions]
    watch.sampled(len(lengths), sum(lengths) / len(lengths), max(lengths))
    return [
      work.judge(text, work.problem(int(n)))
      for text, n in zip(completions, number)
    ]

  return rewards


def batches(args, watch: work.Watch, model, tokenizer):
  """Yields the prompts of each step, when the learner asks for the next."""
  for step in range(watch.total_steps):
    # The last update may still be running on the device.
    jax.block_until_ready(nnx.state(model))
    watch.begin()
    first = step * args.prompts
    numbers = range(first, first + args.prompts)
    if args.model:
      yield {
        "prompts": np.array([tokenizer.prompt(n) for n in numbers]),
        "number": np.array(numbers),
      }
    else:
      yield {
        "prompts": np.array(
          [work.prompt(n, args.prompt_tokens) for n in numbers]
        )
      }


def pretrained(folder, mesh) -> nnx.Module:
  """Returns the policy in a folder of Hugging Face's format, in float32."""
  c = json.loads((folder / "config.json").read_text())
  return llama_params.create_model_from_safe_tensors(
    str(folder),
    llama.ModelConfig(
      num_layers=c["num_hidden_layers"],
      vocab_size=c["vocab_size"],
      embed_dim=c["hidden_size"],
      hidden_dim=c["intermediate_size"],
      num_heads=c["num_attention_heads"],
      head_dim=c["hidden_size"] // c["num_attention_heads"],
      num_kv_heads=c["num_key_value_heads"],
      rope_theta=(c.get("rope_parameters") or c)["rope_theta"],
      norm_eps=c["rms_norm_eps"],
      weight_tying=c["tie_word_embeddings"],
    ),
    mesh,
    jax.numpy.float32,
  )


def make_model(args, mesh) -> nnx.Module:
  """Returns the policy: of --model, or with random weights.

  All weights are drawn, as Tunix initialises MLPs with 0.
  """
  if args.model:
    return pretrained(args.model, mesh)
  model = llama.Llama3(
    llama.ModelConfig(
      num_layers=args.layers,
      vocab_size=work.VOCAB,
      embed_dim=work.WIDTH,
      hidden_dim=work.HIDDEN,
      num_heads=work.HEADS,
      head_dim=work.HEAD,
      num_kv_heads=work.KEY_HEADS,
      rope_theta=work.ROPE_THETA,
      norm_eps=work.NORM_EPS,
      weight_tying=True,
    ),
    rngs=nnx.Rngs(0),
  )
  numbers = np.random.default_rng(0)
  nnx.update(
    model,
    jax.tree.map(
      lambda x: (
        x
        if x.ndim == 1
        else jax.numpy.asarray(
          numbers.normal(0, 0.02, x.shape).astype(np.float32)
        )
      ),
      nnx.state(model),
    ),
  )
  return model


def cluster_config(args, mesh, steps: int) -> rl_cluster.ClusterConfig:
  """Returns settings: all roles share one device and one policy."""
  roles = rl_cluster.Role
  optimizer = optax.chain(
    optax.clip_by_global_norm(work.MAX_GRAD_NORM),
    optax.adamw(work.learning_rate(args), weight_decay=0.0),
  )
  return rl_cluster.ClusterConfig(
    role_to_mesh=dict.fromkeys(
      (roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh
    ),
    rollout_engine="vanilla",
    training_config=rl_cluster.RLTrainingConfig(
      actor_optimizer=optimizer,
      eval_every_n_steps=10**9,
      max_steps=steps,
      mini_batch_size=args.prompts,
      train_micro_batch_size=min(work.MICRO_BATCH, args.prompts),
      rollout_micro_batch_size=args.prompts,
      compute_logps_micro_batch_size=args.prompts,
    ),
    rollout_config=base_rollout.RolloutConfig(
      max_tokens_to_generate=args.new_tokens,
      max_prompt_length=args.prompt_tokens,
      kv_cache_size=args.prompt_tokens + args.new_tokens,
      temperature=1.0,
      top_p=1.0,
    ),
  )


def leaves(model) -> list[np.ndarray]:
  """Returns a copy of all parameters."""
  return [np.array(x) for x in jax.tree.leaves(nnx.state(model))]


if __name__ == "__main__":
  main()
