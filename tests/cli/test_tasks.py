import json

import pyarrow as pa
from pyarrow import parquet
import pytest

from progrpo_jax import errors, main
from progrpo_jax.cli import tasks
from progrpo_jax.rewards import sandbox
from progrpo_jax.tasks import base

SMALL = ["--option", "num_train=30", "--option", "num_validation=5"]


def test_list_names_every_task(capsys):
  assert tasks.run(["list"]) == 0
  said = capsys.readouterr().out
  assert "countdown" in said and "file" in said


def test_list_names_tasks_of_one_missing_package_together(capsys, monkeypatch):
  resolve = base.resolve

  def without_sets(name):
    if name in ("aime24", "gsm8k"):
      raise errors.InputError("no sets: pip install 'x[tfds]'")
    return resolve(name)

  monkeypatch.setattr(base, "resolve", without_sets)
  assert tasks.run(["list"]) == 0
  said = capsys.readouterr().out
  assert "aime24, gsm8k: no sets: pip install 'x[tfds]'" in said
  assert said.count("gsm8k ") == 0 and said.count("tfds") == 1


@pytest.mark.parametrize("template", ["full", "compact"])
def test_show_prints_rewards(template, tmp_path, capsys):
  command = ["show", "countdown", "--n", "2", "--data_dir", str(tmp_path)]
  assert tasks.run([*command, "--template", template, *SMALL]) == 0
  said = capsys.readouterr().out
  assert said.count("right") == said.count("wrong") == 2
  assert said.count("True") == 2 and said.count("False") == 4


def test_show_leaves_tex_as_it_is(tmp_path, capsys):
  question = r"Find \[\sum_k k\] of [1, 2], and \\[2pt] no [bold]more."
  (tmp_path / "test.jsonl").write_text(
    json.dumps({"problem": question, "answer": r"\left[3\right]"}) + "\n"
  )
  command = [
    "show",
    "math500",
    "--data_dir",
    str(tmp_path / "data"),
    "--option",
    f"manual_dir={tmp_path}",
  ]
  assert tasks.run(command) == 0
  said = capsys.readouterr().out
  assert question in said.replace("\n", " ")
  assert r"\boxed{\left[3\right]}" in said


def test_build_prints_sizes(tmp_path, capsys):
  command = ["build", "chain_sum", "--data_dir", str(tmp_path)]
  assert tasks.run([*command, *SMALL]) == 0
  said = capsys.readouterr().out
  assert "train: 30 rows" in said and "validation: 5 rows" in said


@pytest.mark.parametrize(
  "arguments, said",
  [
    (["show", "countdwn"], "did you mean 'countdown'"),
    (["build", "countdown", "--option", "x"], "KEY=VALUE"),
    (["build", "countdown", "--option", "max_number=3"], "'max_numbers'"),
  ],
)
def test_bad_input_is_exit_code_2(arguments, said, tmp_path, capsys):
  assert main.main(["tasks", *arguments, "--data_dir", str(tmp_path)]) == 2
  assert said in capsys.readouterr().err


IFEVAL = [
  {
    "key": i,
    "prompt": f"Poem {i}.",
    "instruction_id_list": [
      "punctuation:no_comma",
      "length_constraints:number_words",
    ],
    "kwargs": [{}, {"relation": "at least", "num_words": 8}],
  }
  for i in range(2)
]
SETS = {
  "math500": (
    "test.jsonl",
    [{"problem": f"{i} + 1?", "answer": str(i + 1)} for i in (1, 2)],
  ),
  "gpqa": (
    "gpqa_diamond.csv",
    [
      {
        "Question": f"Which {i}?",
        "Correct Answer": f"this {i}",
        "Incorrect Answer 1": "a",
        "Incorrect Answer 2": "b",
        "Incorrect Answer 3": "c",
      }
      for i in range(2)
    ],
  ),
  "ifeval": ("ifeval_input_data.jsonl", IFEVAL),
  "livecodebench": (
    "test.jsonl",
    [
      {
        "question_content": f"Echo {i}.",
        "starter_code": "",
        "contest_date": "2024-09-01",
        "metadata": "{}",
        "public_test_cases": json.dumps(
          [{"input": f"{i}\n", "output": f"{i}\n", "testtype": "stdin"}]
        ),
        "private_test_cases": "[]",
      }
      for i in (3, 4)
    ],
  ),
  "humaneval_plus": (
    "tests.parquet",
    [
      {
        "prompt": f"def f{i}(x):\n",
        "canonical_solution": "  return x\n",
        "entry_point": f"f{i}",
        "task_id": str(i),
        "test": "inputs = [[1], [2]]\nresults = [1, 2]\nassertion(1, 1, 0)\n",
      }
      for i in range(2)
    ],
  ),
}


def write(path, rows):
  if path.suffix == ".csv":
    lines = [",".join(rows[0])] + [",".join(r.values()) for r in rows]
    path.write_text("\n".join(lines) + "\n")
  elif path.suffix == ".parquet":
    parquet.write_table(pa.Table.from_pylist(rows), path)
  else:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", SETS)
def test_every_kind_of_set_shows_right_wrong_and_malformed(
  name, tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv("COLUMNS", "100")
  if name in ("livecodebench", "humaneval_plus") and (not sandbox.best().grade):
    pytest.skip(f"no isolation here: {sandbox.best().reason}")
  file, rows = SETS[name]
  (tmp_path / name).mkdir()
  write(tmp_path / name / file, rows)
  extra = {"livecodebench": ["release=1"], "humaneval_plus": [f"file={file}"]}
  options = [f"manual_dir={tmp_path}", *extra.get(name, ())]
  command = ["show", name, "--n", "2", "--data_dir", str(tmp_path / "data")]
  assert (
    tasks.run([*command, *(w for o in options for w in ("--option", o))]) == 0
  )
  shown = [
    [cell.strip() for cell in line.split("│")[1:-1]]
    for line in capsys.readouterr().out.splitlines()
    if line.startswith("│")
  ]
  found = {
    kind: [row[2:] for row in shown if row[0] == kind]
    for kind in ("right", "wrong", "malformed")
  }
  assert found["right"] == [["1", "True", "ok"]] * 2
  assert len(found["wrong"]) == len(found["malformed"]) == 2
  for row in found["wrong"] + found["malformed"]:
    assert float(row[0]) < 1 and row[1] == "False"
  if name != "ifeval":  # there, any text is an answer
    assert [row[2] for row in found["malformed"]] == ["no_answer"] * 2
    assert [row[2] for row in found["wrong"]] == ["ok"] * 2


def test_a_right_answer_that_nobody_knows_is_said_to_be_unknown(
  tmp_path, capsys
):
  path = tmp_path / "ifeval_input_data.jsonl"
  write(
    path,
    [
      IFEVAL[0]
      | {
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "kn"}],
      }
    ],
  )
  assert (
    tasks.run(
      [
        "show",
        "ifeval",
        "--option",
        f"manual_dir={tmp_path}",
        "--data_dir",
        str(tmp_path / "data"),
      ]
    )
    == 0
  )
  assert "(none is known)" in capsys.readouterr().out
