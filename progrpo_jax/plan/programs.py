"""A config's own programs, lowered for devices that need not exist.

What a run compiles: "prefill" reads prompts, "sample" draws responses, "score"
takes log-probs, and "update" is one optimiser update. Arguments are shapes with
shardings, so that nothing is read and no array is made.
"""

import math

import jax
import jax.numpy as jnp
import ml_collections

from progrpo_jax import batch as batch_lib
from progrpo_jax.build import functions
from progrpo_jax.config import checks
from progrpo_jax.devices import sharding
from progrpo_jax.learn import state as state_lib
from progrpo_jax.learn import update as update_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import lora, scoring, transformer
from progrpo_jax.rollout import sampler

PHASES = ("prefill", "sample", "score", "update")

# Programs in which each layer has code of its own, so that their size and the
# time to compile them grow with the depth. The others scan one layer.
UNROLLED = ("sample",)

# Any id will do: how many there are is all that the compiler sees.
_STOP_IDS = (0, 1)


def lower(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  phase: str,
) -> jax.stages.Lowered:
  """Lowers the program of a phase; "sample" with a cache of its last size.

  Nothing is computed while the mesh is set: its devices may be the compiler's
  alone.

  Args:
    c: config of the run.
    model: model configuration, from `memory.model_of`.
    mesh: mesh of the devices.
    phase: one of `PHASES`.

  Raises:
    InputError: the config cannot run on the mesh.
  """
  return _LOWER[phase](c, model, mesh)


def _sampler(c, model, mesh):
  s = c.sampling
  settings = sampler.Settings(
    num_generations=c.algo.num_generations,
    max_new_tokens=s.max_new_tokens,
    temperature=s.temperature,
    top_p=s.top_p,
    top_k=s.top_k,
    stop_ids=_STOP_IDS,
    chunk=s.chunk,
  )
  return sampler.lower(
    model,
    _params(c, model, mesh),
    mesh,
    sampled_at_once(c),
    c.data.max_prompt_length,
    settings,
  )


def _prefill(c, model, mesh):
  return _sampler(c, model, mesh)[0]()


def _sample(c, model, mesh):
  return _sampler(c, model, mesh)[1]()


def _score(c, model, mesh):
  _, parts, _ = checks.micro_batches(c, mesh)
  params = _params(c, model, mesh)
  with jax.set_mesh(mesh):
    return scoring.score.lower(
      model,
      params,
      _sequences(c, mesh, c.train.prompts_per_step),
      _distribution(c),
      parts,
    )


def _update(c, model, mesh):
  _, _, parts = checks.micro_batches(c, mesh)
  rows = _rows(mesh)
  sequences = _sequences(
    c, mesh, c.train.prompts_per_step // c.train.num_minibatches
  )
  tokens = sequences.tokens_NRT.shape
  number, flag = rows(tokens, jnp.float32), rows(tokens[:2], jnp.float32)
  minibatch = batch_lib.TrainBatch(
    sequences=sequences,
    old_logp_NRT=number,
    ref_logp_NRT=number if checks.needs_reference(c) else None,
    adv_NR=flag,
    fresh_NR=rows(tokens[:2], bool),
    base_advantage_NR=flag,
    weight_NRT=number if c.algo.correction else None,
    id_N=rows(tokens[:1], jnp.uint32),
  )
  tx = _optimizer(c)
  update = update_lib.make(
    model,
    tx,
    functions.make_objective(c),
    _distribution(c),
    micro_batches=parts,
    whole=functions.sees_whole(c),
  )
  scalar = sharding.replicated(mesh)
  first = jax.ShapeDtypeStruct((), bool, sharding=scalar)
  state = state_lib.abstract(model, tx, mesh)
  with jax.set_mesh(mesh):
    return update.lower(
      state, minibatch, first, _key(mesh), (), _frozen(model, mesh)
    )


_LOWER = {
  "prefill": _prefill,
  "sample": _sample,
  "score": _score,
  "update": _update,
}


def resident(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  phase: str,
) -> int:
  """Returns the bytes on a device beside what a program takes and makes.

  These are the optimiser's moments while nothing is updated, the weights of
  training while the copy for decoding is read, and the reference policy.

  Args:
    c: config of the run.
    model: model configuration.
    mesh: mesh of the devices.
    phase: one of `PHASES`.
  """
  state = state_lib.abstract(model, _optimizer(c), mesh)
  out = 0 if phase == "update" else _bytes(state.opt_state)
  if phase == "sample":
    out += _bytes(_params(c, model, mesh))
  if checks.needs_reference(c):
    item = jnp.dtype(model.dtype).itemsize
    out += _bytes(state.params) * item // jnp.dtype(jnp.float32).itemsize
  return out


def _bytes(tree) -> int:
  """Returns the bytes of a tree of arrays on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def sampled_at_once(c: ml_collections.ConfigDict) -> int:
  """Returns the number of prompts whose samples are drawn at one time."""
  return c.sampling.batch_prompts or checks.prompts_per_round(c)


def _optimizer(c):
  return functions.make_optimizer(c, functions.make_schedule(c))


def _distribution(c) -> scoring.Distribution:
  s = c.sampling
  return scoring.Distribution(
    temperature=s.temperature,
    top_p=s.top_p,
    top_k=s.top_k,
    chunk=c.model.logits_chunk,
  )


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


def _params(c, model, mesh):
  """Returns all abstract parameters: masters, and with LoRA frozen weights."""
  state = state_lib.abstract(model, _optimizer(c), mesh)
  return lora.join(state.params, _frozen(model, mesh))


def _sequences(c, mesh, prompts: int) -> batch_lib.Sequences:
  """Returns the abstract rows of some prompts with all their responses."""
  rows = _rows(mesh)
  per_row, _, _ = checks.micro_batches(c, mesh)
  count = prompts * c.algo.num_generations // per_row
  prompt = count, c.data.max_prompt_length
  tokens = count, per_row, c.sampling.max_new_tokens
  return batch_lib.Sequences(
    prompt_NT=rows(prompt, jnp.int32),
    prompt_mask_NT=rows(prompt, bool),
    tokens_NRT=rows(tokens, jnp.int32),
    mask_NRT=rows(tokens, bool),
  )
