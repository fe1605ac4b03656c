"""Run by `test_hosts.py` in two processes: what is wrong on the second alone.

Arguments: a folder for both, a policy, a run, and the arguments of a config.
Where one process waited for the other in a computation of both, neither would
come to its end.
"""

import functools
import itertools
import json
import os
import pathlib
import shutil
import sys
from unittest import mock

import pytest

from progrpo_jax import errors, loop
from progrpo_jax.build import stages
from progrpo_jax.cli import arguments
from progrpo_jax.devices import hosts
from progrpo_jax.models import hf_read
from progrpo_jax.settings import isolation
from progrpo_jax.storage import shared

hosts.connect(heartbeat_s=20)
me = hosts.index()
folder, base, run, *argv = sys.argv[1:]
# One config names another place on each.
home = pathlib.Path(folder) / f"home{me}"
os.environ["HOME"] = str(home)
view = mock.Mock()
numbers = itertools.count()


def fails(name, *said, kind=errors.InputError, tasks=None):
  """Asserts that a run from ~/name fails on both, in these words."""
  place = f"--config.model.init_from=~/{name}"
  c, _ = arguments.parse(arguments.parser("train", ""), [*argv, place])
  if tasks:
    c.data.tasks = tasks
  with pytest.raises(kind) as caught:
    loop.train(c, pathlib.Path(folder) / f"never{next(numbers)}", view)
  for words in said:
    assert words in str(caught.value), caught.value
  print(f"{name}: {caught.value}", flush=True)


def copied(name, source=base):
  """A copy for this process; whether it is to be spoilt."""
  shutil.copytree(source, home / name)
  return home / name, me == 1


def on_second(error):
  """What raises on the second process, in place of a function."""
  return mock.Mock(side_effect=error)


# From host 1 comes what it says itself, and the first one names it.
host = "" if me else "host 1: "

if me == 0:
  copied("absent")
fails("absent", host, "no such directory")

place, spoilt = copied("cut")
if spoilt:
  weights = place / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:-64])
fails("cut", host, "model.safetensors")

place, spoilt = copied("mute")
if spoilt:
  for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
    (place / name).unlink(missing_ok=True)
fails("mute", host, "no tokenizer")

place, spoilt = copied("other")
if spoilt:
  described = json.loads((place / "config.json").read_text())
  described["rms_norm_eps"] = 0.5
  (place / "config.json").write_text(json.dumps(described))
fails("other", "differ in config (hosts 1)", kind=errors.RunError)

copied("policy")
patched = [
  (isolation, "check", errors.InputError("no jail"), errors.InputError),
  (hf_read, "read_parts", OSError("no jail"), (OSError, errors.RunError)),
  (stages, "make_stages", errors.InputError("no jail"), errors.InputError),
]
for module, name, error, kind in patched:
  with mock.patch.object(
    module, name, on_second(error) if me else getattr(module, name)
  ):
    fails("policy", host, "no jail", kind=kind)

place, spoilt = copied("run", run)
if spoilt:
  shutil.rmtree(place / "checkpoints/1")
fails("run", host, "checkpoints/1")

place, spoilt = copied("gone", run)
if spoilt:
  shutil.rmtree(place / "model")
fails("gone", host, "neither an HF directory")
# As many problems as on the other, of other answers or of other lengths.
sums = [(a, b) for a in range(1, 4) for b in range(1, 4)]
for name, more, added in (("answers", "", me), ("prompts", "+0" * me, 0)):
  (home / f"{name}.jsonl").write_text(
    "".join(
      json.dumps(dict(prompt=f"{a}+{b}{more}=", answer=a + b + added)) + "\n"
      for a, b in sums
    )
  )
  options = dict(file=f"~/{name}.jsonl", verifier="math")
  fails(
    "policy",
    "sampling: the hosts differ in prompts (hosts 1)",
    kind=errors.RunError,
    tasks={"sums": dict(module="file", options=options)},
  )
# A directory of one name on each machine, which is another one on each.
c, _ = arguments.parse(
  arguments.parser("train", ""), [*argv, "--config.model.init_from=~/policy"]
)
with mock.patch.object(
  shared, "check", functools.partial(shared.check, wait_s=0.5)
):
  with pytest.raises(errors.InputError, match="not seen by host 1"):
    loop.train(c, home / "own", view)
print(f"failed as {me}")
