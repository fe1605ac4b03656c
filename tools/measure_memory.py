"""Compares XLA's count of memory with the estimate of `plan.memory`.

  .venv/bin/pip install libtpu
  JAX_PLATFORMS=cpu .venv/bin/python tools/measure_memory.py v5e:2x2 1 1 1
  JAX_PLATFORMS=cpu .venv/bin/python tools/measure_memory.py cpu 1 1 1

Arguments: a topology, for which libtpu compiles without a TPU, or "cpu"; then
the sizes of the mesh. Prints MiB per device for each phase, counted and
estimated, for a model of eight layers of width 512 and responses of 1,024
tokens to prompts of 256.
"""

import argparse
import math

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch, packing
from progrpo_jax.build import functions
from progrpo_jax.config import checks, defaults
from progrpo_jax.devices import sharding
from progrpo_jax.learn import state as state_lib
from progrpo_jax.learn import update as update_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import lora, scoring, transformer
from progrpo_jax.plan import memory
from progrpo_jax.rollout import sampler

PHASES = ("sample", "score", "update")


def main() -> None:
  """Prints a line for each phase."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("place", help='a topology, such as v5e:2x2, or "cpu"')
  parser.add_argument("sizes", type=int, nargs=3, help="data, fsdp, tensor")
  parser.add_argument("--layers", type=int, default=8)
  args = parser.parse_args()
  place, sizes = args.place, tuple(args.sizes)
  count = math.prod(sizes)
  devices = jax.devices("cpu")
  if place != "cpu":
    devices = topologies.get_topology_desc(
      platform="tpu", topology_name=place
    ).devices
  mesh = sharding.make_mesh(*sizes, devices=devices[:count])
  c = defaults.get_config()
  c.model.init_from = "-"
  c.model.dtype = "float32" if place == "cpu" else "bfloat16"
  c.model.remat = "layer"
  c.data.tasks = {"countdown": {}}
  c.data.max_prompt_length, c.sampling.max_new_tokens = 256, 1024
  c.train.prompts_per_step = 16
  c.eval.batch_prompts = 16
  model = model_config.ModelConfig(
    vocab_size=16384,
    num_layers=args.layers,
    embed_dim=512,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=2048,
    dtype=c.model.dtype,
    remat="layer",
  )
  platform = "cpu" if place == "cpu" else "tpu"
  said = memory.estimate(c, model, mesh, platform)
  for phase in PHASES:
    counted = compiled(c, model, mesh, phase)
    print(
      f"{phase}: {counted / 2**20:,.0f} MiB counted, "
      f"{memory.total(said[phase]) / 2**20:,.0f} said",
      flush=True,
    )


def compiled(c, model: model_config.ModelConfig, mesh, phase: str) -> int:
  """Returns the bytes of a device while a phase runs, as XLA counts them.

  These are the program's arguments and temporaries, and the optimiser's moments
  where the program does not read them.
  """
  tx = functions.make_optimizer(c, functions.make_schedule(c))
  state = state_lib.abstract(model, tx, mesh)
  lower = {"sample": _sample, "score": _score}.get(phase, _update(c, tx))
  low = lower(c, model, mesh, state)
  analysis = low.compile().memory_analysis()
  rest = 0
  if phase != "update":
    rest = sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(state.opt_state)
    )
  return analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + rest


def _sample(c, model, mesh, state):
  rows = _rows(mesh)
  prompts = checks.prompts_per_round(c), c.data.max_prompt_length
  settings = sampler.Settings(
    num_generations=c.algo.num_generations,
    chunk=c.sampling.chunk,
    max_new_tokens=c.sampling.max_new_tokens,
    stop_ids=(1,),
  )
  with jax.set_mesh(mesh):
    return sampler.generate.lower(
      model,
      _params(model, mesh, state),
      rows(prompts, jnp.int32),
      rows(prompts, bool),
      rows(prompts[:1], jnp.uint32),
      _key(mesh),
      settings,
    )


def _score(c, model, mesh, state):
  with jax.set_mesh(mesh):
    return scoring.score_rows.lower(
      model,
      _params(model, mesh, state),
      _batch(c, mesh, c.train.prompts_per_step).rows,
      scoring.Distribution(chunk=c.model.logits_chunk),
    )


def _update(c, tx):
  # Outside of the mesh: its devices may exist for the compiler only.
  objective = functions.make_objective(c)

  def lower(c, model, mesh, state):
    update = update_lib.make(
      model,
      tx,
      objective,
      scoring.Distribution(chunk=c.model.logits_chunk),
      whole=functions.sees_whole(c),
    )
    scalar = sharding.replicated(mesh)
    first = jax.ShapeDtypeStruct((), bool, sharding=scalar)
    part = _batch(c, mesh, c.train.prompts_per_step // c.train.num_minibatches)
    with jax.set_mesh(mesh):
      return update.lower(
        state, part, first, _key(mesh), (), _frozen(model, mesh)
      )

  return lower


def _rows(mesh):
  """Returns (shape, type) -> abstract array, sharded as rows of a batch."""
  where = sharding.rows(mesh)
  return lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _key(mesh):
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.ShapeDtypeStruct(
    key.shape, key.dtype, sharding=sharding.replicated(mesh)
  )


def _frozen(model, mesh):
  """Returns the abstract frozen parameters, in the compute type."""
  shapes = (
    transformer.abstract_params(model),
    transformer.shardings(model, mesh),
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, model.dtype, sharding=s),
    *(lora.split(model, tree)[1] for tree in shapes),
  )


def _params(model, mesh, state):
  return lora.join(state.params, _frozen(model, mesh))


def _batch(c, mesh, prompts: int) -> batch.PackedBatch:
  """Returns the abstract rows of so many prompts, as they are sent."""
  per_bundle, layout = checks.layout(
    c, mesh, kernel=mesh.devices.flat[0].platform == "tpu"
  )
  group, new = c.algo.num_generations, c.sampling.max_new_tokens
  bundles = prompts * group // per_bundle
  prompt = np.ones((bundles, c.data.max_prompt_length), np.int32)
  tokens = np.ones((bundles, per_bundle, new), np.int32)
  packed = packing.pack(
    batch.Sequences(
      prompt_NT=prompt,
      prompt_mask_NT=prompt > 0,
      tokens_NRT=tokens,
      mask_NRT=tokens > 0,
    ),
    layout,
  )
  number, flag = np.zeros(tokens.shape, np.float32), tokens[..., 0]
  whole = batch.PackedBatch(
    rows=packed.rows,
    old_logp_AEW=packed.to_rows(number),
    ref_logp_AEW=None,
    adv_AEZ=packed.to_slots(number[..., 0]),
    fresh_AEZ=packed.to_slots(flag > 0),
    base_advantage_AEZ=packed.to_slots(number[..., 0]),
    weight_AEW=None,
    id_AEZ=packed.to_slots(flag.astype(np.uint32)),
    slot_B=packed.slot_NR.reshape(-1).astype(np.int32),
  )
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      np.shape(x), x.dtype, sharding=sharding.along(np.ndim(x), mesh, axis=1)
    ),
    whole,
  )


if __name__ == "__main__":
  main()
