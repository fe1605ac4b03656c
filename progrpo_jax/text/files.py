"""Files of a tokenizer: their names, and how they are copied."""

import os

from etils import epath

from progrpo_jax import places

CONFIG = "tokenizer_config.json"
# Files of a Hugging Face tokenizer; each of them alone shows that there is one.
HF = ("tokenizer.json", CONFIG)
# File of a sentencepiece tokenizer.
MODEL = "tokenizer.model"
# Extensions of the files of a tokenizer, which exclude weights.
_KINDS = (".json", ".jinja", ".model", ".txt")
_TEMPLATES = "additional_chat_templates"


def copy(directory: epath.Path, local: str) -> None:
  """Copies the files of a tokenizer to a local directory."""
  for entry in directory.iterdir():
    if entry.name == _TEMPLATES:
      os.makedirs(os.path.join(local, _TEMPLATES), exist_ok=True)
      copy(entry, os.path.join(local, _TEMPLATES))
    elif entry.suffix in _KINDS:
      places.write(epath.Path(local) / entry.name, entry.read_bytes())
