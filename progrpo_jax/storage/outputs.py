"""Where output may go: over no record of a run, and no file of a policy.

A command that writes a file takes its name from the user, and one word typed
wrongly must not cost the history of a run.
"""

import os
from typing import Any

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.models import hf
from progrpo_jax.storage import lines, lock, loggers, metrics
from progrpo_jax.storage import policy as policy_lib

CONFIG = "config.json"
_FILES = (CONFIG, metrics.METRICS, metrics.EVALS, lock.FILE, loggers.RUN_ID)
_FOLDERS = (
  policy_lib.MODEL_DIR,
  policy_lib.CHECKPOINTS,
  f"{policy_lib.CHECKPOINTS}-damaged",
  metrics.ROLLOUTS,
  metrics.EVAL_SAMPLES,
  # Parts of the records in a bucket.
  metrics.METRICS.partition(".")[0],
  metrics.EVALS.partition(".")[0],
  "tb",
)


def is_config(content: dict[str, Any]) -> bool:
  """Returns whether a `config.json` holds the config of a run.

  A policy's directory has a file of this name too, which describes the model.

  Args:
    content: object in the file.
  """
  return all(isinstance(content.get(key), dict) for key in ("train", "algo"))


def holds_run(place: str | os.PathLike) -> bool:
  """Returns whether a directory is the workdir of a run, or of what is left.

  Args:
    place: local path or URL, which need not exist.
  """
  home = epath.Path(place)
  saved = home / policy_lib.CHECKPOINTS
  return (
    bool(lines.files(home / metrics.METRICS))
    or is_config(lines.config(home / CONFIG, damage=[]))
    or (saved.is_dir() and any(p.name.isdigit() for p in saved.iterdir()))
  )


def check(path: str | os.PathLike, flag: str = "") -> None:
  """Refuses a file or directory of output that belongs to a run or policy.

  Args:
    path: local path or URL, which need not exist.
    flag: flag of the command line that names it.

  Raises:
    InputError: writing there would replace a record of a run or a file of a
      policy, or put something between them.
  """
  path = os.fspath(path)
  place = epath.Path(path if places.is_remote(path) else os.path.realpath(path))
  named = f"{flag} {path}".lstrip()
  for home in place.parents:
    name = place.relative_to(home).parts[0]
    is_file = name in _FILES and home == place.parent
    if (is_file or name in _FOLDERS) and (
      holds_run(home) or lines.files(home / metrics.EVALS)
    ):
      raise errors.InputError(
        f"{named} belongs to the records of the run in {home}, which would be "
        "lost: name another place"
      )
  if place.is_file() and hf.is_hf_dir(place.parent):
    raise errors.InputError(
      f"{named} is a file of the policy in {place.parent}, which would be "
      "lost: name another place"
    )
