"""The methods by their names."""

from collections.abc import Callable

import ml_collections

from progrpo_jax import errors
from progrpo_jax.settings import methods

Method = Callable[[ml_collections.ConfigDict], ml_collections.ConfigDict]

METHODS: dict[str, Method] = {
  name: function
  for name, function in vars(methods).items()
  if not name.startswith("_")
}


def method(name: str) -> Method:
  """Returns the function of `methods` that makes a config that method's.

  Args:
    name: name of a method, in small or capital letters.

  Raises:
    InputError: there is no such method.
  """
  found = METHODS.get(name) or METHODS.get(name.lower())
  if found is None:
    raise errors.InputError(
      f"no method {name!r}{errors.hint(name, METHODS)} "
      f"(known: {', '.join(sorted(METHODS))})"
    )
  return found
