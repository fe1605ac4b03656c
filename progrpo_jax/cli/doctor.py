"""`progrpo doctor`: devices, versions, and what a config will take.

Sizes come from the shapes and shardings of a config; nothing is compiled and
no weight is read.
"""

import importlib.metadata
import math
import os
import platform

import jax
import jax.numpy as jnp
import rich.console
import rich.table

from progrpo_jax import checks, schedule, sharding
from progrpo_jax import parts as parts_lib
from progrpo_jax import policy as policy_lib
from progrpo_jax import state as state_lib
from progrpo_jax.cli import config as config_lib
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import hf

PACKAGES = (
    "progrpo_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint",
    "transformers", "tensorflow-datasets", "grain", "sentencepiece", "chex",
    "reasoning-gym", "ml_collections", "numpy")


def run(argv: list[str]) -> int:
  """Prints what there is and what is needed; returns the exit code."""
  parser = config_lib.parser(
      "doctor", "Show devices and versions and, for a config, an estimate of "
      "the memory that its run takes on each device.")
  c, _ = config_lib.parse(parser, argv, needed=False)
  console = rich.console.Console()
  console.print(_machine())
  if c is None:
    return 0
  estimate = memory(c)
  table = rich.table.Table("on each device", "MiB", title="memory of a run")
  for name, size in estimate.items():
    table.add_row(name, f"{size / 2**20:,.1f}")
  table.add_section()
  table.add_row("sum", f"{sum(estimate.values()) / 2**20:,.1f}")
  console.print(table)
  limit = _device_memory()
  if limit is not None and sum(estimate.values()) > limit:
    console.print(
        f"This is more than the {limit / 2**20:,.0f} MiB of a device: raise "
        "mesh.fsdp, lower train.micro_batch_prompts, or set model.remat to "
        "'layer'.")
  return 0


def memory(c) -> dict[str, int]:
  """Estimated bytes on each device, name -> bytes: of the largest stage."""
  return max(
      map(_memory, schedule.every(c)), key=lambda stage: sum(stage.values()))


def _memory(c) -> dict[str, int]:
  """Estimated bytes on each device while this config holds.

  Weights, optimiser, gradient, reference and cache are exact. Activations
  are those that the backward pass of a micro-batch keeps, counted from the
  shapes of the decoder; what XLA holds for a moment beside them is not.

  Raises:
    InputError: the config cannot work.
  """
  checks.validate(c)
  mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
  per_row, _, update_parts = checks.micro_batches(c, mesh)
  model = _model(c)
  tx = parts_lib.make_optimizer(c, parts_lib.make_schedule(c))
  state = state_lib.abstract(model, tx, mesh)
  item = jnp.dtype(model.dtype).itemsize
  shards = sharding.batch_shards(mesh)
  weights = _bytes(state.params)
  compute = sum(
      _shard_size(x) * item for x in jax.tree.leaves(state.params))

  prompt, new = c.data.max_prompt_length, c.sampling.max_new_tokens
  prompts, group = c.train.prompts_per_step, c.algo.num_generations
  cached = checks.prompts_per_round(c) * (prompt + group * new) // shards
  per_token = cache_lib.bytes_per_token(model)
  rows = prompts * (group // per_row) // (
      c.train.num_minibatches * update_parts) // shards
  tokens = rows * (prompt + per_row * new)
  out = {
      "weights (float32 masters)": weights,
      "optimiser": _bytes(state.opt_state),
      "gradient": weights,
      "KV cache of a rollout": cached * per_token,
      "activations of a micro-batch": _activations(
          model, rows, per_row, prompt, new) * item,
      "logits of a chunk": 3 * 4 * model.vocab_size * min(
          c.model.logits_chunk // shards, tokens),
  }
  if model.dtype != "float32":
    out["weights in compute type"] = compute
  if checks.needs_reference(c):
    out["reference"] = compute
  return out


def _activations(model, rows: int, per_row: int, prompt: int, new: int) -> int:
  """Numbers that the backward pass keeps of a micro-batch."""
  d, f = model.embed_dim, model.mlp_dim
  heads = model.num_heads * model.head_dim
  kv = 2 * model.num_kv_heads * model.head_dim
  tokens = rows * (prompt + per_row * new)
  if model.remat == "layer":
    kept = model.num_layers * tokens * d
    layers = 1
  else:
    kept, layers = 0, model.num_layers
  per_token = 6 * d + 3 * heads + 2 * kv + 4 * f
  scores = model.num_heads * rows * (
      prompt * prompt + per_row * new * (prompt + new))
  return kept + layers * (tokens * per_token + 2 * scores)


def _model(c) -> model_config.ModelConfig:
  """The model that a run of the config starts from, by its config.json."""
  path = os.path.expanduser(c.model.init_from)
  folder = path
  if not hf.is_hf_dir(path):
    folder = policy_lib.find_run(path)[0] / policy_lib.MODEL_DIR
  return policy_lib.read_model(
      os.path.join(folder, "config.json"), dtype=c.model.dtype,
      remat=c.model.remat)


def _shard_size(x) -> int:
  """Elements of an array on one device."""
  return math.prod(x.sharding.shard_shape(x.shape))


def _bytes(tree) -> int:
  return sum(_shard_size(x) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _device_memory() -> int | None:
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get("bytes_limit")


def _machine() -> rich.table.Table:
  """Devices and versions."""
  table = rich.table.Table("what", "here", title="machine")
  devices = jax.devices()
  table.add_row("devices", f"{len(devices)} x {devices[0].device_kind}")
  table.add_row("processes", str(jax.process_count()))
  limit = _device_memory()
  if limit is not None:
    table.add_row("memory of a device", f"{limit / 2**30:.1f} GiB")
  table.add_row("cores", str(os.cpu_count()))
  table.add_row("python", platform.python_version())
  for name in PACKAGES:
    try:
      table.add_row(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
      table.add_row(name, "not installed")
  return table
