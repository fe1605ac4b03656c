"""How published sets are read, checked, compared and built, on made-up ones."""

import concurrent.futures
import dataclasses
import errno
import fcntl
import hashlib
import http.server
import json
import pathlib
import subprocess
import sys
import threading
import types

import pytest

from progrpo_jax.cli import tasks as cli
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import math as math_verifier
from progrpo_jax.tasks import base, gsm8k
from progrpo_jax.tasks.sets import builder, published, reader, schema

WORDS = ("red", "green", "blue", "black", "white", "brown", "grey", "pink")


def question(i):
  """Of more words than an n-gram, and nothing like that of another i."""
  digest = hashlib.sha256(str(i).encode()).digest()
  return (
    f"Question {i}: "
    + " ".join(f"{WORDS[b % 8]}{b}" for b in digest[:20])
    + "?"
  )


def row(i):
  return {"question": question(i), "answer": f"It is <<6*7=42>>42.\n#### {i}"}


@pytest.fixture
def files(tmp_path, write):
  """A folder with GSM8K's files: 40 rows for train, 10 for validation."""
  folder = tmp_path / "files"
  write(
    folder / "main/train-00000-of-00001.parquet", [row(i) for i in range(40)]
  )
  write(
    folder / "main/test-00000-of-00001.parquet",
    [row(i) for i in range(100, 110)],
  )
  return folder


def load(files, split="train", name="gsm8k", **options):
  options.setdefault("manual_dir", str(files))
  source = base.load(
    name, split, data_dir=str(files.parent / "data"), seed=0, **options
  )
  return [source[i] for i in range(len(source))]


def report(files, name="gsm8k"):
  found = published.reports(base.resolve(name).SET, str(files.parent / "data"))
  return found[-1]


def test_rows(files):
  rows = load(files)
  assert len(rows) == 40 and len(load(files, "validation")) == 10
  assert rows[3].task == "gsm8k" and rows[3].reference == "3"
  assert rows[3].prompt.startswith(question(3) + "\n\n")
  assert rows[3].prompt.endswith("\\boxed{}.")
  assert rows[3].demonstrations == ("It is 42.\n\\boxed{3}",)
  for one in rows:
    text = one.demonstrations[0]
    assert math_verifier.score(text, one.reference, **one.meta).correct


def test_two_builds_are_equal(files, tmp_path):
  first = load(files) + load(files, "validation")
  source = [
    base.load(
      "gsm8k",
      split,
      data_dir=str(tmp_path / "other"),
      seed=1,
      manual_dir=str(files),
    )
    for split in base.SPLITS
  ]
  assert [
    one for part in source for one in (part[i] for i in range(len(part)))
  ] == first


def test_data_is_built_on_a_disk_without_locks(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

  monkeypatch.setattr(fcntl, "flock", flock)
  entered = []
  with builder.lock(str(tmp_path / "data"), "set"):
    entered.append((tmp_path / "data").is_dir())
  assert entered == [True]


def test_equal_files_are_built_once_and_changed_ones_anew(
  files, write, monkeypatch
):
  first = load(files)
  monkeypatch.setattr(reader, "Published", _NoBuild)
  assert load(files) == first
  monkeypatch.undo()
  write(files / "main/train-00000-of-00001.parquet", [row(7)])
  assert [one.reference for one in load(files)] == ["7"]


class _NoBuild:
  name = "published"

  def __init__(self, **_):
    raise AssertionError("built a second time")


def test_a_source_says_which_rows_of_its_files_are_no_problems(files, write):
  write(
    files / "main/test-00000-of-00001.parquet",
    [
      *(row(i) for i in range(100, 210)),
      row(100),
      {"question": "What?", "answer": "no number"},
    ],
  )
  held_out = base.load(
    "gsm8k",
    "validation",
    data_dir=str(files.parent / "data"),
    seed=0,
    manual_dir=str(files),
  )
  assert base.refused(held_out) == {"bad": 1, "repeated question": 1}
  assert base.refused(base.Chain([held_out, held_out])) == {
    "bad": 2,
    "repeated question": 2,
  }
  assert not base.refused([])


def test_a_published_test_is_told_from_a_share_of_train():
  assert base.has_published_test("gsm8k")
  assert base.has_published_test("math500")
  assert not base.has_published_test("dapo_math_17k")
  assert not base.has_published_test("countdown")


def test_templates(files):
  assert load(files, template="bare")[0].prompt == question(0)
  mine = load(files, template="Q: {question} A {x}:")[0].prompt
  assert mine == f"Q: {question(0)} A {{x}}:"
  with pytest.raises(InputError, match="did you mean 'boxed'"):
    load(files, template="boxd")


def test_a_question_with_braces_stays_as_it_is(files, write):
  odd = {
    "question": "What is {question} or {how} or \\frac{1}{2}?",
    "answer": "#### 1",
  }
  write(files / "main/train-00000-of-00001.parquet", [odd])
  assert load(files, template="bare")[0].prompt == odd["question"]


def test_verifier_options_are_kept_in_meta(files):
  rows = load(files, verifier_options={"forms": ["boxed"]})
  assert rows[0].meta == {"forms": ["boxed"]}


@pytest.mark.parametrize(
  "options, words",
  [
    ({"templat": "bare"}, "no option 'templat'; did you mean 'template'"),
    ({"seed_": 1}, "no option 'seed_'"),
    (
      {"verifier_options": {"form": ["boxed"]}},
      "math:score has no option 'form'; did you mean 'forms'",
    ),
    ({"overlap_share": 0.0}, "overlap must lie above 0"),
    ({"against": ["countdown"]}, "countdown is not a published set"),
    ({"against": ["aime42"]}, "did you mean 'aime2"),
  ],
)
def test_options_are_checked(files, options, words):
  with pytest.raises(InputError, match=words):
    load(files, **options)


# ----- What is wrong with files and rows -----


def test_missing_files_are_named_with_the_way_to_get_them(files, tmp_path):
  with pytest.raises(InputError) as caught:
    load(tmp_path, manual_dir=str(tmp_path / "nowhere"))
  said = str(caught.value)
  assert "gsm8k: no file main/train-00000-of-00001.parquet" in said
  assert "hf download openai/gsm8k" in said and "manual_dir=DIR" in said
  with pytest.raises(InputError, match="taco cannot be downloaded"):
    load(tmp_path, name="taco", manual_dir=None, ngram=0)


def test_wrong_columns_are_named(files, write):
  write(files / "main/train-00000-of-00001.parquet", [{"query": "a"}] * 3)
  with pytest.raises(InputError) as caught:
    load(files)
  said = str(caught.value)
  assert "train-00000-of-00001.parquet, row 1" in said
  assert "no column 'question' (columns: query)" in said


def test_empty_and_broken_files_are_named(files, write):
  path = files / "main/test-00000-of-00001.parquet"
  write(path, [{"question": "", "answer": ""}][:0] or [])
  with pytest.raises(InputError, match="test-00000-of-00001.parquet holds no"):
    load(files)
  path.write_bytes(b"nothing of the kind")
  with pytest.raises(InputError, match="not a parquet file"):
    load(files)
  built = files.parent / "data" / "published"
  assert not [p for p in built.glob(f"*/{reader.VERSION}") if p.exists()]


BAD = [
  ({"question": None, "answer": "#### 1"}, "no question"),
  ({"question": "  ", "answer": "#### 1"}, "the question is empty"),
  ({"question": "a" * 30_000, "answer": "#### 1"}, "30000 characters"),
  ({"question": "a", "answer": None}, "no answer"),
  ({"question": "a", "answer": "no hashes"}, "'#### ' before"),
  ({"question": "a", "answer": "#### "}, "'#### ' before"),
]


@pytest.mark.parametrize("bad, reason", BAD)
def test_bad_rows_are_written_aside_with_number_and_reason(
  files, write, bad, reason
):
  rows = [row(0), bad, *(row(i) for i in range(1, 19))]
  write(files / "main/train-00000-of-00001.parquet", rows)
  with pytest.raises(InputError) as caught:
    load(files)
  said = str(caught.value)
  assert "1 of 20 rows are bad (row 2: " in said and reason in said
  aside = (
    files.parent
    / "data"
    / ("gsm8k.main_train-00000-of-00001.parquet.rejected.jsonl")
  )
  assert str(aside) in said and "max_bad_share is 0.01" in said
  noted = json.loads(aside.read_text())
  assert noted["row"] == 2 and reason in noted["reason"]
  kept = load(files, max_bad_share=0.05)
  assert [one.reference for one in kept] == [str(i) for i in range(19)]
  assert report(files)["splits"]["train"]["bad"] == 1


def test_limits_are_options(files):
  with pytest.raises(InputError, match="more than max_prompt_chars=10"):
    load(files, max_prompt_chars=10)
  with pytest.raises(InputError, match="more than max_reference_chars=5"):
    load(files, max_reference_chars=5)


def test_the_verifier_checks_the_reference(files, write):
  rows = [{"question": question(0), "answer": "#### nan"}]
  write(files / "main/train-00000-of-00001.parquet", rows)
  with pytest.raises(InputError, match="row 1: the reference"):
    load(files)


def test_bad_lines_of_jsonl_have_their_line(files, tmp_path):
  lines = [
    '{"problem": "What?", "answer": "1"}',
    "",
    "{",
    '{"problem": 2}',
    '{"problem": 3, "answer": "1"}',
  ]
  folder = tmp_path / "math500"
  folder.mkdir()
  (folder / "test.jsonl").write_text("\n".join(lines))
  with pytest.raises(InputError) as caught:
    load(folder, "validation", "math500")
  said = str(caught.value)
  assert "3 of 4 rows are bad" in said and "line 3: not JSON" in said
  assert "line 4: no column 'answer'" in said
  assert "line 5: problem is an int, not a string" in said
  assert len(load(folder, "validation", "math500", max_bad_share=0.8)) == 1


def test_a_lone_surrogate_is_a_bad_row(tmp_path):
  folder = tmp_path / "math500"
  folder.mkdir()
  (folder / "test.jsonl").write_text(
    '{"problem": "a \\ud800", "answer": "1"}\n'
  )
  with pytest.raises(InputError, match="line 1: it cannot be written"):
    load(folder, "validation", "math500")


# ----- What is left out -----


def test_repeated_questions_are_kept_once(files, write):
  write(
    files / "main/train-00000-of-00001.parquet", [row(i % 5) for i in range(20)]
  )
  assert len(load(files)) == 5
  left_out = report(files)["splits"]["train"]["left_out"]
  assert left_out == {"repeated question": 15}


def test_near_duplicates_of_validation_leave_train(files, write):
  """One word of twenty-two changed, and one text inside a longer one."""
  changed = question(103).replace("Question 103", "Problem 7")
  longer = f"Now then. {question(104)} " + question(50)
  rows = [
    row(0),
    {**row(1), "question": changed},
    {**row(2), "question": longer},
    row(3),
  ]
  write(files / "main/train-00000-of-00001.parquet", rows)
  assert [one.reference for one in load(files)] == ["0", "3"]
  account = report(files)["splits"]["train"]
  assert account["num_near_duplicates"] == 2 and account["rows"] == 2
  first, second = account["near_duplicates"]
  place = "main/train-00000-of-00001.parquet row "
  assert (first["row"], first["of"]) == (place + "2", "gsm8k:3")
  assert (second["row"], second["of"]) == (place + "3", "gsm8k:4")
  assert 0.5 <= first["share"] < 1 and second["share"] == 1
  assert first["question"] == changed[:80]
  assert len(load(files, ngram=0)) == 4
  assert len(load(files, "validation")) == 10


def test_near_duplicates_of_other_sets_leave_train(files, write):
  where = {"aime24": files, "math500": files / "math500"}
  write(
    where["aime24"] / "data/train-00000-of-00001.parquet",
    [{"problem": question(5), "answer": "5"}],
  )
  write(
    where["math500"] / "test.jsonl", [{"problem": question(6), "answer": "6"}]
  )
  kept = load(files, against=["aime24", "math500"])
  assert {"5", "6"} & {one.reference for one in kept} == set()
  assert len(kept) == 38
  found = report(files)["splits"]["train"]["near_duplicates"]
  assert [f["of"] for f in found] == ["aime24:0", "math500:0"]
  assert len(report(files)["near_duplicates"]["against"]) == 2
  # A change of what is left out is another build.
  assert len(load(files)) == 40
  with pytest.raises(InputError) as caught:
    load(files, against=["amc23"])
  said = str(caught.value)
  assert "amc23: no file" in said and "or against=[] to" in said


def test_a_set_leaves_out_its_domains_evaluation_by_itself(tmp_path, write):
  rows = [
    {"problem": question(i), "answer": str(i), "solution": ""}
    for i in range(400)
  ]
  write(tmp_path / "f/deepscaler.json", rows)
  with pytest.raises(InputError, match="problems of aime24 are to be kept"):
    load(tmp_path / "f", name="deepscaler")
  kept = load(tmp_path / "f", name="deepscaler", against=[])
  held = load(tmp_path / "f", "validation", "deepscaler", against=[])
  assert len(kept) + len(held) == 400 and 0 < len(held) < 20
  assert {r.prompt for r in kept} & {r.prompt for r in held} == set()


def test_held_out_depends_on_the_text_alone(tmp_path, write):
  rows = [{"problem": question(i), "answer": str(i)} for i in range(100)]
  options = dict(name="deepscaler", against=[], validation_share=0.2)
  write(tmp_path / "a/deepscaler.json", rows)
  write(tmp_path / "b/deepscaler.json", rows[::-1])
  one, other = (
    {r.reference for r in load(tmp_path / f, "validation", **options)}
    for f in "ab"
  )
  assert one == other and 10 < len(one) < 30
  with pytest.raises(InputError, match="no rows are left .* 'validation'"):
    load(tmp_path / "a", "validation", **{**options, "validation_share": 1e-9})
  with pytest.raises(InputError, match="validation_share must lie between"):
    load(tmp_path / "a", **{**options, "validation_share": 0.0})


def test_evaluation_sets_in_the_place_of_validation(files, write):
  write(
    files / "data/train-00000-of-00001.parquet",
    [{"problem": question(5), "answer": "5"}],
  )
  write(
    files / "math500/test.jsonl",
    [{"problem": question(i), "answer": "6"} for i in (6, 500)],
  )
  options = dict(validation=["aime24", "math500"])
  held = load(files, "validation", **options)
  assert [r.task for r in held] == ["aime24", "math500", "math500"]
  assert {"5", "6"} & {r.reference for r in load(files, **options)} == set()
  with pytest.raises(InputError, match="aime24 is for evaluation"):
    load(files, "train", "aime24")


# ----- Downloads, from this machine -----


@pytest.fixture
def server(files):
  """The address of a server of the files."""

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, **options):
      super().__init__(*args, directory=str(files), **options)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as serving:
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    thread.join()


def test_downloads_are_noted_and_a_changed_one_is_refused(
  files, write, server, monkeypatch, tmp_path
):
  at = {
    f.path: schema.File(f.split, f.path, f"{server}/{f.path}")
    for f in gsm8k.SET.files({})
  }
  mine = dataclasses.replace(gsm8k.SET, files=lambda _: tuple(at.values()))
  monkeypatch.setattr(gsm8k, "SET", mine)
  assert len(load(files, manual_dir=None)) == 40
  noted = json.loads((tmp_path / "data" / "checksums.json").read_text())
  path = files / "main/train-00000-of-00001.parquet"
  url = f"{server}/main/train-00000-of-00001.parquet"
  assert noted[url] == hashlib.sha256(path.read_bytes()).hexdigest()
  listed = {f["url"]: f["sha256"] for f in report(files)["files"]}
  assert listed == noted
  # Another build of it, for which the cache of downloads has been emptied.
  write(path, [row(0)])
  for cached in (tmp_path / "data" / "downloads").rglob("*.parquet*"):
    cached.unlink()
  with pytest.raises(InputError, match="has changed: its sha256 is"):
    load(files, manual_dir=None, max_prompt_chars=9_999)


def test_downloads_of_many_builds_at_a_time_are_all_noted(tmp_path):
  """Neither an entry is lost, nor is the file ever half written."""
  (tmp_path / "data").mkdir()
  (tmp_path / "file").write_text("the same for all")
  urls = [f"https://a.org/{number}" for number in range(32)]
  manager = types.SimpleNamespace(download=lambda url: tmp_path / "file")
  config = types.SimpleNamespace(data_dir=str(tmp_path / "data"))
  inputs = [reader.Input("train", "file", url=url) for url in urls]
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    found = list(
      threads.map(lambda file: reader._download(file, manager, config), inputs)
    )
  noted = json.loads((tmp_path / "data" / "checksums.json").read_text())
  assert noted == {file.url: file.sha256 for file in found}
  assert list(noted) == sorted(urls)


def test_a_damaged_record_of_downloads_is_named(tmp_path):
  (tmp_path / "checksums.json").write_text('{"https://a.org/1": "12')
  (tmp_path / "file").write_text("x")
  manager = types.SimpleNamespace(download=lambda url: tmp_path / "file")
  config = types.SimpleNamespace(data_dir=str(tmp_path))
  file = reader.Input("train", "file", url="https://a.org/1")
  with pytest.raises(InputError, match="checksums.json: not JSON"):
    reader._download(file, manager, config)


def test_a_failed_download_says_what_to_do(files, server, monkeypatch):
  mine = dataclasses.replace(
    gsm8k.SET,
    files=lambda _: (schema.File("train", "x.json", f"{server}/none.json"),),
  )
  monkeypatch.setattr(gsm8k, "SET", mine)
  with pytest.raises(InputError) as caught:
    load(files, manual_dir=None)
  said = str(caught.value)
  assert f"cannot download {server}/none.json" in said and "404" in said
  assert "hf download openai/gsm8k" in said


def test_an_address_that_does_not_answer_is_given_up_soon(
  files, monkeypatch, capfd
):
  tried = []

  class Down(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      tried.append(self.path)
      self.send_error(503)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Down) as serving:
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{serving.server_address[1]}/x.json"
    monkeypatch.setattr(
      gsm8k,
      "SET",
      dataclasses.replace(
        gsm8k.SET, files=lambda _: (schema.File("train", "x.json", url),)
      ),
    )
    try:
      with pytest.raises(InputError, match="hf download openai/gsm8k"):
        load(files, manual_dir=None)
    finally:
      serving.shutdown()
      thread.join()
  # Each one more would wait twice as long as the one before it.
  assert 1 < len(tried) <= 4
  assert "Retrying" not in capfd.readouterr().err


def test_without_a_network_the_address_is_named(files):
  with pytest.raises(InputError) as caught:
    load(files, manual_dir=None)
  assert (
    "cannot download https://huggingface.co/datasets/openai/gsm8k/resolve/"
    "main/main/t"
  ) in str(caught.value)


# ----- The command line -----


def test_the_command_line_builds_shows_and_lists(files, tmp_path, capsys):
  where = [
    "--data_dir",
    str(tmp_path / "data"),
    "--option",
    f"manual_dir={files}",
  ]
  assert cli.run(["build", "gsm8k", *where]) == 0
  said = capsys.readouterr().out
  assert "train: 40 rows" in said and "validation: 10 rows" in said
  assert cli.run(["show", "gsm8k", "--n", "1", *where]) == 0
  said = capsys.readouterr().out
  assert "right" in said and "True" in said and "malformed" in said
  assert cli.run(["list", *where[:2]]) == 0
  said = " ".join(capsys.readouterr().out.split())
  assert "mathematics" in said and "openai/gsm8k" not in said
  assert "HuggingFaceH4/" in said and "hf download" in said


def test_the_command_line_shows_a_set_without_train(tmp_path, write, capsys):
  write(tmp_path / "f/test.jsonl", [{"problem": "6 * 7?", "answer": "42"}])
  where = [
    "--data_dir",
    str(tmp_path / "data"),
    "--option",
    f"manual_dir={tmp_path / 'f'}",
  ]
  assert cli.run(["show", "math500", *where]) == 0
  said = capsys.readouterr().out
  assert "math500, validation" in said and "True" in said
  assert cli.run(["build", "math500", *where]) == 0
  assert capsys.readouterr().out.count("rows") == 1
  with pytest.raises(InputError, match="cannot download"):
    cli.run(["build", "math500", *where[:2]])


def test_tensorflow_stays_out(files, tmp_path):
  code = (
    "import sys; from progrpo_jax.tasks import base;"
    "s = base.load('gsm8k', 'train', data_dir=sys.argv[1], seed=0,"
    "manual_dir=sys.argv[2]); assert len(s) == 40; s[0];"
    "bad = {'tensorflow', 'jax'} & set(sys.modules); assert not bad, bad"
  )
  subprocess.run(
    [sys.executable, "-c", code, str(tmp_path / "d"), str(files)], check=True
  )
  made = list(
    pathlib.Path(tmp_path, "d", "published").glob(f"gsm8k-*/{reader.VERSION}")
  )
  assert len(made) == 1


def test_equal_answers_count_once(files):
  """The verifier's module says how an answer is written."""
  one = load(files)[0]
  half = [
    base.canonical(f"So \\boxed{{{text}}}.", one)
    for text in ("0.5", "\\frac{1}{2}", "1/2")
  ]
  assert len(set(half)) == 1
  assert base.canonical("\\boxed{2}", one) not in half
