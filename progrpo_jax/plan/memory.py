"""What a run takes of each device's memory, phase by phase, from shapes alone.

Nothing is compiled and no weight is read; the devices need not be there.
Weights, optimiser and caches are counted as the mesh cuts them. What the
backward pass keeps is what JAX's differentiation hands from the forward to
the backward pass when it is traced for one device's share of rows, heads and
MLP. What a compiler holds for a moment beside that is declared nowhere: the
moments at which most is alive are added up from their largest arrays.
docs/memory.md says how near that comes to what compilers say and to what
processes take.
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
from progrpo_jax.config import checks, schedule
from progrpo_jax.devices import sharding
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import attention, hf, lora, scoring, transformer
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.rollout import sampler
from progrpo_jax.storage import policy as policy_lib

# Name -> bytes on each device.
Terms = dict[str, int]

_FLOAT32 = 4

# A plan should fill this much of a chip: arrays do not pack without gaps, and
# an estimate is none the less one.
USABLE = 0.85


@dataclasses.dataclass(frozen=True)
class _Compiler:
  """What the XLA of a platform keeps alive, as compiled programs show it.

  Attributes:
    logits: arrays over the logits of a chunk.
    backward: while the gradient goes back through a layer, in parts of what
      the layer keeps without recomputing: that itself, and cotangents.
    growth: of the cache of responses, while it is moved to a larger one.
    casts: the type, if any, in which all weights are copied at once before
      bfloat16 layers are gone through.
    relaid: copies of float32 weights in the order in which products read
      them, in parts of the layers.
  """

  logits: float
  backward: float
  growth: float
  casts: str
  relaid: float


_COMPILERS = {
    # A CPU multiplies bfloat16 in float32.
    "cpu": _Compiler(2, 0.65, 1.0, "float32", 1.4),
    "tpu": _Compiler(1, 1.0, 1.5, "bfloat16", 0.0),
    # Not measured: taken to be like the TPU's.
    "gpu": _Compiler(1, 1.0, 1.5, "bfloat16", 0.0),
}
# Arrays over the scores of a block of queries that are alive at one time,
# forward and backward, masks and sums included.
_SCORES_FORWARD, _SCORES_BACKWARD = 1.4, 2.4


@dataclasses.dataclass(frozen=True)
class Chip:
  """An accelerator that a run may be planned for.

  Attributes:
    platform: as JAX calls its kind.
    memory: bytes that XLA can hand out at most.
  """

  platform: str
  memory: int


def _gib(count: float) -> int:
  return int(count * 2 ** 30)


# Of TPUs, what their compiler names as the limit when a program is too large
# (libtpu 0.0.42). Of GPUs, 95 % of what the driver shows (79.6 and 140.4 GiB):
# JAX takes 75 % unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
CHIPS = {
    "v5e": Chip("tpu", _gib(15.75)),
    "v5p": Chip("tpu", _gib(95.74)),
    "v6e": Chip("tpu", _gib(31.25)),
    "H100": Chip("gpu", _gib(0.95 * 79.6)),
    "H200": Chip("gpu", _gib(0.95 * 140.4)),
}


def model_of(c: ml_collections.ConfigDict) -> model_config.ModelConfig:
  """The model that a run of the config trains, by its `config.json` alone.

  Raises:
    InputError: there is none, or it cannot be read.
  """
  place = os.path.expanduser(c.model.init_from)
  folder = epath.Path(place)
  if not hf.is_hf_dir(place) and not (folder / "config.json").exists():
    workdir, _ = policy_lib.find_run(place)
    folder = workdir / policy_lib.MODEL_DIR
  model = policy_lib.read_model(folder / "config.json")
  return dataclasses.replace(
      model, dtype=c.model.dtype, remat=c.model.remat,
      attention=c.model.attention, lora=checks.lora_config(c),
      partition_head=c.algo.partition_head)


def estimate(
    c: ml_collections.ConfigDict, model: model_config.ModelConfig, mesh,
    platform: str,
) -> dict[str, Terms]:
  """Estimated bytes on each device, phase -> name -> bytes.

  Args:
    c: the config; of its stages that one counts, phase by phase, which takes
      most.
    model: what it trains, from `model_of`.
    mesh: real or abstract.
    platform: "cpu", "gpu" or "tpu": it decides on the kernel of attention.

  Raises:
    InputError: the config cannot work on the mesh.
  """
  found: dict[str, Terms] = {}
  for stage in schedule.every(c):
    for phase, terms in _Stage(stage, model, mesh, platform).phases().items():
      if total(terms) > total(found.get(phase, {})):
        found[phase] = terms
  return found


def total(terms: Mapping[str, int]) -> int:
  """Bytes of a phase."""
  return sum(terms.values())


def peak(phases: Mapping[str, Terms]) -> int:
  """Bytes of the phase that takes most."""
  return max(map(total, phases.values()))


class _Stage:
  """The estimate of a config that does not change any more."""

  def __init__(self, c, model, mesh, platform: str):
    checks.validate(c)
    self.c, self.model, self.mesh, self.platform = c, model, mesh, platform
    self.shards = sharding.batch_shards(mesh)
    self.per_row, self.score_parts, self.update_parts = checks.micro_batches(
        c, mesh)
    tx = functions.make_optimizer(c, functions.make_schedule(c))
    self.state = state_lib.abstract(model, tx, mesh)
    self.local = _local(model, mesh)
    self.item = jnp.dtype(model.dtype).itemsize
    self.xla = _COMPILERS[platform]

  def phases(self) -> dict[str, Terms]:
    """Phase -> name -> bytes."""
    c, stays = self.c, self.resident()
    algo, own = c.algo, c.eval
    sample = self.sampling(
        c.sampling.batch_prompts or checks.prompts_per_round(c),
        algo.num_generations)
    out = {
        "load": stays | (self.loading() if self.platform == "cpu" else {}),
        "sample": stays | sample,
        "score": stays | self.scoring(),
        "update": stays | self.updating(),
    }
    if self.platform == "cpu":  # elsewhere the copy is in the host's memory
      out["save"] = stays | {"copy that is written": _bytes(self.state)}
    if own.every or own.at_start:
      out["evaluate"] = stays | self.sampling(
          own.batch_prompts, own.num_samples)
    return out

  def weights(self) -> Terms:
    """Parameters."""
    out = {"weights that train (float32)": _bytes(self.state.params)}
    frozen = self.tree(lora.split(self.model, self.shapes)[1])
    if frozen:
      out[f"weights that do not ({self.model.dtype})"] = frozen
    return out

  def resident(self) -> Terms:
    """What stays from phase to phase."""
    out = self.weights() | {"optimiser": _bytes(self.state.opt_state)}
    if checks.needs_reference(self.c):
      out["reference"] = self.tree(lora.split(self.model, self.shapes)[0])
    return out

  @functools.cached_property
  def shapes(self):
    """All parameters, each with its sharding."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        transformer.abstract_params(self.model),
        transformer.shardings(self.model, self.mesh))

  def tree(self, tree, item: int | None = None) -> int:
    """Bytes of parameters, by default in the compute type."""
    item = item or self.item
    return item * sum(map(_shard_size, jax.tree.leaves(tree)))

  def loading(self) -> Terms:
    """In the host's memory: tensors are read one at a time."""
    largest = max(
        x.size // (1 if len(x.shape) < 3 else x.shape[0])
        for x in jax.tree.leaves(self.shapes))
    return {"tensors on their way": _FLOAT32 * largest}

  def sampling(self, prompts: int, group: int) -> Terms:
    """A rollout: its caches, and the moment at which most else is alive."""
    c, local = self.c, self.local
    rows, length = prompts // self.shards, c.data.max_prompt_length
    new, chunk = c.sampling.max_new_tokens, c.sampling.chunk
    columns = math.ceil((new - 1) / chunk) * chunk
    per_token = cache_lib.bytes_per_token(local)
    read = self.shapes
    if self.model.dtype == "float32" and self.model.lora is None:
      read = read["layers"]  # the others are read where they lie
    numbers = int(4 * new + self.xla.logits * local.vocab_size)
    copies = self.casts() if self.xla.casts == "float32" else {}
    if self.xla.relaid and self.model.dtype == "float32" and (
        self.model.tie_embeddings):
      copies = {"head": self.tree(self.shapes["embed"])}
    grows = columns > sampler.Settings.first_cache
    responses = rows * group * columns * per_token
    return copies | {
        "weights as decoding reads them": self.tree(read),
        "keys of prompts": rows * length * per_token,
        "keys of responses": int(
            responses * (self.xla.growth if grows else 1)),
        "activations": max(
            self.forward(rows, 1, length, 0), _FLOAT32 * rows * group * numbers
        ),
    }

  def scoring(self) -> Terms:
    """A forward pass over a micro-batch."""
    c = self.c
    rows = self.rows(self.score_parts)
    length, new = c.data.max_prompt_length, c.sampling.max_new_tokens
    return self.casts() | {
        "keys of prompts": rows * length * cache_lib.bytes_per_token(
            self.local),
        "activations": max(
            self.forward(rows, self.per_row, new, length),
            self.logits(rows)),
    }

  def updating(self) -> Terms:
    """Forward, backward and step, at the moment at which most is alive."""
    c = self.c
    gradient = _bytes(self.state.params)
    rows = self.rows(c.train.num_minibatches * self.update_parts)
    sizes = (
        rows, self.per_row, c.data.max_prompt_length,
        c.sampling.max_new_tokens, "tpu" if self.kernel else "cpu")
    one = dataclasses.replace(self.local, num_layers=1)
    layer = _kept(dataclasses.replace(one, remat="none"), *sizes) - _kept(
        dataclasses.replace(one, remat="layer"), *sizes)
    kept = _kept(self.local, *sizes)
    scores, length, new = 0, c.data.max_prompt_length, c.sampling.max_new_tokens
    if not self.kernel and new * (length + new) > attention.SCORES:
      # Read in blocks, scores are recomputed, and not part of the layer's.
      scores = int(_SCORES_BACKWARD * self.scores(
          rows * self.per_row, new, length))
    layers = _bytes(self.state.params["layers"])
    copies = {}
    if self.model.remat == "layer" or self.xla.casts == "float32":
      copies = self.casts()  # otherwise they are among what is kept
    if self.xla.relaid and self.model.dtype == "float32":
      copies = {"weights laid out for products": int(
          self.xla.relaid * layers)}
    # Prompts and responses are read by two passes, each with its gradient;
    # micro-batches add theirs up in one more.
    return copies | {
        "gradient": gradient + layers + (
            gradient if self.update_parts > 1 else 0),
        "activations that the backward pass keeps": kept,
        "activations": max(
            int(self.xla.backward * layer) + scores, self.logits(rows)),
    }

  def casts(self) -> Terms:
    """Copies of weights that a compiler makes before it reads them."""
    dtype = self.xla.casts
    if self.model.dtype == "float32":
      return {}
    read = self.shapes
    if dtype == self.model.dtype:  # what is frozen has it already
      read, _ = lora.split(self.model, self.shapes)
    return {f"weights in {dtype}": self.tree(read, jnp.dtype(dtype).itemsize)}

  def rows(self, parts: int) -> int:
    """Rows of a micro-batch on a device."""
    c = self.c
    rows = c.train.prompts_per_step * c.algo.num_generations // self.per_row
    return rows // parts // self.shards

  def logits(self, rows: int) -> int:
    """Logits of a chunk, and what is computed of them."""
    c = self.c
    tokens = min(
        c.model.logits_chunk // self.shards,
        rows * self.per_row * c.sampling.max_new_tokens)
    return int(self.xla.logits * _FLOAT32 * tokens * self.local.vocab_size)

  @property
  def kernel(self) -> bool:
    """Whether attention is a kernel, which writes no scores."""
    try:
      return attention.choose(self.model, self.platform)[0] != "xla"
    except ValueError as e:
      raise errors.InputError(f"config.model.attention: {e}") from e

  def scores(self, sequences: int, length: int, prefix: int) -> int:
    """Scores of a block of queries of all sequences and heads, in float32."""
    block = min(length, max(1, attention.SCORES // (length + prefix)))
    return _FLOAT32 * self.local.num_heads * sequences * block * (
        length + prefix)

  def forward(self, rows: int, responses: int, length: int, prefix: int) -> int:
    """Most that is alive in one layer of a forward pass."""
    m = self.local
    tokens = rows * responses * length
    stream = 3 * m.embed_dim * tokens * self.item
    mlp = 2 * m.mlp_dim * tokens * self.item
    heads = (2 * m.num_heads + 2 * m.num_kv_heads) * m.head_dim
    attend = heads * tokens * self.item
    if not self.kernel:
      attend += int(_SCORES_FORWARD * self.scores(
          rows * responses, length, prefix))
    return stream + max(mlp, attend)


def _local(model: model_config.ModelConfig, mesh) -> model_config.ModelConfig:
  """The share of a model that a device computes with."""

  def cut(axis, size):
    return sharding.named((axis,), (size,), mesh).shard_shape((size,))[0]

  heads = cut("heads", model.num_heads)
  return dataclasses.replace(
      model, num_heads=heads,
      # Heads that share keys across devices each have them.
      num_kv_heads=math.gcd(heads, cut("kv_heads", model.num_kv_heads)),
      mlp_dim=cut("mlp", model.mlp_dim),
      vocab_size=cut("vocab", model.vocab_size))


@functools.lru_cache(maxsize=64)
def _kept(
    model: model_config.ModelConfig, rows: int, responses: int, prompt: int,
    new: int, platform: str) -> int:
  """Bytes that the forward pass hands to the backward pass.

  What belongs to the parameters alone, such as a copy in the compute type, is
  part of it. Logits are not: their chunks are always recomputed here, and
  where there is but one, compilers keep no more of it than that.
  """
  shape = jax.ShapeDtypeStruct
  sequences = batch_lib.Sequences(
      prompt_NT=shape((rows, prompt), jnp.int32),
      prompt_mask_NT=shape((rows, prompt), bool),
      tokens_NRT=shape((rows, responses, new), jnp.int32),
      mask_NRT=shape((rows, responses, new), bool))
  trained, frozen = lora.split(model, transformer.abstract_params(model))
  dist = scoring.Distribution(chunk=rows * responses)  # a column
  kept = []

  def trace(trained, frozen, sequences):

    def forward(trained):
      logp, entropy, _ = scoring.response_scores(
          model, lora.join(trained, frozen), sequences, dist)
      return jnp.sum(logp) + jnp.sum(entropy)

    _, backward = jax.vjp(forward, trained)
    given = {id(x) for x in jax.tree.leaves((trained, frozen, sequences))}
    kept.extend(
        (x.shape, x.dtype) for x in jax.tree.leaves(backward)
        if id(x) not in given)
    return ()

  with sharding.pretend(platform):
    jax.eval_shape(trace, trained, frozen, sequences)
  return sum(math.prod(shape) * dtype.itemsize for shape, dtype in kept)


def _shard_size(x) -> int:
  """Elements of an array on one device."""
  return math.prod(x.sharding.shard_shape(x.shape))


def _bytes(tree) -> int:
  return sum(_shard_size(x) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def fits(phases: Mapping[str, Terms], chip: Chip) -> bool:
  """Whether a run should find room on a chip."""
  return peak(phases) <= USABLE * chip.memory


def propose(
    c: ml_collections.ConfigDict, model: model_config.ModelConfig, chip: Chip,
    count: int,
) -> tuple[tuple[int, int, int], dict[str, Terms]] | None:
  """The mesh of `count` chips that cuts a run up least and still fits.

  Cutting parameters (fsdp) costs less traffic than cutting every layer
  (tensor), and copies (data) cost none.

  Returns:
    ((data, fsdp, tensor), estimate), or None where none fits.
  """
  for sizes in meshes(count):
    try:
      phases = estimate(
          c, model, sharding.abstract_mesh(count, *sizes), chip.platform)
    except errors.InputError:
      continue  # the batch cannot be cut so
    if fits(phases, chip):
      return sizes, phases
  return None


def meshes(count: int) -> Iterator[tuple[int, int, int]]:
  """(data, fsdp, tensor) of so many devices, those that cut least first."""
  for tensor in _divisors(count):
    for fsdp in _divisors(count // tensor):
      yield count // tensor // fsdp, fsdp, tensor


def warnings(model: model_config.ModelConfig, mesh) -> list[str]:
  """What a mesh does badly, in sentences."""
  out = []
  for axis, size, what in (
      ("kv_heads", model.num_kv_heads, "key heads"),
      ("heads", model.num_heads, "heads"),
      ("mlp", model.mlp_dim, "columns of the MLP"),
      ("vocab", model.vocab_size, "rows of the vocabulary"),
      ("embed", model.embed_dim, "columns of the embedding")):
    if size % sharding.ways(axis, mesh):
      out.append(
          f"the {size} {what} cannot be cut into {sharding.ways(axis, mesh)}: "
          "every device holds them all")
  return out


def _divisors(count: int) -> list[int]:
  return [i for i in range(1, count + 1) if count % i == 0]
