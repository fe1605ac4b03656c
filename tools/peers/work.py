"""The step that every system of tools/bench_peers.py takes, and its timing.

The interpreters of all systems import this file, so it imports only the
standard library. The ids for padding and end lie outside of the model's
vocabulary: no sample can stop early, and no token has to be suppressed.
"""

import argparse
import json
import pathlib
import random
import resource
import time

LEARNING_RATE = 1e-4
CLIP, MAX_GRAD_NORM = 0.2, 1.0
# A Llama with tied embeddings: with four layers 4.1M parameters, float32.
VOCAB, WIDTH, HEADS, KEY_HEADS, HEAD, HIDDEN = 512, 256, 4, 2, 64, 1024
# Prompts of a micro-batch of the update; docs/benchmarks.md says why two.
MICRO_BATCH = 2
ROPE_THETA, NORM_EPS = 10_000.0, 1e-6
PAD, END = VOCAB, VOCAB + 1


def arguments() -> argparse.Namespace:
  """Parses the sizes of the step, and the file for `Watch.write`."""
  parser = argparse.ArgumentParser()
  for name in (
    "layers",
    "prompts",
    "samples",
    "prompt_tokens",
    "new_tokens",
    "warmup",
    "steps",
    "cores",
  ):
    parser.add_argument(f"--{name}", type=int, required=True)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  return parser.parse_args()


def prompt(number: int, tokens: int) -> str:
  """Returns a text of `tokens` words; each word, a number, is one token."""
  draw = random.Random(number)
  return " ".join(str(draw.randrange(VOCAB)) for _ in range(tokens))


def reward(completion: str) -> float:
  """Returns the share of even words, which differs within every group."""
  words = completion.split()
  return sum(int(word) % 2 == 0 for word in words) / len(words)


class Watch:
  """Measures wall and CPU seconds of each step, and of the sampling in it.

  A step lasts from one `begin` to the next. The last `begin` ends the last
  measured step; the step that it begins is not measured.
  """

  def __init__(self, args: argparse.Namespace):
    """Measures steps of the sizes that `arguments` returned."""
    self._args = args
    self._begun, self._used, self._sample = [], [], []

  @property
  def total_steps(self) -> int:
    """Steps to run: warm-up, measured, and one more that is not measured."""
    return self._args.warmup + self._args.steps + 1

  def begin(self) -> None:
    """Begins a step; all work of the step before must be done."""
    self._begun.append(time.perf_counter())
    self._used.append(time.process_time())

  def sampled(
    self, count: int, mean: float, longest: float, seconds: float | None = None
  ) -> None:
    """Records that the step has its samples.

    Args:
      count: number of samples.
      mean: mean number of tokens of a sample.
      longest: tokens of the longest sample.
      seconds: duration of sampling; None counts from the beginning of the
        step.

    Raises:
      SystemExit: number or lengths of the samples are not those asked for.
    """
    if seconds is None:
      seconds = time.perf_counter() - self._begun[-1]
    args = self._args
    asked = args.prompts * args.samples, args.new_tokens, args.new_tokens
    if (count, mean, longest) != asked:
      raise SystemExit(
        f"{count} samples of {mean} tokens in the mean and {longest} at "
        f"most, instead of {asked[0]} of {args.new_tokens}"
      )
    self._sample.append(seconds)

  def rewards(self, completions: list[str]) -> list[float]:
    """Returns the rewards of all samples of a step, after `sampled`."""
    lengths = [len(text.split()) for text in completions]
    self.sampled(len(completions), sum(lengths) / len(lengths), max(lengths))
    return [reward(text) for text in completions]

  def write(self, versions: dict[str, str], parameters: int, changed: float):
    """Writes the JSON file of --output.

    Args:
      versions: versions of the system and its main dependencies, by name.
      parameters: number of parameters.
      changed: largest change of a parameter between beginning and end.

    Raises:
      SystemExit: steps are missing, or no parameter changed.
    """
    skip, steps = self._args.warmup, self._args.steps
    if len(self._begun) != self.total_steps:
      raise SystemExit(f"{len(self._begun)} steps, not {self.total_steps}")
    if not 0 < changed < float("inf"):
      raise SystemExit(f"the parameters changed by {changed}")
    seconds, cpu = (
      [b - a for a, b in zip(times, times[1:])][skip:]
      for times in (self._begun, self._used)
    )
    self._args.output.write_text(
      json.dumps(
        dict(
          seconds=seconds,
          cpu=cpu,
          sample=self._sample[skip : skip + steps],
          versions=versions,
          parameters=parameters,
          changed=changed,
          # Peak of this process without its children; kilobytes on Linux.
          peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
      )
    )
