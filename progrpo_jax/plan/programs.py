"""A config's own programs, lowered for devices that need not exist.

What a run compiles: "prefill" reads prompts, "sample" draws responses, "score"
takes log-probs, "teacher" takes those of a teacher where there is one, and
"update" is one optimiser update. Arguments are shapes with
shardings, so that nothing is read and no array is made.
"""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import packing
from progrpo_jax.build import functions, problems
from progrpo_jax.devices import sharding
from progrpo_jax.learn import state as state_lib
from progrpo_jax.learn import update as update_lib
from progrpo_jax.models import attention, lora, parameters, scoring
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import memory
from progrpo_jax.rollout import decoding
from progrpo_jax.settings import derived

PHASES = ("prefill", "sample", "score", "update")

# Its model is the teacher.
TEACHER = "teacher"

# Programs in which each layer has code of its own, so that their size and the
# time to compile them grow with the depth. The others scan one layer.
UNROLLED = ("sample",)

# Any id will do: how many there are is all that the compiler sees.
_STOP_IDS = (0, 1)


def of(c: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns the phases of a config's step."""
  return PHASES + ((TEACHER,) if derived.distills(c) else ())


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
    model: model configuration, from `memory.model_of`; of "teacher" that from
      `memory.teacher_of`.
    mesh: mesh of the devices.
    phase: one of `of`.

  Raises:
    InputError: the config cannot run on the mesh.
  """
  return _LOWER[phase](c, model, mesh)


def _sampler(c, model, mesh):
  drawn_on = derived.sampling_mesh(c, mesh)
  settings = problems.make_settings(c, _STOP_IDS)
  return decoding.lower(
    model,
    _params(c, model, mesh) if drawn_on == mesh else _cast(model, drawn_on),
    drawn_on,
    sampled_at_once(c),
    c.data.max_prompt_length,
    settings,
  )


def _prefill(c, model, mesh):
  return _sampler(c, model, mesh)[0]()


def _sample(c, model, mesh):
  return _sampler(c, model, mesh)[1]()


def _score(c, model, mesh):
  params = _params(c, model, mesh)
  rows = _batch(c, model, mesh, c.train.prompts_per_step).rows
  with jax.set_mesh(mesh):
    return scoring.score_rows.lower(
      model, params, rows, functions.make_distribution(c)
    )


def _teacher(c, model, mesh):
  # Its rows are the policy's, whose attention it has too.
  rows = _batch(c, model, mesh, c.train.prompts_per_step).rows
  with jax.set_mesh(mesh):
    return scoring.score_rows.lower(
      model, _cast(model, mesh), rows, functions.make_teacher_distribution(c)
    )


def _update(c, model, mesh):
  tx = _optimizer(c)
  update = update_lib.make(
    model,
    tx,
    functions.make_objective(c),
    functions.make_distribution(c),
    whole=functions.sees_whole(c),
    scored=functions.needs_scores(c),
  )
  scalar = sharding.replicated(mesh)
  first = jax.ShapeDtypeStruct((), bool, sharding=scalar)
  state = state_lib.abstract(model, tx, mesh)
  minibatch = _batch(c, model, mesh, minibatch_prompts(c))
  with jax.set_mesh(mesh):
    return update.lower(
      state, minibatch, first, _key(mesh), (), _frozen(model, mesh)
    )


_LOWER = {
  "prefill": _prefill,
  "sample": _sample,
  "score": _score,
  TEACHER: _teacher,
  "update": _update,
}


def resident(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  phase: str,
  teacher: model_config.ModelConfig | None = None,
) -> int:
  """Returns the bytes on a device beside what a program takes and makes.

  These are the optimiser's moments while nothing is updated, the weights of
  training while a copy for sampling or the teacher is read, the copy that
  prompts are read with on a mesh of their own, the reference policy, and the
  teacher.

  Args:
    c: config of the run.
    model: model configuration.
    mesh: mesh of the devices.
    phase: one of `of`.
    teacher: configuration of the teacher; None without one.
  """
  state = state_lib.abstract(model, _optimizer(c), mesh)
  out = 0 if phase == "update" else memory.device_bytes(state.opt_state)
  drawn_on = derived.sampling_mesh(c, mesh)
  apart = phase in ("prefill", "sample") and drawn_on != mesh
  if phase in ("sample", TEACHER) or apart:
    out += memory.device_bytes(_params(c, model, mesh))
  if phase == "sample" and apart:
    out += memory.device_bytes(_cast(model, drawn_on))
  if teacher is not None and phase != TEACHER:
    out += memory.device_bytes(_cast(teacher, mesh))
  if derived.needs_reference(c):
    item = jnp.dtype(model.dtype).itemsize
    out += (
      memory.device_bytes(state.params)
      * item
      // jnp.dtype(jnp.float32).itemsize
    )
  return out


def sampled_at_once(c: ml_collections.ConfigDict) -> int:
  """Returns the number of prompts whose samples are drawn at one time."""
  return c.sampling.batch_prompts or derived.prompts_per_round(c)


def _optimizer(c):
  return functions.make_optimizer(c, functions.make_schedule(c))


def _key(mesh):
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.ShapeDtypeStruct(
    key.shape, key.dtype, sharding=sharding.replicated(mesh)
  )


def _frozen(model, mesh):
  """Returns the abstract frozen parameters, in the compute type."""
  return lora.split(model, _cast(model, mesh))[1]


def _cast(model, mesh):
  """Returns all abstract parameters of a model in its compute type."""
  return parameters.sharded_params(model, mesh, model.dtype)


def _params(c, model, mesh):
  """Returns all abstract parameters: masters, and with LoRA frozen weights."""
  state = state_lib.abstract(model, _optimizer(c), mesh)
  return lora.join(state.params, _frozen(model, mesh))


def _batch(c, model, mesh, prompts: int) -> batch_lib.PackedBatch:
  """Returns the abstract packed rows of some prompts with all responses."""
  packed = _pack(c, model, mesh, prompts)
  number = np.zeros(packed.slot_NR.shape + (c.sampling.max_new_tokens,))
  number = number.astype(np.float32)
  flag = number[..., 0]
  batch = batch_lib.PackedBatch(
    rows=packed.rows,
    old_logp_AEW=packed.to_rows(number),
    ref_logp_AEW=packed.to_rows(number) if derived.needs_reference(c) else None,
    adv_AEZ=packed.to_slots(flag),
    fresh_AEZ=packed.to_slots(flag > 0),
    base_advantage_AEZ=packed.to_slots(flag),
    weight_AEW=packed.to_rows(number) if c.algo.correction else None,
    id_AEZ=packed.to_slots(flag.astype(np.uint32)),
    adv_AEW=packed.to_rows(number) if derived.distills(c) else None,
    slot_B=packed.slot_NR.reshape(-1).astype(np.int32),
  )
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      np.shape(x), x.dtype, sharding=sharding.along(np.ndim(x), mesh, axis=1)
    ),
    batch,
  )


def _pack(c, model, mesh, prompts: int) -> packing.Packed:
  """Packs prompts and responses that are all as long as they may be."""
  per_bundle, layout = _layout(c, model, mesh)
  bundles = prompts * (c.algo.num_generations // per_bundle)
  prompt = np.ones((bundles, c.data.max_prompt_length), np.int32)
  tokens = np.ones((bundles, per_bundle, c.sampling.max_new_tokens), np.int32)
  return packing.pack(
    batch_lib.Sequences(
      prompt_NT=prompt,
      prompt_mask_NT=prompt > 0,
      tokens_NRT=tokens,
      mask_NRT=tokens > 0,
    ),
    layout,
  )


def _layout(c, model, mesh) -> tuple[int, packing.Layout]:
  kernel = attention.packs(model, mesh.devices.flat[0].platform)
  return derived.layout(c, mesh, kernel=kernel)


def minibatch_prompts(c: ml_collections.ConfigDict) -> int:
  """Returns the number of prompts of an update."""
  return c.train.prompts_per_step // c.train.num_minibatches


def micro_batches(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  prompts: int,
) -> int:
  """Returns the micro-batches of some prompts, all responses at full length.

  Args:
    c: config of the run.
    model: model configuration.
    mesh: mesh of the devices.
    prompts: number of prompts.
  """
  return int(_pack(c, model, mesh, prompts).rows.used)


def head_chunks(
  c: ml_collections.ConfigDict, model: model_config.ModelConfig, mesh
) -> int:
  """Returns the chunks of the output head in a full micro-batch of a device.

  Args:
    c: config of the run.
    model: model configuration.
    mesh: mesh of the devices.
  """
  per_bundle, layout = _layout(c, model, mesh)
  new = per_bundle * c.sampling.max_new_tokens
  bundles = layout.rows * (layout.tokens // (c.data.max_prompt_length + new))
  return math.ceil(bundles * new / c.model.logits_chunk)
