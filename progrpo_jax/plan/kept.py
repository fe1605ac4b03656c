"""Programs compiled for chips that are elsewhere, kept on disk by their text.

JAX's own cache writes such a program but cannot read it back, because reading
loads it onto its chips. What is counted is text, so text is what is kept: of
two configs that sample alike, only the first waits for the compiler.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import pathlib

import jax

from progrpo_jax import places

HOME = "~/.cache/progrpo_jax/compiled"


@dataclasses.dataclass(frozen=True)
class Program:
  """What a compiler made.

  Attributes:
    text: the optimised program.
    memory: bytes that it takes of a device: arguments, results, temporaries.
  """

  text: str
  memory: float


def compile(lowered: jax.stages.Lowered, mesh) -> Program:
  """Returns a program from the folder `HOME`, or compiles it and keeps it.

  A folder that cannot be read or written costs the time of compiling alone.

  Args:
    lowered: the program.
    mesh: mesh of the devices that it is for.

  Raises:
    JaxRuntimeError: it does not fit the devices.
  """
  file = pathlib.Path(os.path.expanduser(HOME)) / f"{_key(lowered, mesh)}.gz"
  try:
    return Program(**json.loads(gzip.decompress(file.read_bytes())))
  except (OSError, EOFError, ValueError, TypeError):
    pass  # not there, or damaged: it is made again
  compiled = lowered.compile()
  stats = compiled.memory_analysis()
  program = Program(
    compiled.as_text(),
    stats.argument_size_in_bytes
    + stats.temp_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes,
  )
  # Without the time the same program is the same file.
  data = gzip.compress(json.dumps(vars(program)).encode(), 5, mtime=0)
  with contextlib.suppress(OSError):  # no room for it, or not allowed
    places.write(file, data)
  return program


def _key(lowered, mesh) -> str:
  """Returns a name of a program, its devices, and its compiler."""
  first = mesh.devices.flat[0]
  parts = (
    jax.__version__,
    first.client.platform_version,
    first.device_kind,
    *map(str, mesh.devices.flat),
    lowered.as_text(),
  )
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()
