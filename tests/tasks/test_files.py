import gzip

from etils import epath
from hypothesis import given
from hypothesis import strategies as st
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.tasks.sets import files

ROWS = [{"a": "one", "b": "1"}, {"a": 'two\nlines, "quoted"', "b": "é"}]
NAMES = ("x.parquet", "x.jsonl", "x.json", "x.csv")
ZIPPED = ("x.jsonl.gz", "x.json.gz", "x.csv.gz")


@pytest.mark.parametrize("name", NAMES + ZIPPED)
def test_every_format_gives_the_same_rows(tmp_path, write, name):
  path = write(tmp_path / name, ROWS)
  read = list(files.read(str(path)))
  assert [number for number, _, _ in read] == [1, 2]
  assert [record for _, record, _ in read] == ROWS
  assert {reason for _, _, reason in read} == {""}


def test_the_name_says_the_format_where_the_path_does_not(tmp_path, write):
  path = write(tmp_path / "x.json", ROWS).rename(tmp_path / "downloaded")
  assert len(list(files.read(str(path), "data/x.json"))) == 2


def test_parquet_keeps_lists_and_records(tmp_path, write):
  rows = [{"a": [{"b": ["c", "d"], "e": 1}], "f": None, "g": 2.5, "h": True}]
  path = write(tmp_path / "x.parquet", rows * 700)
  read = [record for _, record, _ in files.read(str(path))]
  assert read == rows * 700


def test_lines_are_counted_with_the_empty_ones(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_bytes(b'{"a": 1}\r\n\n  \n{"a": \n["b"]\n\xff\n{"a": 2}')
  read = list(files.read(str(path)))
  assert [(n, record) for n, record, reason in read if not reason] == [
    (1, {"a": 1}),
    (7, {"a": 2}),
  ]
  bad = {n: reason for n, _, reason in read if reason}
  assert set(bad) == {4, 5, 6}
  assert "not JSON" in bad[4] and "a list" in bad[5] and "UTF-8" in bad[6]


@pytest.mark.parametrize(
  "content, hint",
  [
    (b'[{"a": 1}, {"a": 2}]', "name it .json"),
    (b'[\n {"a": 1}\n]', "name it .json"),
    (b"prompt,answer\n1+1,2", "name the file .csv"),
    (b'{"a": 1, "b"', ""),
    (b'{"a": 1}\n1,2', ""),
    ('{"a": 1, "b": 2}'.encode("utf-16"), "save the file as UTF-8"),
  ],
)
def test_another_format_under_this_name_is_told(tmp_path, content, hint):
  path = tmp_path / "x.jsonl"
  path.write_bytes(content)
  reasons = [reason for _, _, reason in files.read(str(path)) if reason]
  assert reasons[0].endswith(hint)
  assert "name" not in "".join(reasons[1:] if hint else reasons)


@pytest.mark.parametrize(
  "name, content, words",
  [
    ("x.json", b"[{]", "x.json: not JSON (.* at line 1 column 3)"),
    ("x.json", b'{"a": 1}', "x.json: a dict, not a list of objects"),
    ("x.json", b" ", "x.json holds no rows"),
    ("x.json", b"[" * 100_000, "x.json: not JSON"),
    ("x.json", b"\xff", "x.json: line 1: not UTF-8"),
    ("x.json", b'[{"a": %s}]' % (b"1" * 5000), "x.json: not JSON"),
    ("x.parquet", b"PAR1 but no", "x.parquet: not a parquet file"),
    ("x.parquet", b"", "x.parquet: not a parquet file"),
    ("x.csv", b"a,b\n\xff,2", "x.csv: not CSV"),
    ("x.csv", b'a,b\n"1"x,2', "x.csv: not CSV"),
    ("x.jsonl.gz", b"not gzip", "cannot read .*x.jsonl.gz: Not a gzip"),
    ("noext", b"", "noext: no reader for a file whose name has no ending .kn"),
    ("noext.gz", b"", "noext.gz: no reader for a file whose name has no end"),
    ("x.txt", b"", "x.txt: no reader for .txt .known: .arrow"),
  ],
)
def test_bad_files_are_named(tmp_path, name, content, words):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(InputError, match=words):
    list(files.read(str(tmp_path / name)))


def test_a_file_cut_short_is_named(tmp_path, write):
  path = write(tmp_path / "x.jsonl.gz", ROWS * 99)
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(InputError, match="cannot read .*x.jsonl.gz"):
    list(files.read(str(path)))
  with pytest.raises(InputError, match="cannot read .*none.csv: No such"):
    list(files.read(str(tmp_path / "none.csv")))


def test_bad_rows_have_a_number_and_a_reason(tmp_path):
  (tmp_path / "x.json").write_text('[{"a": 1}, 2]')
  assert list(files.read(str(tmp_path / "x.json")))[1] == (
    2,
    {},
    "an int, not an object",
  )
  (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n4,5,6\n")
  read = list(files.read(str(tmp_path / "x.csv")))
  assert [bool(reason) for _, _, reason in read] == [False, True, True]
  assert read[1][2] == "not 2 columns"


def test_sha256_of_known_content(tmp_path):
  (tmp_path / "x").write_bytes(b"abc")
  assert files.sha256(epath.Path(tmp_path / "x")) == (
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  )


@given(content=st.binary(max_size=300), name=st.sampled_from(NAMES + ZIPPED))
def test_any_bytes_give_rows_reasons_or_an_input_error(
  tmp_path_factory, content, name
):
  path = tmp_path_factory.mktemp("any") / name
  path.write_bytes(gzip.compress(content) if name in ZIPPED else content)
  try:
    for number, record, reason in files.read(str(path)):
      assert number > 0 and isinstance(record, dict)
      assert isinstance(reason, str)
  except InputError as error:
    assert str(path) in str(error)
