"""A cell of a notebook that is interrupted, and run again."""

import pathlib
import queue
import time

from jupyter_client import manager
import pytest

SMALL = pathlib.Path(__file__).with_name("small.py")
SETUP = """
import json, pathlib, signal
import progrpo_jax
rows = [{{"prompt": f"{{i}}+{{j}}=", "answer": i + j}}
        for i in range(1, 6) for j in range(1, 5)]
pathlib.Path("rows.json").write_text(json.dumps(rows))
config = progrpo_jax.config({small!r}, method="grpo", keys={{
  "model.init_from": {base!r}, "train.total_steps": 40, "eval.every": 0,
  "log.rollouts_every": 0,
  "data.tasks": {{"sums": {{
    "module": "file", "options": {{"file": "rows.json"}}}}}}}})
def right(completions, answer, trainer_state, **columns):
  if trainer_state.global_step >= 2:
    pathlib.Path("begun").touch()
  return [float(c == str(a)) for c, a in zip(completions, answer)]
before = signal.getsignal(signal.SIGINT)
"""
TRAIN = 'run = progrpo_jax.train(config, "run", rewards=[right])'
STATE = """
print(signal.getsignal(signal.SIGINT) is before,
      progrpo_jax.load_run("run").checkpoints()[-1])
"""


@pytest.fixture
def kernel(tmp_path):
  """A kernel of this Python whose working directory is empty."""
  made = manager.KernelManager(kernel_name="python3")
  made.start_kernel(cwd=str(tmp_path))
  client = made.client()
  client.start_channels()
  client.wait_for_ready(timeout=120)
  yield made, client
  client.stop_channels()
  made.shutdown_kernel(now=True)


def finish(client, cell, timeout=280):
  """(error's name or "", what was shown) of a cell that runs."""
  error, shown, end = "", [], time.monotonic() + timeout
  while time.monotonic() < end:
    try:
      message = client.get_iopub_msg(timeout=5)
    except queue.Empty:
      continue
    if message["parent_header"].get("msg_id") != cell:
      continue
    kind, content = message["msg_type"], message["content"]
    if kind == "error":
      error = content["ename"]
    elif kind == "stream":
      shown.append(content["text"])
    elif kind in ("display_data", "update_display_data"):
      shown.append(content["data"].get("text/plain", "picture"))
    elif kind == "status" and content["execution_state"] == "idle":
      return error, shown
  raise AssertionError(f"the cell did not end: {shown[-3:]}")


def test_a_cell_that_is_interrupted_saves_and_goes_on(kernel, small, tmp_path):
  made, client = kernel
  setup = SETUP.format(small=str(SMALL), base=str(small.base))
  assert finish(client, client.execute(setup)) == ("", [])
  cell = client.execute(TRAIN)
  after = client.execute("print('the next cell')", stop_on_error=True)
  end = time.monotonic() + 240
  while not (tmp_path / "begun").exists():
    assert time.monotonic() < end
    time.sleep(0.02)
  made.interrupt_kernel()
  error, shown = finish(client, cell)
  assert error == "Interrupted"
  assert any("SIGINT: saving, then stopping" in text for text in shown)
  # A view of figures, not one of lines.
  assert any(text.startswith("step 1/40") for text in shown)
  # "Run all" ends here.
  assert finish(client, after) == ("", [])
  error, shown = finish(client, client.execute(STATE))
  assert not error
  restored, step = "".join(shown).split()
  assert restored == "True" and 1 <= int(step) < 40
  again = TRAIN.replace("(config", "(dict_of(config)")
  client.execute(
    "def dict_of(c):\n  c = c.copy_and_resolve_references()\n"
    f"  c.train.total_steps = {int(step) + 2}\n  return c"
  )
  error, shown = finish(client, client.execute(again))
  assert not error, shown
  assert any(f"resuming from step {step}" in text for text in shown)
  assert any(text.startswith(f"step {int(step) + 2}/") for text in shown)
