"""One step of training at a real size: what it takes, and what was said.

  python real_size.py SIZE FOLDER

Run by `test_real_sizes.py` in a process of its own, whose memory is measured
stage by stage. Prints one line of JSON.
"""

import ctypes
import json
import pathlib
import sys
import zlib

import jax
import numpy as np

from progrpo_jax import loop
from progrpo_jax.devices import sharding
from progrpo_jax.plan import memory
from progrpo_jax.settings import defaults

_STATUS = pathlib.Path("/proc/self/status")


def config(size, folder):
  """A step of a few tokens: weights are nearly all that there is."""
  c = defaults.get_config()
  c.model.init_from = str(folder / "base")
  c.model.remat = "layer"
  c.data.dir = str(folder / "data")
  c.data.tasks = {
    "sums": {
      "weight": 1.0,
      "module": "file",
      "options": {
        "file": str(folder / "sums.jsonl"),
        "verifier": f"{folder / 'verifier.py'}:score",
      },
    }
  }
  c.data.max_prompt_length = 16
  c.sampling.max_new_tokens = 8
  c.sampling.chunk = 4
  c.rewards.workers = 1
  c.algo.num_generations = 2
  c.algo.entropy_coef = 0.01
  c.train.total_steps = 1
  c.train.prompts_per_step = 2
  c.optim.learning_rate = 1e-3
  c.checkpoint.background = False
  c.log.tensorboard = False
  if size == "1.5B":
    c.model.dtype = "bfloat16"
    c.model.lora.rank = 16
    c.algo.beta = 0.01
  return c


class Meter:
  """Peaks of the resident memory, stage by stage; a view of the run."""

  def __init__(self):
    self.stage, self.peaks = "load", {}
    self.start = _status("VmRSS")
    self._reset()

  def phase(self, name):
    """Ends a stage and begins another."""
    self.peaks[self.stage] = max(
      self.peaks.get(self.stage, 0), _status("VmHWM") - self.start
    )
    self.stage = name
    self._reset()

  def step(self, step, metrics):
    """Nothing but that the update is over."""
    self.phase("end")

  def eval(self, step, metrics):
    """Nothing is evaluated."""

  def message(self, text):
    """Nothing is said."""

  def _reset(self):
    # What the allocator keeps of what was given back is nobody's need.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _status(name):
  """Bytes that the kernel says."""
  (line,) = (
    x for x in _STATUS.read_text().splitlines() if x.startswith(f"{name}:")
  )
  return 1024 * int(line.split()[1])


def sums(tree):
  """A checksum of each array; on a CPU nothing is copied."""
  return {
    jax.tree_util.keystr(path): zlib.crc32(np.asarray(x).view(np.uint8))
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def main(size, folder):
  """Trains, measures, prints."""
  folder = pathlib.Path(folder)
  c = config(size, folder)
  mesh = sharding.make_mesh()
  model = memory.model_of(c)
  said = memory.estimate(c, model, mesh, "cpu")
  meter, found = Meter(), {"trained": [], "frozen": []}
  save, begin = loop.save, loop.begin

  def begun(setup, *args):
    found["setup"] = setup
    return begin(setup, *args)

  def watched(stages, checkpointer, state, progress):
    meter.phase("save")
    save(stages, checkpointer, state, progress)
    meter.phase("other")
    found["trained"].append(sums(state.params))
    found["frozen"].append(sums(found["setup"].frozen))

  loop.save, loop.begin = watched, begun
  assert loop.train(c, folder / "run", meter) == loop.DONE
  meter.phase("end")
  del found["setup"]
  changed = {
    name: [k for k in before if before[k] != after[k]]
    for name, (before, after) in found.items()
  }
  print(
    json.dumps(
      dict(
        size=size,
        start=meter.start,
        peaks=meter.peaks,
        said=said,
        changed=changed,
        arrays={k: len(v[0]) for k, v in found.items()},
      )
    )
  )


if __name__ == "__main__":
  main(*sys.argv[1:])
