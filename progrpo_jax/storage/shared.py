"""Whether all hosts of a run see one workdir.

Every host writes its part of a checkpoint there. Hosts that have a directory of
that name each would find out when they first resume, from parts that are
missing.
"""

import contextlib
import time
import uuid

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.devices import hosts

# What the first host writes for the others to read, while a run starts.
FILE = ".hosts"
# Seconds in which the others must see it: NFS may show a new file late, by its
# cache of directories.
_SEEN_S = 30.0


def check(workdir: epath.Path, *, wait_s: float = _SEEN_S) -> None:
  """Checks that all hosts see what the first one writes into the workdir.

  Every host must call this. One host alone does nothing.

  Args:
    workdir: workdir of the run, which the first host has locked.
    wait_s: seconds to wait for the first host's file.

  Raises:
    InputError: a host does not see it, or it cannot be written.
    RunError: the workdir is out of reach for the moment.
  """
  if hosts.count() == 1:
    return
  path, token = workdir / FILE, hosts.from_first(uuid.uuid4().hex)

  def write():
    try:
      with places.reaching(path):
        places.write(path, token)
    except OSError as e:
      raise places.unwritable(f"to --workdir {workdir}", e) from e

  hosts.on_first(write)
  try:
    seen = hosts.gather(hosts.agree(lambda: _sees(path, token, wait_s)))
  finally:
    # All have looked, or the run ends. A file that stays does no harm.
    if hosts.is_first():
      with contextlib.suppress(OSError, errors.InputError, errors.RunError):
        with places.reaching(path):
          path.unlink()
  blind = [str(host) for host, sees in enumerate(seen) if not sees]
  if blind:
    raise errors.InputError(
      f"--workdir {workdir} is not one directory on all hosts: what host 0 "
      f"writes there is not seen by host {', '.join(blind)}. Name a directory "
      "on a disk that all hosts share, by its absolute path, or in a bucket"
    )


def _sees(path: epath.Path, token: str, wait_s: float) -> bool:
  """Returns whether a file with a token is there, or comes in time."""
  end = time.monotonic() + wait_s
  while True:
    is_last = time.monotonic() > end
    try:
      with places.reading(path):
        if path.read_text() == token:
          return True
    except places.MISSING:
      pass
    except errors.RunError:
      # What another machine has just replaced may be stale for a moment.
      if is_last:
        raise
    if is_last:
      return False
    time.sleep(min(0.2, wait_s / 4))
