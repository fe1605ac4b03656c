"""`progrpo configs`: the config files that come with the package."""

import ast

from progrpo_jax import errors
from progrpo_jax.cli import arguments
from progrpo_jax.settings import files


def run(argv: list[str]) -> int:
  """Lists the config files, or prints one; returns the exit code."""
  parser = arguments.plain_parser(
    "progrpo configs",
    "List the config files that come with the package, or "
    "print one, to save and change it: `progrpo configs tiny > mine.py`. "
    "`--config NAME` runs one unchanged.",
  )
  parser.add_argument("name", nargs="?", help="name of the file to print")
  name = parser.parse_args(argv).name
  shipped = files.shipped()
  if name is None:
    width = max(map(len, shipped), default=0)
    for key, path in shipped.items():
      print(f"{key:<{width}}  {_first_line(path)}")
    return 0
  name = name.removeprefix("configs/").removesuffix(".py")
  if name not in shipped:
    raise errors.InputError(
      f"no config file {name!r}{errors.hint(name, shipped, '')}; `progrpo "
      "configs` lists them"
    )
  print(shipped[name].read_text(encoding="utf-8"), end="")
  return 0


def _first_line(path) -> str:
  """Returns the first line of a file's docstring, without running the file."""
  text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
  return text.partition("\n")[0]
