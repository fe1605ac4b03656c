"""The step that every system of tools/bench_peers.py takes, and its timing.

The interpreters of all systems import this file, so it imports only the
standard library, and the task `sentences`, which needs no more.

The policy is random, and the ids for padding and end lie outside of its
vocabulary: no sample can stop early, and no token has to be suppressed. Or it
is the pretrained one of --model, which ends its sentences as it likes.
"""

import argparse
import json
import pathlib
import random
import resource
import statistics
import time

from progrpo_jax.rewards import sentence
from progrpo_jax.tasks import base, sentences

LEARNING_RATE = 1e-4
CLIP, MAX_GRAD_NORM = 0.2, 1.0
# A Llama with tied embeddings: with four layers 4.1M parameters, float32.
VOCAB, WIDTH, HEADS, KEY_HEADS, HEAD, HIDDEN = 512, 256, 4, 2, 64, 1024
# Prompts of a micro-batch of the update; docs/benchmarks.md says why two.
MICRO_BATCH = 2
ROPE_THETA, NORM_EPS = 10_000.0, 1e-6
PAD, END = VOCAB, VOCAB + 1
# What a pretrained policy is told beside its problem.
SYSTEM = "Answer with one sentence only."
# A pretrained policy moves little, so that its sentences keep their lengths.
SMALL_RATE = 1e-6


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
  parser.add_argument("--model", type=pathlib.Path)
  return parser.parse_args()


def learning_rate(args: argparse.Namespace) -> float:
  """Returns the learning rate for the policy that is trained."""
  return SMALL_RATE if args.model else LEARNING_RATE


def problem(number: int) -> base.Row:
  """Returns a problem for a pretrained policy."""
  rows = sentences.load("train", data_dir="", seed=0)
  return rows[random.Random(number).randrange(len(rows))]


def conversation(row: base.Row) -> list[dict[str, str]]:
  """Returns what a pretrained policy is asked."""
  return [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": row.prompt},
  ]


def judge(text: str, row: base.Row) -> float:
  """Returns the reward of a pretrained policy's sentence."""
  return sentence.score(text, row.reference, **row.meta).reward


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
    self._begun, self._used, self._sample, self._lengths = [], [], [], []

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
      SystemExit: number or lengths of the samples are not those asked for; a
        random policy fills all samples up, a pretrained one must not.
    """
    if seconds is None:
      seconds = time.perf_counter() - self._begun[-1]
    args = self._args
    full = (mean, longest) == (args.new_tokens, args.new_tokens)
    if count != args.prompts * args.samples or full == bool(args.model):
      raise SystemExit(
        f"{count} samples of {mean} tokens in the mean and {longest} at "
        f"most, with {args.prompts} x {args.samples} asked for and a limit of "
        f"{args.new_tokens}"
      )
    self._sample.append(seconds)
    self._lengths.append(mean)

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
          length=statistics.mean(self._lengths[skip : skip + steps]),
          versions=versions,
          parameters=parameters,
          changed=changed,
          # Peak of this process without its children; kilobytes on Linux.
          peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
      )
    )
