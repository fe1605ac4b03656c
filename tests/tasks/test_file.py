import datetime
import decimal
import gzip
import json

import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import functions
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rollout import prompts
from progrpo_jax.tasks import base


def _write(path, lines):
  path.write_bytes(
    b"\n".join(
      x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines
    )
  )
  return str(path)


def _load(tmp_path, file, split="train", **options):
  if "reward_functions" not in options:
    options.setdefault("verifier", "mine:score")
  return base.load(
    "file",
    split,
    data_dir=str(tmp_path / "data"),
    seed=0,
    file=file if isinstance(file, list) else str(file),
    **options,
  )


@pytest.fixture
def good(tmp_path):
  lines = [
    {"prompt": f"what is {i} + 1?", "answer": i + 1, "topic": "sum"}
    for i in range(40)
  ]
  return _write(tmp_path / "good.jsonl", lines)


def test_rows(tmp_path, good):
  row = _load(tmp_path, good)[0]
  assert row.task == "file" and row.prompt.startswith("what is")
  assert isinstance(row.reference, int)
  assert base.item(row, "x").function == "mine:score" and row.meta == {}
  row = _load(tmp_path, good, reward_functions="m:f")[0]
  assert row.reference == row.meta["columns"]["answer"]
  assert row.meta["columns"]["topic"] == "sum"
  assert row.meta["functions"] == ["m:f"]
  assert json.loads(json.dumps(row.meta)) == row.meta


def test_rows_know_their_line(tmp_path, good):
  rows = _load(tmp_path, good)
  assert {r.place for r in rows} == {
    f"good.jsonl, line {r.reference}" for r in rows
  }


def test_several_files(tmp_path, good):
  """A list, and patterns; each row knows its own file and line."""
  rows = open(good, "rb").read().split(b"\n")
  (tmp_path / "a").mkdir()
  (tmp_path / "b").mkdir()
  first = _write(tmp_path / "a" / "part-0.jsonl", rows[:10])
  _write(tmp_path / "a" / "part-1.jsonl", rows[10:15])
  _write(tmp_path / "a" / ".part-9.jsonl", [b"of another program"])
  other = _write(tmp_path / "b" / "part-0.jsonl", rows[15:])
  whole = {(r.prompt, r.reference) for r in _load(tmp_path, good)}
  held = _load(tmp_path, good, "validation")
  for named in (
    [f"{tmp_path}/a/part-?.jsonl", other],
    [f"{tmp_path}/[ab]/part-*.jsonl"],
    f"{tmp_path}/*/part-[0-9].jsonl",
  ):
    found = _load(tmp_path, named)
    assert {(r.prompt, r.reference) for r in found} == whole
    again = _load(tmp_path, named, "validation")
    assert [r.prompt for r in again] == [r.prompt for r in held]
    places = {r.place for r in found}
    assert {p.partition(",")[0] for p in places} == {
      "a/part-0.jsonl",
      "a/part-1.jsonl",
      "b/part-0.jsonl",
    }
  assert max(r.reference for r in found if r.place.startswith("b/")) == 40
  both = _load(tmp_path, first, "validation", validation_file=[first, other])
  assert len(both) == 35

  # The rows of every file are part of what a resumed run compares.
  def digest():
    spec = dict(
      name="file", options=dict(file=[first, other], verifier="mine:score")
    )
    source = prompts.PromptSource([spec], "train", 0, str(tmp_path / "data"))
    return source.state(0)["source"]

  before = digest()
  assert digest() == before
  _write(tmp_path / "b" / "part-0.jsonl", [*rows[15:], rows[15]])
  assert digest() != before


def test_several_files_that_cannot_be_read(tmp_path, good):
  with pytest.raises(InputError, match=r"none-\*.jsonl: no file matches"):
    _load(tmp_path, f"{tmp_path}/none-*.jsonl")
  with pytest.raises(InputError, match="option file names no file"):
    _load(tmp_path, [])
  with pytest.raises(InputError, match="good.jsonl more than once"):
    _load(tmp_path, [good, f"{tmp_path}/g*.jsonl"])
  bad = _write(tmp_path / "bad.jsonl", [{"prompt": "a"}, b"{"])
  with pytest.raises(InputError, match="bad.jsonl: 2 of 2 rows are bad"):
    _load(tmp_path, [good, bad])
  # A file that is called like a pattern.
  odd = _write(tmp_path / "a[1].jsonl", open(good, "rb").read().split(b"\n"))
  assert len(_load(tmp_path, odd)) == 36


def test_demonstrations_are_kept_from_the_verifier(tmp_path):
  shown = {"prompt": "a", "answer": 1, "demonstrations": ["b", "c"]}
  file = _write(tmp_path / "shown.jsonl", [shown])
  row = _load(tmp_path, file, validation_file=file, reward_functions=["m:f"])[0]
  assert row.demonstrations == ("b", "c")
  assert row.meta["columns"] == {"answer": 1}


def test_split_by_hash_depends_on_the_text_alone(tmp_path, good):
  train = [r.prompt for r in _load(tmp_path, good)]
  held = [r.prompt for r in _load(tmp_path, good, "validation")]
  assert len(held) == 4 and len(train) == 36 and not set(train) & set(held)
  lines = open(good, "rb").read().split(b"\n")[::-1]
  mirrored = _write(tmp_path / "mirrored.jsonl", lines * 2)
  again = [r.prompt for r in _load(tmp_path, mirrored, "validation")]
  assert sorted(again) == sorted(held * 2)


def test_validation_file(tmp_path, good):
  other = _write(
    tmp_path / "other.jsonl", [{"prompt": "another", "answer": "1"}]
  )
  rows = _load(tmp_path, good, "validation", validation_file=other)
  assert [r.prompt for r in rows] == ["another"]
  assert len(_load(tmp_path, good, validation_file=other)) == 40


@pytest.mark.parametrize(
  "line, reason",
  [
    (b"{", "not JSON"),
    (b'{"prompt": NaN, "answer": 1}', "NaN"),
    (b"\xff\xfe", "not UTF-8"),
    (b"[" * 100_000, "not JSON"),
    (["a"], "a list, not an object"),
    ({"answer": 1}, "no prompt"),
    ({"prompt": None}, "no prompt"),
    ({"prompt": 3}, "prompt is an int"),
    ({"prompt": "  "}, "prompt is empty"),
    ({"prompt": "a"}, "no answer"),
    ({"messages": []}, "does not end with a message of the user"),
    ({"prompt": "a", "answer": ""}, "no answer"),
    ({"prompt": "a", "answer": "b", "completions": 1}, "'completions'"),
    ({"prompt": "a", "answer": 1, "demonstrations": "b"}, "a list of texts"),
    ({"prompt": "a", "answer": 1, "demonstrations": [2]}, "a list of texts"),
  ],
)
def test_bad_rows_are_named(tmp_path, line, reason):
  rows = [{"prompt": f"p{i}", "answer": "1"} for i in range(9)]
  file = _write(tmp_path / "some.jsonl", [rows[0], b"", line, *rows[1:]])
  with pytest.raises(InputError) as caught:
    _load(tmp_path, file)
  said = str(caught.value)
  assert file in said and "line 3" in said and reason in said
  aside = tmp_path / "data" / "some.jsonl.rejected.jsonl"
  assert str(aside) in said
  record = json.loads(aside.read_text())
  assert record["line"] == 3 and reason in record["reason"]
  kept = _load(tmp_path, file, max_bad_share=0.1)
  assert len(kept) == 8


def test_rows_that_are_bad_in_one_way_are_named_together(tmp_path):
  rows = [{"question": f"q{i}"} for i in range(5)] + [b"{"]
  file = _write(tmp_path / "asked.jsonl", rows)
  with pytest.raises(InputError) as caught:
    _load(tmp_path, file)
  said = str(caught.value)
  assert "6 of 6 rows are bad (lines 1, 2, 3 and 2 more: no prompt" in said
  assert "; line 6: not JSON" in said and said.count("no prompt") == 1


def test_the_column_of_the_answer_must_be_there(tmp_path):
  rows = [{"prompt": f"p{i}", "truth": "1"} for i in range(4)]
  file = _write(tmp_path / "sums.jsonl", rows)
  options = dict(validation_file=file, reward_functions=["m:f"], verifier=None)
  with pytest.raises(InputError, match="no column 'trth', .*prompt: truth"):
    _load(tmp_path, file, answer="trth", **options)
  assert _load(tmp_path, file, answer="truth", **options)[0].reference == "1"
  # Functions need no answer, and this is the name by default.
  assert len(_load(tmp_path, file, **options)) == 4


def test_bad_files(tmp_path, good):
  with pytest.raises(InputError, match="cannot read .*none.jsonl.*No such"):
    _load(tmp_path, str(tmp_path / "none.jsonl"))
  with pytest.raises(InputError, match="openai/gsm8k'.*; the task 'gsm8k' has"):
    _load(tmp_path, "openai/gsm8k")
  rows = [{"prompt": "1+1=", "answer": "2"}]
  for given in (rows, iter(rows)):
    with pytest.raises(
      InputError, match=r"text or a list.*frame.to_json\(path"
    ):
      base.load("file", "train", data_dir=str(tmp_path), seed=0, file=given)
  empty = _write(tmp_path / "empty.jsonl", [b"", b"  "])
  with pytest.raises(InputError, match="empty.jsonl holds no rows"):
    _load(tmp_path, empty)
  with pytest.raises(InputError, match="needs the option 'file'"):
    base.load("file", "train", data_dir=str(tmp_path), seed=0)
  with pytest.raises(InputError, match="reward_functions or a verif"):
    base.load("file", "train", data_dir=str(tmp_path), seed=0, file=str(good))
  with pytest.raises(InputError, match="validation_share"):
    _load(tmp_path, good, validation_share=1.5)
  twice = tmp_path / "twice.csv"
  twice.write_text("prompt,answer,answer\na,1,2\n")
  with pytest.raises(InputError, match="2 columns are called 'answer'"):
    _load(tmp_path, twice)
  one = _write(tmp_path / "one.jsonl", [{"prompt": "a", "answer": "1"}])
  with pytest.raises(InputError, match="no rows are left"):
    _load(tmp_path, one)


def test_reward_functions_need_no_answer(tmp_path):
  file = _write(
    tmp_path / "f.jsonl", [{"prompt": f"p{i}", "k": i} for i in range(9)]
  )
  rows = _load(
    tmp_path,
    file,
    reward_functions=["m:f", "m:g"],
    reward_weights=[1, 2],
    correct_by="g",
    correct_threshold=0.5,
  )
  assert rows[0].meta["functions"] == ["m:f", "m:g"]
  assert rows[0].meta["correct_by"] == "m:g"
  assert rows[0].meta["correct_threshold"] == 0.5
  assert base.item(rows[0], "x").function == functions.VERIFIER
  with pytest.raises(InputError, match="no answer for the verifier"):
    _load(tmp_path, file, reward_functions=["m:f"], verifier="m:g")
  with pytest.raises(InputError, match="1 reward weights for 2"):
    _load(tmp_path, file, reward_functions=["m:f", "m:g"], reward_weights=[1])
  with pytest.raises(InputError, match="correct_by which of them decides"):
    _load(tmp_path, file, reward_functions=["m:f", "m:g"])
  with pytest.raises(InputError, match="correct_by='h' is none"):
    _load(tmp_path, file, reward_functions=["m:f", "m:g"], correct_by="h")
  with pytest.raises(InputError, match="finite number"):
    _load(
      tmp_path, file, reward_functions=["m:f"], correct_threshold=float("nan")
    )
  assert (
    _load(tmp_path, file, reward_functions=["m:f"])[0].meta["correct_by"]
    == "m:f"
  )


ROWS = [{"prompt": f"was ist {i} + ä?", "answer": str(i)} for i in range(20)]
FUNCTION = {"reward_functions": ["m:f"]}


def _prompts(rows):
  return sorted(row.prompt for row in rows)


def _everything(tmp_path, file, **options):
  return _load(tmp_path, file, validation_file=str(file), **options)


@pytest.mark.parametrize(
  "name",
  ["a.jsonl", "a.json", "lines.json", "a.csv", "a.parquet", "a.jsonl.gz"],
)
def test_every_format_gives_the_same_rows(tmp_path, name):
  table = pa.Table.from_pylist(ROWS)
  path = tmp_path / name
  lines = "\n".join(json.dumps(row) for row in ROWS)
  if name.endswith(".parquet"):
    parquet.write_table(table, path)
  elif name.endswith(".csv"):
    arrow_csv.write_csv(table, path)
  elif name.endswith(".gz"):
    path.write_bytes(gzip.compress(lines.encode()))
  else:
    path.write_text(json.dumps(ROWS) if name == "a.json" else lines)
  rows = _everything(tmp_path, path)
  assert _prompts(rows) == sorted(row["prompt"] for row in ROWS)
  assert [row.reference for row in rows] == [row["answer"] for row in ROWS]


def _save(folder, rows):
  """Writes a folder as datasets.save_to_disk does, in two files."""
  folder.mkdir(parents=True)
  names = []
  for number, part in enumerate((rows[:5], rows[5:])):
    names.append(f"data-0000{number}-of-00002.arrow")
    table = pa.Table.from_pylist(part)
    with pa.OSFile(str(folder / names[-1]), "wb") as file:
      with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
  state = {"_data_files": [{"filename": name} for name in names]}
  (folder / "state.json").write_text(json.dumps(state))
  (folder / "dataset_info.json").write_text("{}")


def test_a_folder_that_datasets_saved(tmp_path):
  _save(tmp_path / "one", ROWS)
  assert len(_everything(tmp_path, tmp_path / "one")) == 20
  assert len(_load(tmp_path, tmp_path / "one")) == 18  # 2 are held out
  _save(tmp_path / "two" / "train", ROWS[:12])
  _save(tmp_path / "two" / "test", ROWS[12:])
  (tmp_path / "two" / "dataset_dict.json").write_text(
    '{"splits": ["train", "test"]}'
  )
  assert len(_load(tmp_path, tmp_path / "two")) == 12
  assert len(_load(tmp_path, tmp_path / "two", "validation")) == 8
  with pytest.raises(InputError, match="datasets.save_to_disk"):
    _load(tmp_path, tmp_path)
  with pytest.raises(InputError, match="one has none: give the option valid"):
    _load(tmp_path, [str(tmp_path / name) for name in ("two", "one")])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_byte_order_mark_and_windows_line_ends(tmp_path, name):
  path = tmp_path / name
  if name == "a.csv":
    text = "prompt,answer\r\n" + "".join(
      f"{row['prompt']},{row['answer']}\r\n" for row in ROWS
    )
  elif name == "a.json":
    text = json.dumps(ROWS, indent=1, ensure_ascii=False)
  else:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
  text = text.replace("\r\n", "\n").replace("\n", "\r\n")
  path.write_bytes(text.encode("utf-8-sig"))
  rows = _everything(tmp_path, path)
  assert _prompts(rows) == sorted(row["prompt"] for row in ROWS)
  assert rows[0].reference == "0"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_latin_1_is_refused_by_line_and_read_if_it_is_named(tmp_path, name):
  path = tmp_path / name
  if name == "a.csv":
    text = "prompt,answer\nein,1\nzwei ä,2\n"
  else:
    rows = [{"prompt": "ein", "answer": 1}, {"prompt": "zwei ä", "answer": 2}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines)
    if name == "a.json":
      text = "[" + ",\n".join(lines) + "]"
  path.write_bytes(text.encode("latin-1"))
  line = 3 if name == "a.csv" else 2
  with pytest.raises(
    InputError, match=f"line {line}: not UTF-8.*encoding='latin-1'"
  ):
    _everything(tmp_path, path)
  rows = _everything(tmp_path, path, encoding="latin-1")
  assert [row.prompt for row in rows] == ["ein", "zwei ä"]
  with pytest.raises(InputError, match="unknown encoding"):
    _everything(tmp_path, path, encoding="latin-99")


CHAT = [
  {"role": "system", "content": "Answer briefly."},
  {"role": "user", "content": "1+1?"},
  {"role": "assistant", "content": "2"},
  {"role": "user", "content": "1+2?"},
]


def test_messages_are_a_prompt_with_its_context(tmp_path):
  file = _write(tmp_path / "a.jsonl", [{"prompt": CHAT, "answer": "3"}])
  (row,) = _everything(tmp_path, file, **FUNCTION)
  assert row.prompt == "1+2?" and list(row.context) == CHAT[:-1]
  meta = row.meta
  assert functions.asked(row.prompt, meta["context"], meta["is_chat"]) == CHAT
  # Arrow keeps a sequence of records as a record of lists.
  columns = {k: [m[k] for m in CHAT] for k in ("role", "content")}
  file = _write(tmp_path / "b.jsonl", [{"prompt": columns, "answer": "3"}])
  assert _everything(tmp_path, file)[0].context == row.context
  parts = [{"role": "user", "content": [{"type": "text", "text": "1+2?"}]}]
  file = _write(tmp_path / "c.jsonl", [{"prompt": parts, "answer": "3"}])
  assert _everything(tmp_path, file)[0].prompt == "1+2?"


@pytest.mark.parametrize(
  "messages, reason",
  [
    (CHAT[:3], "does not end with a message of the user"),
    ([], "does not end with a message of the user"),
    ([{"role": "tool", "content": "x"}], "no message with a role of system"),
    (["x"], r"prompt\[0\] is no message"),
    ([{"role": "user", "content": [{"type": "image"}]}], "has no text as its"),
  ],
)
def test_bad_messages_are_named(tmp_path, messages, reason):
  file = _write(tmp_path / "a.jsonl", [{"prompt": messages, "answer": "3"}])
  with pytest.raises(InputError, match=f"line 1: .*{reason}"):
    _load(tmp_path, file)


def test_columns_are_named_by_options(tmp_path):
  lines = [{"problem": "a", "solution": "b", "n": 1}]
  file = _write(tmp_path / "a.jsonl", lines)
  (row,) = _everything(
    tmp_path, file, prompt="problem", answer="solution", **FUNCTION
  )
  assert (row.prompt, row.reference) == ("a", "b")
  assert row.meta["columns"] == {"solution": "b", "n": 1}
  with pytest.raises(InputError, match="columns: problem, solution, n; the op"):
    _load(tmp_path, file)


def test_rows_of_verl(tmp_path):
  """Their prompts are messages, their answers ground truths."""
  table = pa.Table.from_pylist(
    [
      {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{i} + 1?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
        "extra_info": {"split": "train", "index": i},
      }
      for i in range(3)
    ]
  )
  parquet.write_table(table, tmp_path / "train.parquet")
  rows = _everything(tmp_path, tmp_path / "train.parquet", verifier="math")
  assert [row.reference for row in rows] == ["1", "2", "3"]
  assert rows[1].prompt == "1 + 1?" and rows[1].context == ()
  item = base.item(rows[1], r"\boxed{2}")
  assert item.function == "progrpo_jax.rewards.math:score"
  rows = _everything(tmp_path, tmp_path / "train.parquet", **FUNCTION)
  columns = rows[2].meta["columns"]
  assert columns["ground_truth"] == "3" and columns["extra_info"]["index"] == 2
  assert columns["data_source"] == "openai/gsm8k"


def test_the_answer_of_a_chat_is_told_to_nobody_who_judges(tmp_path):
  """It is a demonstration, as a completion beside a prompt is."""
  chat = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
  ]
  rows = [dict(messages=chat, truth="4"), dict(prompt="3?", completion="3")]
  file = _write(tmp_path / "chats.jsonl", rows)
  first, second = _load(
    tmp_path, file, validation_file=file, reward_functions="m:f"
  )
  assert first.demonstrations == ("4",) and second.demonstrations == ("3",)
  assert first.meta["columns"] == {"truth": "4"} and not first.reference
  assert second.meta["columns"] == {}


def test_rows_for_fine_tuning_are_demonstrations(tmp_path):
  shown = [*CHAT, {"role": "assistant", "content": "3"}]
  lines = [
    {"messages": shown},
    {"prompt": "a", "completion": "b"},
    {"prompt": CHAT, "completion": [{"role": "assistant", "content": "3"}]},
  ]
  file = _write(tmp_path / "a.jsonl", lines)
  rows = _everything(tmp_path, file, verifier=None)
  assert [row.demonstrations for row in rows] == [("3",), ("b",), ("3",)]
  assert rows[0].context == rows[2].context == tuple(CHAT[:-1])
  assert rows[0].prompt == "1+2?"


def test_values_of_tables_become_plain(tmp_path):
  row = {
    "prompt": "a",
    "answer": decimal.Decimal("1.50"),
    "day": datetime.date(2026, 1, 2),
    "none": float("nan"),
  }
  parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
  (row,) = _everything(tmp_path, tmp_path / "a.parquet", **FUNCTION)
  assert row.meta["columns"] == {
    "answer": "1.50",
    "day": "2026-01-02",
    "none": None,
  }
  picture = pa.Table.from_pylist([{"prompt": "a", "image": b"\x89PNG"}])
  parquet.write_table(picture, tmp_path / "b.parquet")
  with pytest.raises(InputError, match="row 1: column 'image' holds bytes"):
    _everything(tmp_path, tmp_path / "b.parquet", **FUNCTION)


FOLLOW = {
  "instruction_id_list": ["change_case:english_lowercase"],
  "kwargs": [{}],
}


@pytest.mark.parametrize(
  "verifier, row, right, wrong",
  [
    ("math", {"answer": "1/2"}, r"\boxed{0.5}", r"\boxed{2}"),
    (
      "choice",
      {"answer": "B", "options": ["Rome", "Oslo"]},
      r"\boxed{Oslo}",
      r"\boxed{A}",
    ),
    ("instruction", FOLLOW, "all is small", "NOT SMALL"),
    ("instruction", {"answer": json.dumps(FOLLOW)}, "all is small", "LOUD"),
    (
      "reasoning_gym",
      {"answer": "7", "metadata": {"source_dataset": "chain_sum"}},
      "<answer>7</answer>",
      "<answer>8</answer>",
    ),
  ],
)
def test_verifiers_by_name(tmp_path, verifier, row, right, wrong):
  file = _write(tmp_path / "a.jsonl", [{"prompt": "p", **row}])
  (loaded,) = _everything(tmp_path, file, verifier=verifier)
  with pools.Pool(workers=1) as pool:
    scores = pool.score([base.item(loaded, text) for text in (right, wrong)])
  assert [s.correct for s in scores] == [True, False]


def test_tests_of_programs_are_read_in_published_formats(tmp_path):
  tests = {"inputs": ["1\n"], "outputs": ["2\n"]}
  row = {"prompt": "p", "reward_model": {"ground_truth": json.dumps(tests)}}
  row |= {"allow_unsafe": True, "time_limit_s": 100, "partial": False}
  file = _write(tmp_path / "a.jsonl", [row])
  (loaded,) = _everything(tmp_path, file, verifier="code")
  item = base.item(loaded, "x")
  assert item.function == "progrpo_jax.rewards.code:score"
  assert item.reference == [{"input": "1\n", "output": "2\n"}]
  assert item.meta == {"partial": False}  # no file says how safe is enough
  calls = {"fn_name": "f", "inputs": [[1]], "outputs": [2]}
  file = _write(tmp_path / "b.jsonl", [{"prompt": "p", "answer": calls}])
  (loaded,) = _everything(tmp_path, file, verifier="code")
  assert loaded.meta == {"entry_point": "f"}


def test_a_verifier_beside_functions_decides(tmp_path):
  file = _write(tmp_path / "a.jsonl", ROWS)
  row = _load(
    tmp_path,
    file,
    verifier="math",
    reward_functions="m:f",
    reward_weights=(1.0, 0.1),
  )[0]
  assert row.meta["functions"] == ["math", "m:f"]
  assert row.meta["correct_by"] == "math"
  assert base.item(row, "x").function == functions.VERIFIER


def test_names_that_are_none(tmp_path, good):
  with pytest.raises(InputError, match="no verifier 'maths'; did you mean 'ma"):
    _load(tmp_path, good, verifier="maths")
  with pytest.raises(InputError, match="'jsonl': it is called 'file' now"):
    base.load("jsonl", "train", data_dir=str(tmp_path), seed=0, file=good)


@pytest.mark.parametrize(
  "option",
  [{"correct_by": "f"}, {"correct_threshold": 0.5}, {"reward_weights": [1]}],
)
def test_options_of_functions_are_refused_beside_a_verifier(
  tmp_path, good, option
):
  with pytest.raises(InputError, match="are for reward_functions"):
    _load(tmp_path, good, **option)


@pytest.mark.parametrize(
  ("verifier", "row", "reason"),
  [
    ("math", {"answer": ["1"]}, "the reference is a list, not a number"),
    ("math", {"answer": True}, "the reference is a bool, not a number"),
    ("math", {"answer": "1/0"}, "the reference '1/0' has no value"),
    ("math", {"answer": 1, "tolerance": 5}, "tolerance must lie in"),
    ("math", {"answer": 1, "tolerance": "a bit"}, "not supported between"),
    ("math", {"answer": 1, "forms": "boxd"}, "no form of an answer 'boxd'"),
    (
      "choice",
      {"answer": "Z", "options": ["x", "y"]},
      "the reference 'Z' is none of the options A, B",
    ),
    (
      "choice",
      {"answer": 1, "options": '["x", "y"]'},
      "the reference '1' is none of the options A, B",
    ),
    ("sentence", {"answer": "moon"}, "argument: 'length'"),
  ],
)
def test_rows_that_a_verifier_cannot_use_are_bad(
  tmp_path, verifier, row, reason
):
  right = {"prompt": "p", "answer": "A" if verifier == "choice" else "1"}
  lines = [right] if verifier != "sentence" else []
  file = _write(tmp_path / "rows.jsonl", [{"prompt": "q", **row}, *lines])
  with pytest.raises(InputError, match=f"line 1: .*{reason}"):
    _load(tmp_path, file, verifier=verifier)


def test_options_in_a_csv_file_are_numbers_and_lists(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text(
    "prompt,answer,options,tolerance\n"
    'p,y,"[""x"", ""y""]",\n'
    'q,A,"{""A"": ""x"", ""B"": ""y""}",0.1\n'
    "r,2.5,,0.1\n"
  )
  rows = _everything(tmp_path, path, verifier="choice")
  found = {row.prompt: row.meta for row in rows}
  assert found["p"] == {"options": ["x", "y"]}
  assert found["q"] == {"options": {"A": "x", "B": "y"}, "tolerance": 0.1}
  assert found["r"] == {"tolerance": 0.1}
  answers = (r"\boxed{B}", r"\boxed{A}", r"\boxed{2.6}")
  with pools.Pool(workers=1) as pool:
    scores = pool.score(
      [base.item(row, text) for row, text in zip(rows, answers, strict=True)]
    )
  assert all(score.correct for score in scores)


@pytest.mark.parametrize(
  ("options", "reason"),
  [
    ({"nope": 1}, r"no option 'nope' \(known: evaluated, forms, tolerance"),
    ({"tolerence": 0.1}, "did you mean 'tolerance'"),
    ({"tolerance": 5}, "tolerance must lie in"),
  ],
)
def test_options_that_a_verifier_does_not_have(tmp_path, good, options, reason):
  with pytest.raises(InputError, match=reason):
    _load(tmp_path, good, verifier="math", verifier_options=options)


def test_verifier_options_need_a_verifier(tmp_path, good):
  with pytest.raises(InputError, match="verifier_options needs a verifier"):
    _load(
      tmp_path, good, reward_functions="m:f", verifier_options={"forms": "tag"}
    )


def test_prompts_that_differ_in_blanks_stay_on_one_side(tmp_path):
  lines = [
    {"prompt": text, "answer": i}
    for i in range(50)
    for text in (f"what is {i} + 1?", f" what  is {i} + 1?\n")
  ]
  file = _write(tmp_path / "a.jsonl", lines)
  train, held = (
    {
      " ".join(row.prompt.split())
      for row in _load(tmp_path, file, split, verifier="math")
    }
    for split in ("train", "validation")
  )
  assert (len(train), len(held)) == (45, 5) and not train & held
