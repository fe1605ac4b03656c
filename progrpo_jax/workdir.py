"""What describes a run in its workdir: its config, its model, its tokenizer.

They say whose checkpoints lie beside them. A run goes on only if it is the run
that they describe, and they are written before its first checkpoint.
"""

import json
from typing import Any

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.build import stages as build
from progrpo_jax.settings import identity
from progrpo_jax.storage import checkpoint as checkpoint_lib
from progrpo_jax.storage import outputs
from progrpo_jax.storage import policy as policy_lib


def prepare(
  c, setup: build.Setup, workdir: epath.Path, override: bool = False
) -> identity.Changes:
  """Writes what describes the run: its config, its model, its tokenizer.

  On resume the old config.json stays until the new config has passed every
  check.

  Args:
    c: the resolved config.
    setup: resources of the whole run.
    workdir: workdir of the run.
    override: go on with another config or tokenizer.

  Returns:
    How the config differs from that of the run in the workdir.

  Raises:
    InputError: the workdir cannot be written, or holds a run of another model;
      or of another config or tokenizer, which `override` allows.
    RunError: the workdir is out of reach for the moment.
  """
  model = workdir / policy_lib.MODEL_DIR
  description = build.describe(c, setup)
  described = json.dumps(description, indent=2)
  try:
    with places.reaching(workdir):
      model.mkdir(parents=True, exist_ok=True)
      there = model / "config.json"
      tokenizer = _check_model(workdir, there, json.loads(described), override)
      changes = changes_of(c, workdir)
      identity.check(changes, workdir, override)
      if not override and tokenizer != description[policy_lib.TOKENIZER]:
        raise errors.InputError(
          "the tokenizer (vocabulary, special tokens or chat template) is not "
          f"the one that the run in {workdir} was trained with: put that back "
          "where config.model.init_from points, or choose a new --workdir "
          "(--override goes on all the same)"
        )
      if not (workdir / outputs.CONFIG).exists():
        write_config(c, workdir)
      places.write(there, described)
      setup.tokenizer.save(model)
  except OSError as e:
    raise places.unwritable(f"to --workdir {workdir}", e) from e
  return changes


def check(workdir: epath.Path) -> dict[str, Any]:
  """Refuses a directory that holds something else than a run.

  Args:
    workdir: workdir of a run, or where one begins; it need not exist.

  Returns:
    Config of the run there; {} where there is none.

  Raises:
    InputError: the directory is in a run's workdir, such as its checkpoints;
      or its `config.json` is not a run's, or cannot be read.
  """
  outputs.check(workdir, "--workdir")
  file = workdir / outputs.CONFIG
  if not file.exists():
    return {}
  config = _read_json(file, "to go on with the config that is given")
  if not outputs.is_config(config):
    raise errors.InputError(
      f"--workdir {workdir} holds no run: its {outputs.CONFIG}, which a run "
      "would overwrite, is that of a policy or of another program. Name "
      "another directory; the policy to start from is "
      f"{policy_lib.INIT_FROM}"
    )
  return config


def changes_of(c, workdir: epath.Path) -> identity.Changes:
  """Compares a config with that of the run in a workdir, if one began."""
  saved = workdir / policy_lib.CHECKPOINTS
  old = check(workdir)
  if (
    not old
    or not saved.exists()
    or not any(place.name.isdigit() for place in saved.iterdir())
  ):
    return identity.Changes()
  meta = checkpoint_lib.newest_meta(saved) or {}
  return identity.changes(
    old,
    json.loads(c.to_json_best_effort()),
    (meta.get("step", 0), meta.get("resets", 0)),
  )


def _check_model(
  workdir: epath.Path, there: epath.Path, described: dict, override: bool
) -> str:
  """Refuses another model than that of the run in the workdir.

  Args:
    workdir: workdir of the run.
    there: file that describes its model, if it exists.
    described: description of the new model.
    override: whether the base of its adapters may be at another place.

  Returns:
    Digest of the tokenizer of that run; the new one's where there is no run,
    or where its version of this package wrote none.
  """
  new = described.pop(policy_lib.TOKENIZER)
  if not there.exists():
    return new
  before = _read_json(
    there, "to have it written anew from the model that is given"
  )
  tokenizer = before.pop(policy_lib.TOKENIZER, new)
  if policy_lib.is_same_model(before, described, override):
    return tokenizer
  moved = ""
  if policy_lib.is_same_model(before, described, elsewhere=True):
    moved = "pass --override if its base is the same at another place, or "
  raise errors.InputError(
    f"{workdir} holds a run of another model; "
    f"{policy_lib.base_of(before, workdir)}{moved}choose a new --workdir"
  )


def _read_json(file: epath.Path, away: str) -> dict[str, Any]:
  """Reads a JSON object of the workdir.

  Args:
    file: path to read.
    away: purpose of moving the file away, for the message.

  Raises:
    InputError: it cannot be read.
  """
  try:
    return places.read_json(file)
  except errors.InputError as e:
    raise errors.InputError(
      f"{e}; put a copy of it back, or move it away {away}"
    ) from e


def write_config(c, workdir: epath.Path) -> None:
  """Writes the resolved config."""
  places.write(workdir / outputs.CONFIG, c.to_json_best_effort(indent=2))
