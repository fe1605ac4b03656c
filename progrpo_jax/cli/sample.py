"""`progrpo sample`: a policy answers prompts from the keyboard or a pipe."""

import os
import sys

from progrpo_jax import api, errors, ranges
from progrpo_jax.build import problems
from progrpo_jax.cli import arguments
from progrpo_jax.report import live

_MARK = "> "  # before what the user, or the task in his place, says


def run(argv: list[str]) -> int:
  """Answers each line of the input; returns the exit code."""
  parser = arguments.parser(
    "sample",
    "Answer prompts, one a line, from the keyboard or a pipe. Where a task of "
    "the config replies to the policy, the line after an answer is the reply "
    "to it, and an empty line ends the conversation.",
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
  parser.add_argument(
    "--task",
    help="ask held-out problems of this task of the config, and nothing from "
    "the keyboard; a task that replies does so",
  )
  parser.add(
    "--num_problems",
    ranges.Whole(4, at_least=1),
    help="number of problems of --task",
  )
  c, args = arguments.parse_policy(parser, argv)
  options = dict(n=args.num_samples, temperature=args.temperature)
  if args.task is not None:
    policy = api.load_policy(None, c)
    tokenizer = policy.policy.tokenizer
    rows = problems.held_out_rows(c, tokenizer, args.task, args.num_problems)
    _play(policy, rows, options)
    return 0
  person = None
  if problems.converses(c):
    if args.num_samples > 1:
      raise errors.InputError(
        f"--num_samples {args.num_samples}: a conversation that is typed has "
        "one answer; --config.sampling.max_turns=1 asks for several"
      )
    person = _Person()
  policy = api.load_policy(None, c)
  # One prompt at a time, so that answers appear while someone types; `first`
  # numbers the prompts, so that equal prompts get different answers.
  for number, prompt in enumerate(_lines()):
    (texts,) = policy.sample([prompt], first=number, reply=person, **options)
    if person is None or not person.has_ended():
      for text in texts:
        _say(text)
  return 0


def _play(policy, rows, options) -> None:
  """Prints conversations on problems; what the policy reads is marked."""
  for number, row in enumerate(rows):
    (talks,) = policy.converse([row], first=number, **options)
    for talk in talks:
      _say(row.prompt, _MARK)
      for message in talk:
        _say(
          message["content"], "" if message["role"] == "assistant" else _MARK
        )


class _Person:
  """Replies that are typed, or piped, after each turn of the policy."""

  def __init__(self):
    """Starts before a conversation."""
    self._ended = False

  def __call__(self, messages) -> str | None:
    """Shows a turn and reads the reply; None for an empty line."""
    _say(messages[-1]["content"])
    text = _read(f"reply{_MARK}")
    self._ended = not text or not text.strip()
    return None if self._ended else text.rstrip(os.linesep)

  def has_ended(self) -> bool:
    """Returns whether the last talk ended after a turn that was shown."""
    ended, self._ended = self._ended, False
    return ended


def _lines():
  """Yields prompts until the input ends; shows "> " on a terminal."""
  while line := _read(_MARK):
    if line.strip():
      yield line.rstrip(os.linesep)


def _read(mark: str) -> str:
  """Reads a line, "" at the end of the input; shows a mark on a terminal."""
  if sys.stdin.isatty():
    print(mark, end="", file=sys.stderr, flush=True)
  return sys.stdin.readline()


def _say(text: str, mark: str = "") -> None:
  print(f"{mark}{live.printable(text)}", flush=True)
