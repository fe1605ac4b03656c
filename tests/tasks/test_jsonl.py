import json

import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import functions
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
    "jsonl",
    split,
    data_dir=str(tmp_path / "data"),
    seed=0,
    file=file,
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
  assert row.task == "jsonl" and row.prompt.startswith("what is")
  assert row.reference == row.meta["columns"]["answer"]
  assert row.meta["verifier"] == "mine:score"
  assert row.meta["columns"]["topic"] == "sum"
  assert json.loads(json.dumps(row.meta)) == row.meta


def test_demonstrations_are_kept_from_the_verifier(tmp_path):
  shown = {"prompt": "a", "answer": 1, "demonstrations": ["b", "c"]}
  file = _write(tmp_path / "shown.jsonl", [shown])
  row = _load(tmp_path, file, validation_file=file)[0]
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
    ({"prompt": 3}, "prompt is a int"),
    ({"prompt": "  "}, "prompt is empty"),
    ({"prompt": "a"}, "no answer"),
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


def test_bad_files(tmp_path, good):
  with pytest.raises(InputError, match="cannot read .*none.jsonl.*No such"):
    _load(tmp_path, str(tmp_path / "none.jsonl"))
  empty = _write(tmp_path / "empty.jsonl", [b"", b"  "])
  with pytest.raises(InputError, match="empty.jsonl holds no rows"):
    _load(tmp_path, empty)
  with pytest.raises(InputError, match="needs the option 'file'"):
    base.load("jsonl", "train", data_dir=str(tmp_path), seed=0)
  with pytest.raises(InputError, match="reward_functions or a verif"):
    base.load("jsonl", "train", data_dir=str(tmp_path), seed=0, file=str(good))
  with pytest.raises(InputError, match="validation_share"):
    _load(tmp_path, good, validation_share=1.5)
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
  with pytest.raises(InputError, match="give either"):
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


@pytest.mark.parametrize(
  "option",
  [{"correct_by": "f"}, {"correct_threshold": 0.5}, {"reward_weights": [1]}],
)
def test_options_of_functions_are_refused_beside_a_verifier(
  tmp_path, good, option
):
  with pytest.raises(InputError, match="are for reward_functions"):
    _load(tmp_path, good, **option)
