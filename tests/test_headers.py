"""Figures in the first texts of configs are what the doctor prints."""

import json
import pathlib
import re
import runpy

import pytest

from progrpo_jax import main
from progrpo_jax.settings import files

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = runpy.run_path(str(ROOT / "tools" / "make_memory.py"))["_SHAPES"]
# Checkpoints of the shape of another, but with an output head of their own.
OF_SHAPE = {
  "DeepSeek-R1-Distill-Qwen-1.5B": "Qwen2.5-1.5B",
  "Nemotron-Research-Reasoning-Qwen-1.5B": "Qwen2.5-1.5B",
}
SAID = re.compile(
  r"`progrpo doctor --chip H100 --devices (\d+)` estimates (\d+) GiB on each"
  r" device(?: for `paper`, and with `--devices (\d+)` (\d+) GiB for `host`)?"
)


def said():
  """(file, argument, devices, GiB) of each figure in a config's first text."""
  for path in sorted((ROOT / "configs").glob("*.py")):
    for a, paper, b, host in SAID.findall(
      " ".join(path.read_text(encoding="utf-8").split())
    ):
      yield path.name, "paper" if host else "", a, int(paper)
      if host:
        yield path.name, "host", b, int(host)


def test_commands_can_be_copied_from_the_files():
  """One backslash at the end of a line, as a shell reads it."""
  for path in (ROOT / "configs").glob("*.py"):
    text = path.read_text(encoding="utf-8")
    assert 2 * "\\" + "\n" not in text, path


def test_every_figure_of_a_config_is_read():
  texts = [p.read_text("utf-8") for p in (ROOT / "configs").glob("*.py")]
  text = " ".join(" ".join(texts).split())
  assert len(SAID.findall(text)) == text.count("doctor --chip H100") > 0


@pytest.mark.parametrize(("name", "argument", "devices", "gib"), list(said()))
def test_the_memory_that_a_config_says_is_what_the_doctor_counts(
  name, argument, devices, gib, tmp_path, monkeypatch, capfd
):
  spec = f"configs/{name}" + f":{argument}" * bool(argument)
  model = pathlib.Path(files.load(spec).model.init_from).name
  shape = SHAPES[OF_SHAPE.get(model, model)]
  keys = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
  )
  place = tmp_path / "models" / model
  place.mkdir(parents=True)
  fields = dict(zip(keys, shape), model_type="qwen2")
  if model in OF_SHAPE:
    fields["tie_word_embeddings"] = False
  (place / "config.json").write_text(json.dumps(fields))
  monkeypatch.chdir(tmp_path)
  assert (
    main.main(
      ["doctor", "--config", spec, "--chip", "H100", "--devices", devices]
    )
    == 0
  )
  shown = capfd.readouterr().out
  sums = re.search(r"│ sum .*", shown)[0]
  assert round(max(map(float, re.findall(r"[\d.]+", sums)))) == gib, shown
