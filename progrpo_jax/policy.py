"""A policy and its tokenizer, from wherever a config says."""

import dataclasses
import json
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from progrpo_jax import checkpoint as checkpoint_lib
from progrpo_jax import errors
from progrpo_jax import tokenizer as tokenizer_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import hf, transformer

MODEL_DIR = "model"
CHECKPOINTS = "checkpoints"

# Stream of randomness of a new partition head.
_PARTITION_HEAD = 2


@dataclasses.dataclass(frozen=True)
class Policy:
  """A policy and the tokenizer that it was trained with."""

  config: model_config.ModelConfig
  params: Any
  tokenizer: tokenizer_lib.Tokenizer


def read_model(path: str, **changes) -> model_config.ModelConfig:
  """A model's `config.json`.

  Raises:
    InputError: it cannot be read, or is of a model that is not supported.
  """
  try:
    described = json.loads(epath.Path(path).read_text())
    if not isinstance(described, dict):
      raise ValueError("not a JSON object")
    return model_config.ModelConfig.from_hf(described, **changes)
  except (OSError, ValueError) as e:
    raise errors.InputError(f"{path}: {e}") from e


def find_run(path: str) -> tuple[epath.Path, int | None]:
  """(workdir, step or None) that a workdir or a checkpoint's path names.

  Raises:
    InputError: it is neither.
  """
  place = epath.Path(path)
  if not place.exists():
    raise errors.InputError(
        f"config.model.init_from = {path!r}: no such directory")
  workdir, step = place, None
  if place.name.isdigit() and place.parent.name == CHECKPOINTS:
    workdir, step = place.parent.parent, int(place.name)
  if not (workdir / MODEL_DIR / "config.json").exists():
    raise errors.InputError(
        f"config.model.init_from = {path!r} is neither an HF directory "
        "(config.json and safetensors) nor the workdir of a run (model/ and "
        "checkpoints/) nor one of its checkpoints")
  return workdir, step


def load(c, mesh) -> Policy:
  """The policy that `config.model.init_from` names, float32 masters.

  With a partition head, a new one if it had none, if the config trains one.

  Raises:
    InputError: nothing there, or it cannot be read.
  """
  path = os.path.expanduser(c.model.init_from)
  options = dict(
      chat_template=c.model.chat_template,
      system_prompt=c.model.system_prompt or None)
  if hf.is_hf_dir(path):
    config, params = hf.load(path, dtype=jnp.float32, mesh=mesh)
    tokenizer = tokenizer_lib.load(path, **options)
  else:
    config, params, workdir = _load_run(path, mesh)
    tokenizer = tokenizer_lib.load(workdir / MODEL_DIR, **options)
  if not c.algo.partition_head:
    config, params = transformer.without_partition_head(config, params)
  elif not config.partition_head:
    key = jax.random.fold_in(jax.random.key(c.seed), _PARTITION_HEAD)
    config, params = transformer.with_partition_head(
        config, params, key, mesh)
  config = dataclasses.replace(
      config, dtype=c.model.dtype, remat=c.model.remat)
  return Policy(config, params, tokenizer)


def _load_run(path: str, mesh):
  """(model, parameters, workdir) of a run's newest or named checkpoint."""
  workdir, step = find_run(path)
  config = read_model(workdir / MODEL_DIR / "config.json")
  checkpointer = checkpoint_lib.Checkpointer(
      workdir / CHECKPOINTS, read_only=True)
  step = checkpointer.latest() if step is None else step
  if step is None:
    raise errors.InputError(f"{workdir} holds no checkpoint yet")
  like = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      transformer.abstract_params(config),
      transformer.shardings(config, mesh))
  params = checkpointer.load_params(step, like)
  checkpointer.close()
  return config, params, workdir
