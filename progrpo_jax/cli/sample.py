"""`progrpo sample`: a policy answers prompts from the keyboard or a pipe."""

import os
import sys

from progrpo_jax import ranges
from progrpo_jax.build import answers
from progrpo_jax.build import stages as build
from progrpo_jax.cli import arguments
from progrpo_jax.report import live


def run(argv: list[str]) -> int:
  """Answers each line of the input; returns the exit code."""
  parser = arguments.parser(
    "sample", "Answer prompts, one a line, from the keyboard or a pipe."
  )
  parser.add(
    "--num_samples",
    ranges.Whole(1, at_least=1),
    help="number of answers per prompt",
  )
  parser.add(
    "--temperature",
    ranges.Number(at_least=0.01, at_most=100, also=(0.0,)),
    help="sampling temperature; 0 is greedy (default: the config's)",
  )
  c, args = arguments.parse_policy(parser, argv)
  mesh = answers.one_device()
  policy = build.load_policy(c, mesh)
  # One prompt at a time, so that answers appear while someone types; `first`
  # numbers the prompts, so that equal prompts get different answers.
  for number, prompt in enumerate(_lines()):
    (texts,) = answers.sample(
      c,
      policy,
      [prompt],
      mesh,
      n=args.num_samples,
      temperature=args.temperature,
      first=number,
    )
    for text in texts:
      print(live.printable(text), flush=True)
  return 0


def _lines():
  """Yields prompts until the input ends; shows "> " on a terminal."""
  interactive = sys.stdin.isatty()
  while True:
    if interactive:
      print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
      return
    if line.strip():
      yield line.rstrip(os.linesep)
