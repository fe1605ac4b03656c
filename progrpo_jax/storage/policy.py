"""A policy and its tokenizer: from an HF directory, a run, or a checkpoint."""

import contextlib
import dataclasses
import hashlib
import json
import os
import types
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from progrpo_jax import errors, ops, places
from progrpo_jax.devices import hosts
from progrpo_jax.models import config as model_config
from progrpo_jax.models import hf, parameters
from progrpo_jax.models import lora as lora_lib
from progrpo_jax.storage import checkpoint as checkpoint_lib
from progrpo_jax.storage import hub_names
from progrpo_jax.text import tokenizer as tokenizer_lib

# The key that names the policy to start from.
INIT_FROM = "config.model.init_from"
MODEL_DIR = "model"
CHECKPOINTS = "checkpoints"

# Numbers folded into the key for a new partition head and for new adapters.
_PARTITION_HEAD, _ADAPTERS = 2, 0x6C6F7261

# Fields of a run's model/config.json: the place of the base weights that its
# adapters belong to, and a digest of its tokenizer.
_BASE = "progrpo_base"
TOKENIZER = "progrpo_tokenizer"
# Key of a checkpoint's record: a digest of the model's configuration.
MODEL = "model"


# What to do where there is no policy yet, for the end of a message. The key is
# emptied, since a warm-up starts from the policy that a config names.
_WARMUP = (
  "; `progrpo warmup --config FILE --config.model.init_from= --output DIR`"
  " makes a small policy"
)


@dataclasses.dataclass(frozen=True)
class Policy:
  """A policy and its tokenizer.

  Attributes:
    config: model configuration.
    params: parameters; None where they are those of a checkpoint that is not
      read yet, see `of_run`.
    tokenizer: tokenizer that the policy was trained with.
    step: step of the run's checkpoint that the parameters were read from; None
      for those of a directory of Hugging Face's format.
  """

  config: model_config.ModelConfig
  params: Any
  tokenizer: tokenizer_lib.Tokenizer
  step: int | None = None


def read_model(
  path: str | os.PathLike, **changes: Any
) -> model_config.ModelConfig:
  """Reads a model's `config.json`.

  Args:
    path: path of the file.
    **changes: fields of `ModelConfig` to override.

  Raises:
    InputError: the file cannot be read, or the model is not supported.
  """
  described = places.read_json(path)
  try:
    return model_config.ModelConfig.from_hf(described, **changes)
  except ValueError as e:
    raise errors.InputError(f"{path}: {e}") from e


def digest(config: model_config.ModelConfig) -> str:
  """Digest of a model but for how it computes, as 16 hexadecimal digits."""
  described = json.dumps(config.to_hf(), sort_keys=True)
  return hashlib.sha256(described.encode()).hexdigest()[:16]


def workdir_of(path: str) -> epath.Path:
  """Returns a directory, or the workdir of which it is a checkpoint."""
  place = epath.Path(path)
  if place.name.isdigit() and place.parent.name == CHECKPOINTS:
    place = place.parent.parent
  return place


def run_of(path: str) -> epath.Path | None:
  """Returns the workdir that a path names, or one of whose checkpoints it is.

  Returns:
    None where the path is no run's, such as a Hugging Face directory.
  """
  place = workdir_of(path)
  return place if (place / MODEL_DIR / "config.json").exists() else None


def is_on_hub(place: str) -> bool:
  """Returns whether a place can only be a model of the hub, by its id."""
  return bool(hub_names.split(place)) and not os.path.exists(place)


def _hub() -> types.ModuleType:
  """Returns the module `hub`, which says why it is imported late."""
  from progrpo_jax.storage import hub

  return hub


def locate(place: str, download: bool) -> str:
  """Returns the absolute path, or the URL, of a policy.

  Args:
    place: HF directory, workdir of a run, one of its checkpoints/<step>, or
      the id of a model of the Hugging Face hub.
    download: whether a model of the hub is fetched, see `hub.fetch`; its path
      is one where nothing is otherwise.

  Raises:
    InputError: the model cannot be fetched, or the place is its page.
  """
  page = place.partition("://huggingface.co/")[2]
  if page:
    raise errors.InputError(
      f"config.model.init_from = {place!r} is a page: a model of the hub is "
      f"named by its id, {page!r}, with config.model.download = True"
    )
  if download and is_on_hub(place):
    return _hub().fetch(place)
  if places.is_remote(place):
    return place
  return os.path.abspath(os.path.expanduser(place))


def find_run(path: str, key: str = INIT_FROM) -> tuple[epath.Path, int | None]:
  """Returns the run that a path names.

  Args:
    path: workdir of a run, or one of its checkpoints/<step>.
    key: key of the config that has the path, for messages.

  Returns:
    (workdir, step), with None as the step of a workdir.

  Raises:
    InputError: the path is neither.
  """
  place = epath.Path(path)
  if not place.exists():
    # As it was typed, for it may be the id of a model of the hub; not where the
    # folder around it is on this machine.
    is_id = not places.is_remote(path) and not place.parent.exists()
    typed = os.path.relpath(path) if is_id else ""
    advice = hub_names.hint(typed, key) or _WARMUP
    raise errors.InputError(f"{key} = {path!r}: no such directory{advice}")
  workdir, step = place, None
  if place.name.isdigit() and place.parent.name == CHECKPOINTS:
    workdir, step = place.parent.parent, int(place.name)
  if not (workdir / MODEL_DIR / "config.json").exists():
    raise errors.InputError(
      f"{key} = {path!r} is neither an HF directory "
      "(config.json and safetensors) nor the workdir of a run (model/ and "
      "checkpoints/) nor one of its checkpoints"
    )
  return workdir, step


def check_exists(place: str, download: bool, key: str) -> None:
  """Refuses a place without a policy; nothing of one is read, or fetched.

  Args:
    place: place of a policy, see `locate`.
    download: whether a model of the hub may be fetched.
    key: name of the place for messages: a key, a flag, or an argument.

  Raises:
    InputError: there is neither an HF directory nor a run.
  """
  if download and is_on_hub(place):
    return
  path = locate(place, download)
  if not hf.is_hf_dir(path):
    find_run(path, key)


def check_stays(place: str, key: str = INIT_FROM) -> None:
  """Refuses a place whose weights are others after a run there saved a step.

  A run that begins at a workdir keeps the weights in its own checkpoints. One
  that reads them again whenever it goes on, as the base of adapters or as a
  teacher, would go on with others.

  Args:
    place: place of a policy that is not fetched from the hub.
    key: key of the config that has the place, for messages.

  Raises:
    InputError: the place is a workdir; the message names its newest
      checkpoint. Or it is no policy.
  """
  path = locate(place, False)
  if hf.is_hf_dir(path):
    return
  workdir, step = find_run(path, key)
  if step is None:
    newest = checkpoint_lib.newest(workdir / CHECKPOINTS)
    if newest is None:
      raise errors.InputError(f"{workdir} holds no checkpoint yet")
    raise errors.InputError(
      f"{key} = {place!r} is the workdir of a run, whose newest checkpoint "
      f"changes: name one, as in {workdir / CHECKPOINTS / str(newest)}"
    )


def describe(
  config: model_config.ModelConfig,
  tokenizer: tokenizer_lib.Tokenizer,
  base: str,
  download: bool = False,
) -> dict[str, Any]:
  """Returns the content of a run's `model/config.json`.

  Args:
    config: model configuration.
    tokenizer: tokenizer of the policy, stored as a digest.
    base: place of the base weights, stored for a run with LoRA: its checkpoints
      hold the adapters alone.
    download: whether the base may have been fetched from the hub. It is stored
      with its commit then: another would be another model.
  """
  described = config.to_hf()
  described[TOKENIZER] = tokenizer_lib.digest(tokenizer)
  if config.lora:
    fetched = download and is_on_hub(base)
    described[_BASE] = _hub().pinned(base) if fetched else locate(base, False)
  return described


def is_same_model(
  before: dict[str, Any], after: dict[str, Any], elsewhere: bool
) -> bool:
  """Returns whether two descriptions are of one model.

  Args:
    before: description from `describe`, without its tokenizer.
    after: another one.
    elsewhere: whether the base of adapters may be at another place.
  """
  if elsewhere and _BASE in before and _BASE in after:
    before = before | {_BASE: after[_BASE]}
  return before == after


def base_of(described: dict[str, Any], workdir: epath.Path) -> str:
  """Says how to go on with adapters whose base another config names.

  Args:
    described: content of a run's `model/config.json`, from `describe`.
    workdir: workdir of that run.

  Returns:
    The beginning of a sentence; "" where the base lies in a directory of its
    own.
  """
  base = described.get(_BASE)
  if isinstance(base, str) and _is_workdir(base):
    return f"{_no_step(base, workdir)}, or "
  if not isinstance(base, str) or not hub_names.split(base):
    return ""
  return (
    f"its adapters belong to {base}: name that as "
    f"--config.model.init_from={base}, or "
  )


def load(
  place: str,
  mesh: jax.sharding.Mesh,
  *,
  download: bool = False,
  seed: int = 0,
  dtype: str = "float32",
  stored: str | None = "float32",
  remat: str = "none",
  attention: str = "auto",
  lora: model_config.LoRA | None = None,
  partition_head: bool = False,
  chat_template: str = "auto",
  chat_template_options: dict[str, Any] | None = None,
  system_prompt: str = "",
) -> Policy:
  """Loads a policy for training or sampling.

  Parameters that train are float32 masters; with LoRA the frozen ones have the
  compute type. So may those of a policy that is only read: the forward pass
  casts to that type what it reads, so that the bits of its results are the
  same. Adapters of an earlier run are merged. New adapters, and a new partition
  head, do not change the policy's distribution.

  Args:
    place: place of the policy, see `locate`.
    mesh: mesh of the devices that hold the parameters.
    download: whether a model of the hub is fetched.
    seed: seed of new adapters and of a new partition head.
    dtype: compute type.
    stored: type of the parameters where no adapters train; None keeps that of
      a Hugging Face directory, and is float32 for what a run trained.
    remat: recomputation in the backward pass, see `ModelConfig`.
    attention: attention kernel, see `ModelConfig`.
    lora: adapters to train; None trains all parameters.
    partition_head: whether the model has FlowRL's estimate of log Z.
    chat_template: chat template, see `text.tokenizer.load`.
    chat_template_options: variables of the template.
    system_prompt: system message before each prompt; "" for none.

  Raises:
    InputError: the place does not exist or cannot be read or fetched, or a
      weight is NaN or infinite.
  """
  path = locate(place, download)

  def find():
    found = _find(path)
    return found, tokenizer_lib.load(
      found.folder,
      chat_template=chat_template,
      chat_template_options=chat_template_options or {},
      system_prompt=system_prompt or None,
    )

  found, tokenizer = hosts.agree(find)
  config, params, step = _read(found, mesh, dtype if lora else stored, download)
  _check_finite(params, INIT_FROM, place)
  # Merge adapters of an earlier run, then add or remove what this run trains
  # beside the model: a partition head and adapters of its own.
  config, params = parameters.merged(config, params, mesh)
  key = jax.random.key(seed)
  if not partition_head:
    config, params = parameters.without_partition_head(config, params)
  elif not config.partition_head:
    config, params = parameters.with_partition_head(
      config, params, jax.random.fold_in(key, _PARTITION_HEAD), mesh
    )
  if lora:
    config, params = parameters.with_lora(
      config, lora, params, jax.random.fold_in(key, _ADAPTERS), mesh
    )
  config = dataclasses.replace(
    config, dtype=dtype, remat=remat, attention=attention
  )
  return Policy(config, params, tokenizer, step)


def of_run(
  workdir: epath.Path,
  *,
  dtype: str,
  remat: str,
  attention: str,
  chat_template: str,
  chat_template_options: dict[str, Any],
  system_prompt: str,
) -> Policy:
  """Returns the policy of a run that goes on, without its parameters.

  All of them are in its checkpoints, so that what it began with need not be
  read again, and may be gone. A run with LoRA is another matter.

  Args:
    workdir: workdir of a run without LoRA.
    dtype: compute type.
    remat: recomputation in the backward pass, see `ModelConfig`.
    attention: attention kernel, see `ModelConfig`.
    chat_template: chat template, see `text.tokenizer.load`.
    chat_template_options: variables of the template.
    system_prompt: system message before each prompt; "" for none.

  Raises:
    InputError: model or tokenizer in the workdir is damaged, or is not what
      the run was trained with: what it began with says what they are.
    RunError: the workdir is out of reach for the moment.
  """
  folder = workdir / MODEL_DIR
  file = folder / "config.json"

  def read():
    with places.reading(folder):
      config = read_model(file)
      tokenizer = tokenizer_lib.load(
        os.fspath(folder),
        chat_template=chat_template,
        chat_template_options=chat_template_options,
        system_prompt=system_prompt or None,
      )
      # Shapes do not tell everything, such as the base of the rotary
      # frequencies, so that another file would train another model.
      newest = checkpoint_lib.newest_meta(workdir / CHECKPOINTS) or {}
      for what, known, own in (
        ("model", newest.get(MODEL), digest(config)),
        (
          "tokenizer",
          places.read_json(file).get(TOKENIZER),
          tokenizer_lib.digest(tokenizer),
        ),
      ):
        if known != own:
          raise errors.InputError(
            f"{folder} is not known to hold the {what} that the run there was "
            "trained with"
          )
    return Policy(
      dataclasses.replace(
        config, dtype=dtype, remat=remat, attention=attention
      ),
      None,
      tokenizer,
    )

  return hosts.agree(read)


def load_frozen(
  place: str, mesh: jax.sharding.Mesh, policy: Policy, key: str
) -> tuple[model_config.ModelConfig, Any]:
  """Loads a policy that only scores what another one samples.

  Its parameters have the other's compute type; adapters are merged.

  Args:
    place: HF directory, or one of a run's checkpoints/<step>. A workdir names
      no step, and another checkpoint after every save: a resumed run would
      read another policy.
    mesh: mesh of the devices that hold the parameters.
    policy: policy that samples. This one must have each of its tokens under
      the same number; chat templates may differ, since prompts are sampled and
      scored as that one writes them.
    key: key of the config that has the place, for messages.

  Returns:
    (model configuration, parameters).

  Raises:
    InputError: the place does not exist or cannot be read, is a workdir, a
      weight is NaN or infinite, or the vocabulary is another one.
  """

  def find():
    check_stays(place, key)
    found = _find(locate(place, False), key)
    return found, tokenizer_lib.load(found.folder)

  found, tokenizer = hosts.agree(find)
  config, params, _ = _read(found, mesh, policy.config.dtype, download=False)
  _check_finite(params, key, place)
  hosts.agree(
    lambda: _check_vocabulary(policy, config, tokenizer, f"{key} = {place!r}")
  )
  config, params = parameters.merged(config, params, mesh)
  config, params = parameters.without_partition_head(config, params)
  return dataclasses.replace(
    config,
    dtype=policy.config.dtype,
    remat="none",
    attention=policy.config.attention,
  ), params


def _check_finite(params: Any, key: str, place: str) -> None:
  """Refuses weights that are not finite."""
  broken = ops.not_finite(params)
  if broken:
    raise errors.InputError(
      f"{key} = {place!r}: weights that are "
      f"not finite in {', '.join(broken[:3])}"
      f"{' and more' if len(broken) > 3 else ''}; name another policy"
    )


def _check_vocabulary(
  policy: Policy,
  config: model_config.ModelConfig,
  own: tokenizer_lib.Tokenizer,
  where: str,
) -> None:
  """Refuses a model that would read a policy's token as another one.

  Args:
    policy: policy that samples.
    config: configuration of the model.
    own: tokenizer of the model.
    where: key of the config that has its place, and the place.
  """
  known = dict(own.pieces())
  other = [
    (piece, number)
    for piece, number in policy.tokenizer.pieces()
    if known.get(piece) != number
  ]
  if other:
    piece, number = other[0]
    raise errors.InputError(
      f"{where}: its tokenizer is not that of the policy, whose tokens it "
      f"reads: {len(other)} of them have another number there, or none, such "
      f"as {piece!r} ({number}, there {known.get(piece)}). Name a model with "
      "the same tokenizer"
    )
  if config.vocab_size < policy.config.vocab_size:
    raise errors.InputError(
      f"{where}: it has {config.vocab_size} embeddings, and the policy, which "
      f"has {policy.config.vocab_size}, may sample what it cannot read. Name a "
      "model with as many"
    )


def load_adapters(
  path: str, mesh: jax.sharding.Mesh
) -> tuple[model_config.ModelConfig, Any, str, int]:
  """Loads the adapters of a run with LoRA.

  Args:
    path: workdir of the run, or one of its checkpoints/<step>.
    mesh: mesh of the devices that hold the adapters.

  Returns:
    (model configuration, adapters in float32, place of the base weights, step
    of the checkpoint).

  Raises:
    InputError: the run has no adapters, or cannot be read.
  """

  def find():
    found = _find(path)
    if isinstance(found, _Directory) or found.config.lora is None:
      raise errors.InputError(f"{path} was not trained with LoRA")
    return found

  found = hosts.agree(find)
  adapters, step = _read_checkpoint(
    found.workdir, found.step, found.config, mesh, "float32"
  )
  return found.config, adapters, found.base, step


@dataclasses.dataclass(frozen=True)
class _Directory:
  """A Hugging Face directory.

  Attributes:
    folder: its path, where the tokenizer is too.
  """

  folder: str


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
  """A run's checkpoint.

  Attributes:
    folder: directory of the tokenizer.
    workdir: workdir of the run.
    step: step of the checkpoint; None for the newest.
    config: model configuration.
    base: place of the base weights of a run with LoRA; "" for other runs.
  """

  folder: epath.Path
  workdir: epath.Path
  step: int | None
  config: model_config.ModelConfig
  base: str


def _find(path: str, key: str = INIT_FROM) -> _Directory | _Checkpoint:
  """Returns what a path holds; no weights are read, and no device is asked.

  Args:
    path: HF directory, workdir (its newest checkpoint), or checkpoints/<step>.
    key: key of the config that has the path, for messages.
  """
  if hf.is_hf_dir(path):
    return _Directory(path)
  workdir, step = find_run(path, key)
  folder = workdir / MODEL_DIR
  config = read_model(folder / "config.json")
  base = _base(workdir) if config.lora else ""
  return _Checkpoint(folder, workdir, step, config, base)


def _read(
  found: _Directory | _Checkpoint,
  mesh: jax.sharding.Mesh,
  dtype: str | None,
  download: bool,
) -> tuple[model_config.ModelConfig, Any, int | None]:
  """Reads parameters; every process must call this.

  Args:
    found: directory or checkpoint with the parameters.
    mesh: mesh of the devices that hold the parameters.
    dtype: type of the parameters; None as `stored` of `load`. Adapters are
      float32, for they are to be merged and rounded once.
    download: whether a base on the hub is fetched.

  Returns:
    (model configuration, parameters, step of a run's checkpoint or None).
  """
  # Hosts that read another kind would wait for each other in there.
  hosts.compare(f"{found.folder}", kind=type(found).__name__)
  if isinstance(found, _Directory):
    return *hf.load(found.folder, dtype=dtype, mesh=mesh), None
  config = found.config
  hosts.compare(f"{found.folder}", model=config, step=found.step)
  own = "float32" if config.lora or dtype is None else dtype
  params, step = _read_checkpoint(found.workdir, found.step, config, mesh, own)
  # A checkpoint with LoRA lacks the base, which may be a run with LoRA itself.
  if config.lora:
    place = locate(found.base, download)
    key = f"{_BASE} in {found.folder / 'config.json'}"
    base = hosts.agree(lambda: _find(place, key))
    base_config, base_params, _ = _read(base, mesh, dtype, download)
    _, base_params = parameters.merged(base_config, base_params, mesh)
    params = lora_lib.join(params, base_params)
  return config, params, step


def _base(workdir: epath.Path) -> str:
  """Returns the place of the base weights of a run with LoRA.

  Raises:
    InputError: it is not recorded, or without its step, as by an earlier
      version of this package.
  """
  file = workdir / MODEL_DIR / "config.json"
  base = places.read_json(file).get(_BASE)
  if not isinstance(base, str):
    raise errors.InputError(f"{file} does not name the base in {_BASE!r}")
  if _is_workdir(base):
    raise errors.InputError(f"{workdir}: {_no_step(base, workdir)}")
  return base


def _is_workdir(place: str) -> bool:
  """Returns whether a place is a run's, and does not say which checkpoint."""
  return run_of(place) == epath.Path(place) and not hf.is_hf_dir(place)


def _no_step(base: str, workdir: epath.Path) -> str:
  """Says what to do about adapters on a checkpoint that was not recorded."""
  return (
    f"its adapters belong to a checkpoint of {base}, the newest when it began, "
    "and which one that was is not recorded. If you know, write "
    f"{os.path.join(base, CHECKPOINTS)}/<step> as {_BASE!r} into "
    f"{workdir / MODEL_DIR / 'config.json'}, and train on with that as "
    f"--{INIT_FROM} and --override"
  )


def _read_checkpoint(
  workdir: epath.Path,
  step: int | None,
  config: model_config.ModelConfig,
  mesh: jax.sharding.Mesh,
  dtype: str,
) -> tuple[Any, int]:
  """Returns the trained parameters of a checkpoint, and its step.

  Args:
    workdir: workdir of the run.
    step: step of the checkpoint; None for the newest that is whole.
    config: model configuration.
    mesh: mesh of the devices that hold the parameters.
    dtype: type of the parameters.
  """
  # With LoRA the checkpoint holds the adapters alone.
  like = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype), sharding=s),
    *(
      lora_lib.split(config, tree)[0]
      for tree in (
        parameters.abstract_params(config),
        parameters.shardings(config, mesh),
      )
    ),
  )
  with contextlib.closing(
    checkpoint_lib.Checkpointer(workdir / CHECKPOINTS, read_only=True)
  ) as checkpointer:
    step = checkpointer.latest() if step is None else step
    if step is None:
      raise errors.InputError(f"{workdir} holds no checkpoint yet")
    return checkpointer.load_params(step, like), step
