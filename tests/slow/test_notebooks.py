"""Every notebook runs from top to bottom and shows what it is for."""

import base64
import io
import os
import pathlib
import re

import matplotlib.image
import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A copy without outputs, beside which the runs go."""
  made = tmp_path_factory.mktemp("copy") / "notebooks"
  made.mkdir()
  for path in FOLDER.glob("*.ipynb"):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
      if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, made / path.name)
  return made


@pytest.fixture(scope="module")
def executed(folder):
  """A function from a notebook's name to {cell id: outputs}; runs it once."""
  done = {}

  def execute(name):
    if name not in done:
      notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
      client = nbclient.NotebookClient(
        notebook,
        timeout=1500,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
      )
      client.execute(env=os.environ | {"JAX_PLATFORMS": "cpu"})
      done[name] = {
        cell.id: cell.outputs
        for cell in notebook.cells
        if cell.cell_type == "code"
      }
    return done[name]

  return execute


def text(outputs):
  return "".join(
    o.text if o.output_type == "stream" else o.data.get("text/plain", "") + "\n"
    for o in outputs
  )


def pages(outputs):
  return [
    o.data["text/html"]
    for o in outputs
    if o.output_type == "display_data" and "text/html" in o.data
  ]


def pictures(outputs):
  """Pixels of the pictures; a white one shows nothing."""
  found = [
    matplotlib.image.imread(io.BytesIO(base64.b64decode(o.data["image/png"])))
    for o in outputs
    if o.output_type == "display_data" and "image/png" in o.data
  ]
  assert all((p[..., :3].min(axis=-1) < 0.6).mean() > 0.002 for p in found)
  return found


@pytest.mark.timeout(1800)
def test_quickstart(executed, folder):
  cells = executed("quickstart")
  runs = folder / "runs" / "notebooks"
  for method in ("grpo", "progrpo"):
    lines = (runs / method / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 60
  assert (runs / "base" / "model.safetensors").exists()
  for prompt, answers in re.findall(
    r"^([\d ]+)=\d+: +(.+)$", text(cells["task"]), re.MULTILINE
  ):
    for answer in answers.split():
      used = sorted(re.findall(r"\d+", answer))
      assert used == sorted(prompt.split())
  assert "step 60/60" in text(cells["train"])
  assert len(pictures(cells["train"])) == 1  # redrawn, not repeated
  assert len(pictures(cells["curves"])) == 1
  grpo, progrpo = pages(cells["evals"])
  assert grpo.count("<tr>") == progrpo.count("<tr>") == 6  # steps 0, 15, ...
  assert "grpo alpha 0.0" in text(cells["evals"])
  assert "progrpo alpha 1.0" in text(cells["evals"])
  found = re.findall(
    r"^(\w+) +(\d+) right: (.+)$", text(cells["sample"]), re.MULTILINE
  )
  assert [name for name, *_ in found] == ["base", "grpo", "progrpo"]
  for _, count, answers in found:
    times = re.findall(r"(\d+) x (\S+)", answers)
    assert sum(int(n) for n, _ in times) == int(count) > 0
    assert all(
      sorted(re.findall(r"\d", a)) == ["2", "3", "4"] for _, a in times
    )
  assert text(cells["rollouts"]).count("advantage") == 8


@pytest.mark.timeout(1800)
def test_analysis(executed):
  executed("quickstart")  # whose runs it reads
  cells = executed("analysis")
  assert text(cells["make"]).count("resuming from step 60") == 2
  for cell in ("passk", "bound", "histogram", "distinct"):
    assert len(pictures(cells[cell])) == 1, cell
  assert len(pages(cells["summary"])) == 2
  (regimes,) = pages(cells["regimes"])
  assert len(re.findall("Diminish|Plateau|Sustained", regimes)) == 2
  for cell in ("distinct", "creativity"):
    found = re.findall(
      r"^(\w+) +([\d.]+) .*\[([\d.]+), ([\d.]+)\]",
      text(cells[cell]),
      re.MULTILINE,
    )
    assert [name for name, *_ in found] == ["base", "grpo", "progrpo"]
    for _, mean, low, high in found:
      assert 0 < float(low) <= float(mean) <= float(high)


@pytest.mark.timeout(600)
def test_arm(executed):
  cells = executed("arm")
  for cell in ("confidence", "advantage", "alpha", "centre", "groups"):
    assert len(pictures(cells[cell])) == 1, cell
  # Of ten tokens the two least probable: sqrt(0.90 * 0.95) is 0.925.
  assert re.search(r"\[0\.925", text(cells["confidence"]))
  metrics = dict(
    re.findall(r"^(arm/\w+) +(\S+)$", text(cells["advantage"]), re.MULTILINE)
  )
  assert float(metrics["arm/active_groups"]) == 1.0
  assert float(metrics["arm/c_prompt_mean"]) == 0.6
  assert "0.000 centred" in text(cells["centre"])
  assert "GRPO 0.000, with ARM 0.120" in text(cells["groups"])
