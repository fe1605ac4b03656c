import pytest

from progrpo_jax.cli import tasks

SMALL = ["--option", "num_train=30", "--option", "num_validation=5"]


def test_list_names_every_task(capsys):
  assert tasks.run(["list"]) == 0
  said = capsys.readouterr().out
  assert "countdown" in said and "jsonl" in said


@pytest.mark.parametrize("template", ["full", "compact"])
def test_show_prints_rewards(template, tmp_path, capsys):
  command = ["show", "countdown", "--n", "2", "--data_dir", str(tmp_path)]
  assert tasks.run([*command, "--template", template, *SMALL]) == 0
  said = capsys.readouterr().out
  assert said.count("right") == said.count("wrong") == 2
  assert said.count("True") == 2 and said.count("False") == 4


def test_build_prints_sizes(tmp_path, capsys):
  command = ["build", "chain_sum", "--data_dir", str(tmp_path)]
  assert tasks.run([*command, *SMALL]) == 0
  said = capsys.readouterr().out
  assert "train: 30 rows" in said and "validation: 5 rows" in said


@pytest.mark.parametrize("arguments, said", [
    (["show", "countdwn"], "did you mean 'countdown'"),
    (["build", "countdown", "--option", "x"], "KEY=VALUE"),
    (["build", "countdown", "--option", "max_number=3"], "'max_numbers'"),
])
def test_bad_input_is_exit_code_2(arguments, said, tmp_path, capsys):
  assert tasks.run([*arguments, "--data_dir", str(tmp_path)]) == 2
  assert said in capsys.readouterr().err
