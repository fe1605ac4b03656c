"""Estimates a run's memory on each device, per phase, from shapes alone.

Nothing is compiled, no weight is read, and the devices need not exist.
Weights, optimiser state and caches are counted as the mesh shards them. The
activations kept for the backward pass are found by tracing JAX's
differentiation with one device's share of rows, heads and MLP columns.
Compiler temporaries are undeclared; each peak is estimated from its largest
arrays. docs/memory.md compares the estimates with what compilers report and
with what processes use.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import math
import os

from etils import epath
import jax
import jax.numpy as jnp
import ml_collections

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors
from progrpo_jax.build import functions
from progrpo_jax.devices import sharding
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import attention, hf, lora, parameters, scoring
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.rollout import decoding
from progrpo_jax.settings import checks, derived, schedule
from progrpo_jax.storage import hub_names
from progrpo_jax.storage import policy as policy_lib

# Name -> bytes on each device.
Terms = dict[str, int]

_FLOAT32 = 4

# Largest share of a chip's memory that a plan may fill. The rest is for gaps
# between arrays and for errors of the estimate.
USABLE = 0.85


@dataclasses.dataclass(frozen=True)
class _Compiler:
  """Temporaries of XLA on a platform, measured from compiled programs.

  Attributes:
    logits: number of float32 arrays of the size of a chunk's logits.
    backward: temporaries of the backward pass through a layer (recomputed
      activations and cotangents), as a multiple of the activations that the
      layer keeps without recomputation.
    casts: type of the copy of all weights made at once before bfloat16 layers,
      "" for none.
    relaid: copies of float32 weights in the layout that matrix products read,
      as a multiple of the layers' weights.
  """

  logits: float
  backward: float
  casts: str
  relaid: float


_COMPILERS = {
  # A CPU casts bfloat16 weights to float32 to multiply them.
  "cpu": _Compiler(2, 0.65, "float32", 1.4),
  "tpu": _Compiler(1, 1.0, "bfloat16", 0.0),
  # Not measured: the TPU's numbers are assumed.
  "gpu": _Compiler(1, 1.0, "bfloat16", 0.0),
}
# Peak of attention without a kernel, as a multiple of the float32 scores of a
# block of queries: masks and sums included.
_SCORES_FORWARD, _SCORES_BACKWARD = 1.4, 2.4


@dataclasses.dataclass(frozen=True)
class Chip:
  """An accelerator to plan a run for.

  Attributes:
    platform: JAX's name of its kind, "tpu" or "gpu".
    memory: bytes that XLA can allocate.
  """

  platform: str
  memory: int


def _gib(count: float) -> int:
  """Returns GiB as bytes."""
  return int(count * 2**30)


# Share of a GPU's memory that a plan for a GPU by name takes JAX to reserve.
GPU_SHARE = 0.95
# What JAX reserves unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
JAX_SHARE = 0.75

# TPUs: the limit in the compiler's error for a program that is too large
# (libtpu 0.0.42). GPUs: of the memory that the driver reports (79.6 and 140.4
# GiB).
CHIPS = {
  "v5e": Chip("tpu", _gib(15.75)),
  "v5p": Chip("tpu", _gib(95.74)),
  "v6e": Chip("tpu", _gib(31.25)),
  "H100": Chip("gpu", _gib(GPU_SHARE * 79.6)),
  "H200": Chip("gpu", _gib(GPU_SHARE * 140.4)),
}


def device_bytes(tree) -> int:
  """Returns the bytes of a tree of arrays, with shardings, on one device."""
  return sum(_shard_size(x) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _shard_size(x) -> int:
  """Returns the number of elements of an array on one device."""
  return math.prod(x.sharding.shard_shape(x.shape))


def model_of(
  c: ml_collections.ConfigDict, workdir: str | None = None
) -> model_config.ModelConfig:
  """Returns the configuration of the model that a config trains.

  Only a `config.json` is read, no weights: that of `c.model.init_from`, or of a
  run that needs its base no more.

  Args:
    c: config of the run.
    workdir: workdir of the run, if there is one.

  Raises:
    InputError: there is no `config.json`, or it cannot be read.
  """
  goes_on = workdir and not c.model.lora.rank and policy_lib.run_of(workdir)
  return dataclasses.replace(
    _read(workdir, "--workdir")
    if goes_on
    else _read(c.model.init_from, policy_lib.INIT_FROM, c.model.download),
    dtype=c.model.dtype,
    remat=c.model.remat,
    attention=c.model.attention,
    lora=derived.lora_config(c),
    partition_head=c.algo.partition_head,
  )


def _cached(name: str) -> str:
  """Returns where a model of the hub is on this machine; fetches nothing.

  Raises:
    InputError: it is not here.
  """
  from progrpo_jax.storage import hub  # it says why here

  place = hub.cached(name)
  if place is None:
    raise errors.InputError(
      f"config.model.init_from = {name!r} is not on this machine: a run "
      "fetches it from the hub (config.model.download); `hf download "
      f"{hub_names.split(name)[0]} config.json` fetches what is needed to "
      "count its memory"
    )
  return place


def teacher_of(c: ml_collections.ConfigDict) -> model_config.ModelConfig | None:
  """Returns the configuration of the teacher that a config names, or None.

  Args:
    c: config of the run.

  Raises:
    InputError: there is no `config.json`, or it cannot be read.
  """
  if not c.algo.distill.teacher:
    return None
  return dataclasses.replace(
    _read(c.algo.distill.teacher, "config.algo.distill.teacher"),
    dtype=c.model.dtype,
    attention=c.model.attention,
    lora=None,
    partition_head=False,
  )


def _read(
  place: str, key: str, download: bool = False
) -> model_config.ModelConfig:
  """Reads the `config.json` of the policy that a key names."""
  place = os.path.expanduser(place)
  if download and policy_lib.is_on_hub(place):
    place = _cached(place)
  folder = epath.Path(place)
  # A workdir has a config.json too: that of its run.
  is_described = (folder / "config.json").exists()
  if not hf.is_hf_dir(place) and (policy_lib.run_of(place) or not is_described):
    workdir, _ = policy_lib.find_run(place, key)
    folder = workdir / policy_lib.MODEL_DIR
  return policy_lib.read_model(folder / "config.json")


def estimate(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  platform: str,
  teacher: model_config.ModelConfig | None = None,
) -> dict[str, Terms]:
  """Estimates a run's memory on each device.

  Args:
    c: config of the run. With a schedule, each phase is that of the stage
      that needs most.
    model: model configuration, from `model_of`.
    mesh: real or abstract mesh.
    platform: "cpu", "gpu" or "tpu"; decides about the attention kernel and
      compiler temporaries.
    teacher: its configuration, from `teacher_of`.

  Returns:
    Phase -> name -> bytes on each device.

  Raises:
    InputError: the config cannot run on the mesh.
  """
  largest: dict[str, Terms] = {}
  for stage in schedule.every(c):
    phases = _Stage(stage, model, mesh, platform, teacher).phases()
    for phase, terms in phases.items():
      if total(terms) > total(largest.get(phase, {})):
        largest[phase] = terms
  return largest


def checkpoints(
  c: ml_collections.ConfigDict, model: model_config.ModelConfig, mesh
) -> tuple[int, int]:
  """Counts what the checkpoints of a run take of a disk.

  Args:
    c: config of the run.
    model: model configuration, from `model_of`.
    mesh: any mesh on which the run can be.

  Returns:
    (bytes of a checkpoint: float32 parameters that train and their moments;
    how many there are at most: those that are kept, the reference's, and one
    that is being written).
  """
  tx = functions.make_optimizer(c, functions.make_schedule(c))
  state = state_lib.abstract(model, tx, mesh)
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  k = c.checkpoint
  # Of the newest ones in a row all but one reference are among them: a reset
  # is saved. Those that are kept for good may each have one of their own.
  forever = c.train.total_steps // k.keep_every if k.keep_every else 0
  return size, k.keep + 2 + forever * (2 if c.algo.reset.modes else 1)


def total(terms: Mapping[str, int]) -> int:
  """Returns the bytes of a phase."""
  return sum(terms.values())


def peak(phases: Mapping[str, Terms]) -> int:
  """Returns the bytes of the phase that needs most."""
  return max(map(total, phases.values()))


class _Stage:
  """The estimate for one stage of a schedule.

  Methods return bytes, or name -> bytes, on one device.

  Attributes:
    c: config of the stage.
    model: model configuration.
    mesh: mesh of the devices.
    platform: "cpu", "gpu" or "tpu".
    shards: number of shards of a batch.
    layout: sizes of packed rows.
    state: abstract training state with shardings.
    local: configuration of one device's share of the model.
    drawing: the same estimate for the mesh on which responses are drawn.
    teacher: the same estimate for the teacher; None for none.
    item: bytes of a number in the compute type.
    xla: temporaries of the platform's compiler.
  """

  def __init__(self, c, model, mesh, platform: str, teacher=None):
    checks.validate(c)
    self.c, self.model, self.mesh, self.platform = c, model, mesh, platform
    self.shards = sharding.batch_shards(mesh)
    self.layout = derived.layout(c, mesh, kernel=self.packed_kernel)[1]
    tx = functions.make_optimizer(c, functions.make_schedule(c))
    self.state = state_lib.abstract(model, tx, mesh)
    self.local = _local(model, mesh)
    drawn_on = derived.sampling_mesh(c, mesh)
    self.drawing = self
    if drawn_on != mesh:
      self.drawing = _Stage(c, model, drawn_on, platform)
    self.item = jnp.dtype(model.dtype).itemsize
    self.xla = _COMPILERS[platform]
    self.teacher = None
    if teacher:
      self.teacher = _Stage(c, teacher, mesh, platform)
      self.teacher.layout = self.layout  # it reads the policy's rows

  def phases(self) -> dict[str, Terms]:
    """Returns phase -> name -> bytes."""
    c, resident = self.c, self.resident()
    sample = self.drawing.sampling(
      c.sampling.batch_prompts or derived.prompts_per_round(c),
      c.algo.num_generations,
    )
    # On a CPU host memory is device memory, so loading and saving count too.
    out = {
      "load": resident | (self.loading() if self.platform == "cpu" else {}),
      "sample": resident | sample,
      "score": resident | self.scoring(),
      "update": resident | self.updating(),
    }
    if self.teacher and derived.distills(c):
      out["teacher"] = resident | self.teacher.scoring()
    if self.platform == "cpu":
      out["save"] = resident | {
        "copy that is written": device_bytes(self.state)
      }
    if c.eval.every:
      out["evaluate"] = resident | self.drawing.sampling(
        c.eval.batch_prompts, c.eval.num_samples
      )
    if self.drawing is not self:
      copy = self.drawing.tree(self.drawing.shapes)
      for phase in out.keys() & {"sample", "evaluate"}:
        out[phase]["weights as prompts are read"] = copy
    return out

  def weights(self) -> Terms:
    """Returns the bytes of trainable and frozen parameters."""
    out = {"weights that train (float32)": device_bytes(self.state.params)}
    frozen = self.tree(lora.split(self.model, self.shapes)[1])
    if frozen:
      out[f"weights that do not ({self.model.dtype})"] = frozen
    return out

  def resident(self) -> Terms:
    """Returns what stays in memory during all phases."""
    out = self.weights() | {"optimiser": device_bytes(self.state.opt_state)}
    if derived.needs_reference(self.c):
      out["reference"] = self.tree(lora.split(self.model, self.shapes)[0])
    if self.teacher:
      out["teacher"] = self.teacher.tree(self.teacher.shapes)
    return out

  @functools.cached_property
  def shapes(self):
    """Tree of `jax.ShapeDtypeStruct` of all parameters, with shardings."""
    return parameters.sharded_params(self.model, self.mesh)

  def tree(self, tree, item: int | None = None) -> int:
    """Returns the bytes of parameters.

    Args:
      tree: parameters.
      item: bytes per number; None takes the compute type's.
    """
    item = item or self.item
    return item * sum(map(_shard_size, jax.tree.leaves(tree)))

  def loading(self) -> Terms:
    """Returns the bytes of a tensor while it is read into host memory."""
    # Files hold one tensor per layer, and one is read at a time; parameters
    # of all layers are stacked in one array with an axis of layers.
    largest = max(
      x.size // (1 if len(x.shape) < 3 else x.shape[0])
      for x in jax.tree.leaves(self.shapes)
    )
    return {"tensors on their way": _FLOAT32 * largest}

  def sampling(self, prompts: int, group: int) -> Terms:
    """Returns the bytes of a rollout: caches, weights, peak of activations.

    Args:
      prompts: number of prompts that are sampled at once, on all devices.
      group: number of responses per prompt.
    """
    c, local = self.c, self.local
    rows, length = prompts // self.shards, c.data.max_prompt_length
    # The cache of responses grows in chunks; the last token is never read.
    new, chunk = c.sampling.max_new_tokens, c.sampling.chunk
    columns = math.ceil((new - 1) / chunk) * chunk
    per_token = cache_lib.bytes_per_token(local)
    # A copy of all weights, whole over `fsdp`: `parameters.for_decoding`.
    plain = parameters.decoding_config(self.model)
    read = self.item * sum(
      math.prod(place.shard_shape(x.shape))
      for x, place in zip(
        jax.tree.leaves(
          jax.eval_shape(
            functools.partial(parameters.unroll, plain),
            parameters.abstract_params(plain),
          )
        ),
        jax.tree.leaves(parameters.decode_shardings(plain, self.mesh)),
        strict=True,
      )
    )
    # float32 numbers per response: four per token, and its logits.
    numbers = int(4 * new + self.xla.logits * local.vocab_size)
    copies = self.casts() if self.xla.casts == "float32" else {}
    # A tied head is the transposed embedding, copied in the head's layout.
    if (
      self.xla.relaid
      and self.model.dtype == "float32"
      and (self.model.tie_embeddings)
    ):
      copies = {"head": self.tree(self.shapes["embed"])}
    # The cache grows a layer at a time, so that one is there twice; the columns
    # of a chunk lie beside it.
    grows = columns > decoding.Settings.first_cache
    twice = 1 / local.num_layers if grows else 0
    responses = rows * group * per_token
    return copies | {
      "weights as decoding reads them": read,
      "keys of prompts": rows * length * per_token,
      "keys of responses": int(responses * (columns * (1 + twice) + chunk)),
      "activations": max(
        self.forward(rows, 1, length, 0, self.kernel),
        _FLOAT32 * rows * group * numbers,
      ),
    }

  def scoring(self) -> Terms:
    """Returns the bytes of a forward pass over a micro-batch."""
    rows, width = self.layout.rows, self.layout.tokens
    return self.casts() | {
      "activations": max(
        self.forward(rows, 1, width, 0, self.packed_kernel),
        self.logits(rows * width),
      ),
      "head": self.head(),
    }

  def updating(self) -> Terms:
    """Returns the bytes of an update at its peak, in the backward pass."""
    gradient = device_bytes(self.state.params)
    rows, width = self.layout.rows, self.layout.tokens
    sizes = rows, width, "tpu" if self.packed_kernel else "cpu"
    # All activations of one layer, which exist while the gradient passes
    # through it: kept without recomputation, less the layer's input.
    one_layer = dataclasses.replace(self.local, num_layers=1)
    layer = _residuals(
      dataclasses.replace(one_layer, remat="none"), *sizes
    ) - _residuals(dataclasses.replace(one_layer, remat="layer"), *sizes)
    residuals = _residuals(self.local, *sizes)
    scores = 0
    if not self.packed_kernel and width**2 > attention.SCORES:
      # Attention in blocks recomputes its scores, so that `layer` lacks them.
      scores = int(_SCORES_BACKWARD * self.scores(rows, width, 0))
    # Copies of weights; without recomputation they are among the residuals.
    layers = device_bytes(self.state.params["layers"])
    copies = {}
    if self.model.remat == "layer" or self.xla.casts == "float32":
      copies = self.casts()
    if self.xla.relaid and self.model.dtype == "float32":
      copies = {"weights laid out for products": int(self.xla.relaid * layers)}
    # Micro-batches add their gradient to one more array. The head is gathered
    # in the compute type, and its gradient summed in float32, whole but for the
    # vocabulary's shards.
    return copies | {
      "gradient": 2 * gradient,
      "activations that the backward pass keeps": residuals,
      "activations": max(
        int(self.xla.backward * layer) + scores, self.logits(rows * width)
      ),
      "head": self.head() + self.head(_FLOAT32),
    }

  def casts(self) -> Terms:
    """Returns the bytes of weights that the compiler copies to another type."""
    dtype = self.xla.casts
    if self.model.dtype == "float32":
      return {}
    read = self.shapes
    if dtype == self.model.dtype:  # frozen parameters have that type already
      read, _ = lora.split(self.model, self.shapes)
    return {f"weights in {dtype}": self.tree(read, jnp.dtype(dtype).itemsize)}

  def head(self, item: int | None = None) -> int:
    """Returns the bytes of the head, gathered where it is split.

    Args:
      item: bytes per number; None takes the compute type's.
    """
    if sharding.ways("embed", self.mesh) == 1:
      return 0
    return (item or self.item) * self.model.embed_dim * self.local.vocab_size

  def logits(self, tokens: int) -> int:
    """Returns the bytes of a chunk's logits and of temporaries like them."""
    tokens = min(self.c.model.logits_chunk, tokens)
    return int(self.xla.logits * _FLOAT32 * tokens * self.local.vocab_size)

  @property
  def packed_kernel(self) -> bool:
    """Returns whether packed rows are read by a fused kernel."""
    return self.kernel and attention.packs(self.model, self.platform)

  @property
  def kernel(self) -> bool:
    """Returns whether attention is a fused kernel, which stores no scores."""
    try:
      return attention.choose(self.model, self.platform)[0] != "xla"
    except ValueError as e:
      raise errors.InputError(f"config.model.attention: {e}") from e

  def scores(self, sequences: int, length: int, prefix: int) -> int:
    """Returns the bytes of the float32 scores of a block of queries.

    Args:
      sequences: number of sequences.
      length: number of queries of a sequence.
      prefix: number of keys before the first query.
    """
    block = min(length, max(1, attention.SCORES // (length + prefix)))
    return (
      _FLOAT32 * self.local.num_heads * sequences * block * (length + prefix)
    )

  def forward(
    self, rows: int, responses: int, length: int, prefix: int, kernel: bool
  ) -> int:
    """Returns the peak bytes of one layer in a forward pass.

    Args:
      rows: number of rows.
      responses: responses per row.
      length: tokens per sequence.
      prefix: number of keys before the first token.
      kernel: whether attention is a fused kernel.
    """
    m = self.local
    # Three arrays like the residual stream, beside either the MLP's gate and up
    # projections, or queries, keys, values and the heads' outputs.
    tokens = rows * responses * length
    stream = 3 * m.embed_dim * tokens * self.item
    mlp = 2 * m.mlp_dim * tokens * self.item
    heads = (2 * m.num_heads + 2 * m.num_kv_heads) * m.head_dim
    attend = heads * tokens * self.item
    if not kernel:
      attend += int(
        _SCORES_FORWARD * self.scores(rows * responses, length, prefix)
      )
    return stream + max(mlp, attend)


def _local(model: model_config.ModelConfig, mesh) -> model_config.ModelConfig:
  """Returns the configuration of one device's share of a model."""

  def cut(axis, size):
    return sharding.named((axis,), (size,), mesh).shard_shape((size,))[0]

  heads = cut("heads", model.num_heads)
  return dataclasses.replace(
    model,
    num_heads=heads,
    # Keys shared by heads on several devices are copied to each.
    num_kv_heads=math.gcd(heads, cut("kv_heads", model.num_kv_heads)),
    mlp_dim=cut("mlp", model.mlp_dim),
    vocab_size=cut("vocab", model.vocab_size),
  )


@functools.lru_cache(maxsize=64)
def _residuals(
  model: model_config.ModelConfig, rows: int, width: int, platform: str
) -> int:
  """Returns the bytes that the forward pass keeps for the backward pass.

  Copies of parameters in the compute type are included. Logits are not: they
  are always recomputed.

  Args:
    model: configuration of one device's share.
    rows: number of rows.
    width: tokens of a row.
    platform: platform whose attention is traced.
  """
  shape = jax.ShapeDtypeStruct
  tokens = shape((rows, width), jnp.int32)
  slots = shape((rows, 1), jnp.int32)
  packed = batch_lib.Rows(
    tokens_AEW=tokens,
    bundle_AEW=tokens,
    response_AEW=None,
    position_AEW=tokens,
    source_AEW=tokens,
    start_AEZ=slots,
    length_AEZ=slots,
    prompt_start_AEZ=slots,
    prompt_length_AEZ=slots,
    used=shape((), jnp.int32),
    length=1,
  )
  trained, frozen = lora.split(model, parameters.abstract_params(model))
  # Of tied embeddings it is a transposed input.
  head = model.embed_dim, model.vocab_size
  dist = scoring.Distribution(chunk=1)
  residuals = []

  def trace(trained, frozen, packed):

    def forward(trained):
      logp, entropy, _ = scoring.row_stats(
        model, lora.join(trained, frozen), packed, dist
      )
      return jnp.sum(logp) + jnp.sum(entropy)

    # The leaves of the function that `vjp` returns are the residuals; inputs
    # among them are counted elsewhere.
    _, backward = jax.vjp(forward, trained)
    inputs = {id(x) for x in jax.tree.leaves((trained, frozen, packed))}
    residuals.extend(
      (x.shape, x.dtype)
      for x in jax.tree.leaves(backward)
      if id(x) not in inputs and x.shape != head
    )
    return ()

  with sharding.pretend(platform):
    jax.eval_shape(trace, trained, frozen, packed)
  return sum(math.prod(shape) * dtype.itemsize for shape, dtype in residuals)


def fits(phases: Mapping[str, Terms], chip: Chip) -> bool:
  """Returns whether an estimate leaves enough of a chip's memory free."""
  return peak(phases) <= USABLE * chip.memory


def propose(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  chip: Chip,
  count: int,
  teacher: model_config.ModelConfig | None = None,
) -> tuple[tuple[int, int, int], dict[str, Terms]] | None:
  """Proposes the mesh of `count` chips with least communication that fits.

  Sharding parameters (fsdp) costs less communication than sharding every
  product (tensor); copies (data) cost least.

  Args:
    c: config of the run.
    model: model configuration, from `model_of`.
    chip: kind of accelerator.
    count: number of chips.
    teacher: its configuration, from `teacher_of`.

  Returns:
    ((data, fsdp, tensor), estimate), or None if no mesh fits.
  """
  for sizes in meshes(count):
    try:
      phases = estimate(
        c, model, sharding.abstract_mesh(count, *sizes), chip.platform, teacher
      )
    except errors.InputError:
      continue  # this mesh does not divide the batch
    if fits(phases, chip):
      return sizes, phases
  return None


def meshes(count: int) -> Iterator[tuple[int, int, int]]:
  """Yields (data, fsdp, tensor) of `count` devices, least sharding first."""
  for tensor in _divisors(count):
    for fsdp in _divisors(count // tensor):
      yield count // tensor // fsdp, fsdp, tensor


def warnings(model: model_config.ModelConfig, mesh) -> list[str]:
  """Returns sentences on dimensions that a mesh cannot shard evenly."""
  out = []
  for axis, size, what in (
    ("kv_heads", model.num_kv_heads, "key heads"),
    ("heads", model.num_heads, "heads"),
    ("mlp", model.mlp_dim, "columns of the MLP"),
    ("vocab", model.vocab_size, "rows of the vocabulary"),
    ("embed", model.embed_dim, "columns of the embedding"),
  ):
    if size % sharding.ways(axis, mesh):
      out.append(
        f"the {size} {what} cannot be split {sharding.ways(axis, mesh)} "
        "ways: every device holds them all"
      )
  return out


def _divisors(count: int) -> list[int]:
  """Returns the divisors of a number, in rising order."""
  return [i for i in range(1, count + 1) if count % i == 0]
