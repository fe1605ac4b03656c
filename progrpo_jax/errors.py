"""The error of the user, told apart from the errors of the program."""


class InputError(ValueError):
  """Bad input of the user: the CLI prints the message alone and exits 2."""


class RunError(RuntimeError):
  """A run cannot go on; the command line prints the message and exits 1."""
