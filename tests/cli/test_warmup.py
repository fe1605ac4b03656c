import re

from progrpo_jax import main


def test_writes_a_policy_and_says_where(small, tmp_path, capfd):
  output = tmp_path / "base"
  argv = [
    "warmup",
    *small.args("model.init_from=", "warmup.steps=10"),
    "--output",
    str(output),
  ]
  assert main.main(argv) == 0
  assert f"base policy: {output}" in capfd.readouterr().out
  assert {p.name for p in output.iterdir()} == {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.model",
  }


def test_base_that_is_not_there_yet(small, tmp_path, capfd):
  """The advice is not the command that was typed, but one that works."""
  place = str(tmp_path / "base")
  argv = ["warmup", *small.args(f"model.init_from={place}", "warmup.steps=1")]
  assert main.main([*argv, "--output", place]) == 2
  advice = re.search("`progrpo (.*)`", capfd.readouterr().err)[1].split()
  assert advice[:3] == ["warmup", "--config", "FILE"]
  added = [a for a in advice if a.startswith("--config.")]
  assert main.main([*argv, *added, "--output", place]) == 0


def test_limit_that_no_demonstration_keeps(small, tmp_path, capfd):
  argv = [
    "warmup",
    *small.args("sampling.max_new_tokens=1"),
    "--output",
    str(tmp_path / "base"),
  ]
  assert main.main(argv) == 2
  err = capfd.readouterr().err
  assert "progrpo warmup: every one of " in err
  assert "sampling.max_new_tokens 1" in err
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("years of work")
  argv = [
    "warmup",
    *small.args("warmup.steps=1"),
    "--output",
    str(tmp_path / "mine"),
  ]
  assert main.main(argv) == 2
  assert "is not a model directory" in capfd.readouterr().err
  assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
