"""The command line: `progrpo COMMAND ...`, and the codes that it exits with.

0 is done, 1 a run that had to give up, 2 bad input (one line says what to
mend), 75 stopped and saved (run the same command again).
"""

import importlib
import os
import sys

from absl import logging

from progrpo_jax import errors
from progrpo_jax.cli import exits

COMMANDS = {
  "warmup": "train a small base policy on task demonstrations",
  "train": "reinforcement learning; resumes if the workdir holds a run",
  "evaluate": "pass@k, entropy and diversity of a policy",
  "compare": "several runs side by side",
  "report": "one HTML page of a run",
  "sample": "answers of a policy to prompts typed or piped",
  "export": "write a checkpoint as a Hugging Face directory",
  "configs": "list the config files that come with the package, print one",
  "tasks": "list tasks, show real examples, build data",
  "doctor": "devices, versions, and what a config takes of them",
}


def usage() -> str:
  """The help text."""
  width = max(map(len, COMMANDS))
  lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
  return "\n".join(
    [
      "usage: progrpo COMMAND [...]",
      "",
      *lines,
      "",
      "`progrpo COMMAND --help` says more.",
    ]
  )


def main(argv: list[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: arguments after the program's name; None takes the process's.

  Returns:
    The exit code.
  """
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in ("-h", "--help", "help"):
    print(usage())
    return 0 if argv else 2
  if argv[0] not in COMMANDS:
    print(
      f"progrpo: no command {argv[0]!r}{errors.hint(argv[0], COMMANDS)} "
      f"(known: {', '.join(COMMANDS)})",
      file=sys.stderr,
    )
    return 2
  # Libraries greet on stderr; people read this terminal.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  logging.set_verbosity(logging.ERROR)

  def command(words):
    module = importlib.import_module(f"progrpo_jax.cli.{argv[0]}")
    return module.run(words)

  return exits.run(f"progrpo {argv[0]}", command, argv[1:])


if __name__ == "__main__":
  sys.exit(main())
