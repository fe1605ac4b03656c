"""Files of a tokenizer: their names, and how they are read and written."""

import json
import os

from etils import epath

from progrpo_jax import errors

CONFIG = "tokenizer_config.json"
# Files of a Hugging Face tokenizer; each of them alone shows that there is one.
HF = ("tokenizer.json", CONFIG)
# File of a sentencepiece tokenizer.
MODEL = "tokenizer.model"
# Extensions of the files of a tokenizer, which exclude weights.
_KINDS = (".json", ".jinja", ".model", ".txt")
_TEMPLATES = "additional_chat_templates"


def write(path: epath.PathLike, content: bytes) -> None:
  """Writes a file whole or not at all."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if "://" in os.fspath(path):  # buckets replace an object whole
    path.write_bytes(content)
    return
  part = path.with_name(f"{path.name}.{os.getpid()}.part")
  part.write_bytes(content)
  part.replace(path)


def write_json(path: epath.PathLike, content: dict) -> None:
  """Writes an indented JSON file."""
  write(
    path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
  )


def read_json(path: epath.PathLike) -> dict:
  """Reads the object in a JSON file.

  Raises:
    InputError: the file cannot be read, is not JSON, or is not an object.
  """
  try:
    content = json.loads(epath.Path(path).read_bytes())
  except (ValueError, RecursionError) as e:
    raise errors.InputError(f"{path}: not JSON: {e}") from e
  except OSError as e:
    raise errors.InputError(f"{path}: cannot be read: {e}") from e
  if not isinstance(content, dict):
    raise errors.InputError(f"{path}: not a JSON object")
  return content


def copy(directory: epath.Path, local: str) -> None:
  """Copies the files of a tokenizer to a local directory."""
  for entry in directory.iterdir():
    if entry.name == _TEMPLATES:
      os.makedirs(os.path.join(local, _TEMPLATES), exist_ok=True)
      copy(entry, os.path.join(local, _TEMPLATES))
    elif entry.suffix in _KINDS:
      write(epath.Path(local) / entry.name, entry.read_bytes())
