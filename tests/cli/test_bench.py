"""`make bench` measures every stage; what it measures is not asserted here."""

import json

import pytest

from progrpo_jax import errors
from progrpo_jax.cli import bench

SMALLEST = [
  "--prompts",
  "2",
  "--samples",
  "2",
  "--new_tokens",
  "4",
  "--steps",
  "1",
]
STAGES = {"sample", "verify", "score", "advantage", "update"}


def test_all_figures_are_there(tmp_path, capsys):
  path = tmp_path / "figures.json"
  assert bench.run([*SMALLEST, "--json", str(path)]) == 0
  figures = json.loads(path.read_text())
  assert set(figures["seconds"]) == STAGES
  assert all(seconds > 0 for seconds in figures["seconds"].values())
  assert figures["step"] == pytest.approx(sum(figures["seconds"].values()))
  assert figures["tokens"] == 2 * 2 * 4
  shown = capsys.readouterr().out
  assert all(stage in shown for stage in STAGES)


def test_decoding_is_measured_by_length(capsys):
  assert bench.run([*SMALLEST, "--decode", "--decode_lengths", "2", "4"]) == 0
  assert "up to     4 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("prompts", [1, 3, 6])
def test_any_number_of_prompts_can_be_cut_into_micro_batches(prompts):
  assert bench.run(["--prompts", str(prompts), *SMALLEST[2:]]) == 0


@pytest.mark.parametrize(
  "argument", ["--prompts=0", "--samples=1", "--new_tokens=-1", "--steps=0"]
)
def test_sizes_that_cannot_be_are_refused(argument):
  with pytest.raises(errors.InputError, match="must be at least [12]"):
    bench.run([argument])
