"""Damaged workdirs, and how a command ends that is given one.

Of the texts a bit is changed that makes a byte no text at all: what it has
changed to another text can be seen in a checkpoint alone, which keeps
checksums.
"""

import contextlib
import io
import itertools
import shutil
import sys

import pytest

from progrpo_jax import main

STEPS = (
  "train.total_steps=2",
  "eval.every=1",
  "eval.num_problems=2",
  "log.tensorboard=True",
  "checkpoint.keep=2",
)
# What "train" adds to it: a step more.
LONGER = ("train.total_steps=3", *STEPS[1:])
FILES = (
  "config.json",
  "model/config.json",
  "model/tok*",
  "metrics.jsonl",
  "eval.jsonl",
  "rollouts/000002.jsonl",
  "evals/000002.jsonl",
  "checkpoints/2/manifest.json",
  "checkpoints/2/meta/metadata",
  "checkpoints/2/params/**",
  "checkpoints/2/opt_state/**",
  "checkpoints/2/_CHECKPOINT_METADATA",
  "tb/*",
)


def half(data):
  return data[: len(data) // 2]


def zeros(data):
  return bytes(len(data))


def bit(data):
  at = len(data) // 2
  return data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]


def gone(data):
  del data


WAYS = {way.__name__: way for way in (half, zeros, bit, gone)}
COMMANDS = ("train", "report", "evaluate", "sample", "export", "compare")
ALL = list(itertools.product(FILES, WAYS, COMMANDS))


def damage(workdir, pattern, way):
  """Damages the largest file that a pattern names."""
  paths = [p for p in workdir.glob(pattern) if p.is_file()]
  if pattern.endswith("**"):
    paths = [
      p for p in workdir.joinpath(pattern[:-3]).rglob("*") if p.is_file()
    ]
  path = max(paths, key=lambda p: (p.stat().st_size, p.name))
  data = WAYS[way](path.read_bytes())
  path.unlink()
  if data is not None:
    path.write_bytes(data)


def end(whole, unbroken, args, folder, case):
  """What is wrong with the end of a command, "" for nothing.

  Args:
    whole: workdir of a finished run.
    unbroken: what `recorded` says of it after a step more.
    args: its config on the command line, and the function `recorded`.
    folder: where a copy of it is damaged.
    case: (pattern of a file, name of a way to damage it, command).
  """
  args, recorded = args
  pattern, way, command = case
  workdir = folder / "run"
  shutil.rmtree(workdir, ignore_errors=True)
  shutil.copytree(whole, workdir)
  damage(workdir, pattern, way)
  output = folder / "output"
  shutil.rmtree(output, ignore_errors=True)
  argv = {
    "train": [*args, f"--config.{LONGER[0]}", "--workdir", workdir],
    "report": ["--workdir", workdir],
    "evaluate": [*args, "--policy", workdir, "--workdir", output],
    "sample": [*args, "--policy", workdir],
    "export": ["--policy", workdir, "--output", output],
    "compare": [workdir, whole, "--output", output],
  }[command]
  out, err = io.StringIO(), io.StringIO()
  with (
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(sys, "stdin", io.StringIO("1+2=\n"))
    code = main.main([command, *map(str, argv)])
  said = out.getvalue() + err.getvalue()
  errors = [
    line
    for line in err.getvalue().splitlines()
    if line.startswith(f"progrpo {command}: ")
  ]
  if "Traceback" in said or code not in (0, 1, 2):
    return f"code {code}: {said}"
  if code:
    return (
      ""
      if len(errors) == 1 and len(errors[0]) > 40
      else (f"code {code} without one line: {said}")
    )
  # A comparison shows no rollouts of training, and so reads none.
  read = command == "report" or (
    command == "compare" and not pattern.startswith("rollouts")
  )
  if (
    read
    and way in ("zeros", "bit")
    and pattern.endswith(".jsonl")
    and pattern not in said
  ):
    return f"{pattern} is left out without a word: {said}"
  if command == "train":
    for name in ("rollouts", "evals"):  # samples to read, of one step each
      shutil.rmtree(workdir / name, ignore_errors=True)
    after = recorded(workdir)
    for name in ("metrics.jsonl", "eval.jsonl"):
      if after.get(name) != unbroken[name] and name not in said:
        return f"{name} is not that of the unbroken run: {said}"
    if after["params"] != unbroken["params"]:
      return "the weights are not those of the unbroken run"
  return ""
