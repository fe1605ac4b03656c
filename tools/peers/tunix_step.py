"""The step of tools/bench_peers.py by Tunix's GRPO learner, on one device.

Tunix's own JAX sampler ("vanilla") generates. With one update per step the
learner takes the old log-probs from the update's own pass, without scoring the
samples first.
"""

import importlib.metadata

from flax import nnx
import jax
import numpy as np
import optax
from peers import work
from tunix.models.llama3 import model as llama
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


def main() -> None:
  """Trains and writes the figures."""
  args = work.arguments()
  watch = work.Watch(args)
  mesh = jax.sharding.Mesh(
    np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp")
  )
  model = make_model(args.layers)
  before = leaves(model)
  with mesh:
    cluster = rl_cluster.RLCluster(
      actor=model,
      tokenizer=Words(),
      cluster_config=cluster_config(args, mesh, watch.total_steps),
    )
    learner = grpo_learner.GRPOLearner(
      rl_cluster=cluster,
      reward_fns=lambda prompts, completions, **_: watch.rewards(completions),
      algo_config=grpo_learner.GRPOConfig(
        num_generations=args.samples,
        num_iterations=1,
        beta=0.0,
        epsilon=work.CLIP,
        loss_agg_mode="token-mean",
      ),
    )
    learner.train(batches(args, watch, cluster.actor_trainer.model))
  after = leaves(cluster.actor_trainer.model)
  changed = max(float(np.max(np.abs(a - b))) for a, b in zip(before, after))
  versions = {
    name: importlib.metadata.version(name) for name in ("google-tunix", "jax")
  }
  watch.write(versions, sum(x.size for x in after), changed)


def batches(args, watch: work.Watch, model):
  """Yields the prompts of each step, when the learner asks for the next."""
  for step in range(watch.total_steps):
    # The last update may still be running on the device.
    jax.block_until_ready(nnx.state(model))
    watch.begin()
    first = step * args.prompts
    yield {
      "prompts": np.array(
        [
          work.prompt(first + n, args.prompt_tokens)
          for n in range(args.prompts)
        ]
      )
    }


def make_model(layers: int) -> nnx.Module:
  """Returns the policy; draws all weights, as Tunix initialises MLPs with 0."""
  model = llama.Llama3(
    llama.ModelConfig(
      num_layers=layers,
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
    optax.adamw(work.LEARNING_RATE, weight_decay=0.0),
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
