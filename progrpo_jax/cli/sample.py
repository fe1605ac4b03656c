"""`progrpo sample`: answers of a policy to prompts typed or piped."""

import os
import sys

from progrpo_jax import inference, ranges
from progrpo_jax.cli import arguments
from progrpo_jax.report import live
from progrpo_jax.storage import policy as policy_lib

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
  mesh = inference.one_device()
  policy = policy_lib.load(c, mesh)
  for number, text in enumerate(_lines()):
    answers, = inference.sample(
        c, policy, [text], mesh, n=args.num_samples,
        temperature=args.temperature, first=number)
    for answer in answers:
      print(live.printable(answer), flush=True)
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
