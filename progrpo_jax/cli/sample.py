"""`progrpo sample`: answers of a policy to prompts typed or piped."""

import os
import sys

from progrpo_jax import ranges
from progrpo_jax.build import answers
from progrpo_jax.build import stages as build
from progrpo_jax.cli import arguments
from progrpo_jax.report import live

_PLACE = ranges.Place(empty=False)


def run(argv: list[str]) -> int:
  """Answers each line of the input; returns the exit code."""
  parser = arguments.parser(
      "sample", "Answer prompts, one a line, from the keyboard or a pipe.")
  parser.add(
      "--policy", _PLACE, "HF directory, workdir, or checkpoints/<step> of one "
      "(default: config.model.init_from)")
  parser.add(
      "--num_samples", ranges.Whole(1, at_least=1),
      help="answers to each prompt")
  parser.add(
      "--temperature", ranges.Number(
          at_least=0.01, at_most=100, also=(0.0,)),
      help="0 is greedy (default: the config's)")
  c, args = arguments.parse(parser, argv)
  if args.policy:
    c.model.init_from = args.policy
  mesh = answers.one_device()
  policy = build.load_policy(c, mesh)
  for number, prompt in enumerate(_lines()):
    texts, = answers.sample(
        c, policy, [prompt], mesh, n=args.num_samples,
        temperature=args.temperature, first=number)
    for text in texts:
      print(live.printable(text), flush=True)
  return 0


def _lines():
  """Prompts, until the input ends; asked for where someone types."""
  asked = sys.stdin.isatty()
  while True:
    if asked:
      print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
      return
    if line.strip():
      yield line.rstrip(os.linesep)
