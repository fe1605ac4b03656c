import json
import os
import pathlib
import subprocess
import sys
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import (
  answers,
  evaluation,
  expressions,
  math,
  serving,
  symbolic,
)
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards.score import Score
from progrpo_jax.tasks import base

HERE = pathlib.Path(__file__).parent
VERIFIER = "progrpo_jax.rewards.math:score"
RIGHT = Score(1.0, True, "ok")
WRONG = Score(0.0, False, "ok")

# Kinds whose comparison does not depend on which side is the reference.
SYMMETRIC = {
  "fraction",
  "mixed number",
  "power",
  "factorial",
  "radical",
  "pi",
  "constant",
  "logarithm",
  "trigonometry",
  "complex",
  "polynomial",
  "rational function",
  "symbols",
  "absolute value",
  "matrix",
}


def rows(name):
  lines = (HERE / name).read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]


PAIRS = rows("math_pairs.jsonl")


# Ways to write an answer, each with near misses and a reason.
WAYS = rows("math_forms.jsonl")


@pytest.fixture(scope="module")
def pool():
  with pools.Pool(workers=1, deadline_s=30.0) as made:
    yield made


def judge(pool, pairs, **meta):
  """Scores of (completion, reference) pairs, by the pool as in a run."""
  items = [pools.Item(VERIFIER, c, r, meta) for c, r in pairs]
  return pool.score(items)


def boxed(text):
  return rf"\boxed{{{text}}}"


@pytest.mark.parametrize(
  ("completion", "reference", "score"),
  [
    (r"So \boxed{42}.", "42", RIGHT),
    (r"So \boxed{41}.", "42", WRONG),
    (r"\boxed{\frac{3}{6}}", "0.5", RIGHT),
    (r"\boxed{0.333}", r"\frac{1}{3}", WRONG),
    (r"\boxed{1,234}", 1234, RIGHT),
    (r"\boxed{(1,234)}", "1234", WRONG),
    ("48 / 2 = 24\n#### 24", "24", RIGHT),
    ("It may well be 24", "24", Score(0.0, False, "no_answer")),
    (r"\boxed{1} \boxed{2}", "1", Score(0.0, False, "several_answers")),
    (r"\boxed{1}", "", Score(0.0, False, "refused")),
    (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", RIGHT),
  ],
)
def test_golden(completion, reference, score):
  assert math.score(completion, reference) == score


def test_pairs(pool):
  assert len(PAIRS) >= 300
  scores = judge(pool, [(r["completion"], r["reference"]) for r in PAIRS])
  wrong = [
    (row, score)
    for row, score in zip(PAIRS, scores)
    if (score.correct, score.status)
    != (row["correct"], row.get("status", "ok"))
  ]
  assert wrong == []
  assert all(s.reward == float(s.correct) for s in scores)


def test_ways_to_write_an_answer(pool):
  scores = judge(pool, [(w["completion"], w["reference"]) for w in WAYS])
  assert [w for w, s in zip(WAYS, scores) if s.correct != w["expected"]] == []
  kinds = {w["kind"] for w in WAYS}
  for kind in kinds:
    verdicts = {w["expected"] for w in WAYS if w["kind"] == kind}
    assert verdicts == {True, False}, f"{kind} has no near miss"


def test_pairs_hold_with_the_sides_exchanged(pool):
  pairs = [
    (row, answers.find(row["completion"])[0])
    for row in PAIRS
    if row["kind"] in SYMMETRIC and row["correct"]
  ]
  assert len(pairs) >= 90
  scores = judge(
    pool, [(boxed(row["reference"]), other) for row, other in pairs]
  )
  assert [p for p, s in zip(pairs, scores) if s != RIGHT] == []


def test_cases_that_math_verify_publishes(pool):
  cases = rows("math_verify_cases.jsonl")
  assert len(cases) >= 150
  scores = judge(
    pool, [(c["answer"], c["gold"]) for c in cases], forms=list(answers.FORMS)
  )
  for case, score in zip(cases, scores):
    differs = score.correct != case["equal"]
    assert differs == ("differs" in case), (case, score)
  # A difference is mostly strictness.
  lenient = [c for c in cases if "differs" in c and not c["equal"]]
  assert len(lenient) <= 2


def test_differences_from_math_verify_have_reasons():
  """What lists them is tests/rewards/beside_math_verify.py."""
  right = {
    (r["reference"], r["completion"]): r.get("expected", r.get("correct"))
    for r in PAIRS + WAYS
  }
  differences = rows("math_verify_differences.jsonl")
  assert len(differences) >= 400
  for row in differences:
    assert row["why"] and row["judged"] in ("right", "arguable"), row
    assert right[row["reference"], row["completion"]] == row["right"], row
    assert row["math_verify"] != row["right"], row


# ----- Hostile answers -----


def cpu_s(pid):
  """Processor seconds that a process has used."""
  fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
  ticks = sum(map(int, fields.split()[11:13]))
  return ticks / os.sysconf("SC_CLK_TCK")


def peak_mb(pid):
  """The most memory that a process has held."""
  lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
  return next(int(x.split()[1]) for x in lines if x[:6] == "VmHWM:") / 1024


@pytest.mark.skipif(
  not os.path.exists("/proc/self/stat"), reason="reads Linux's /proc"
)
@pytest.mark.timeout(600)
def test_hostile_answers():
  """Each within a second of processor time."""
  hostile = rows("math_hostile.jsonl")
  assert len(hostile) >= 60
  with pools.Pool(workers=1, deadline_s=30.0, memory_mb=512) as pool:
    assert judge(pool, [(boxed(r"2\sqrt{3}"), r"\sqrt{12}")]) == [RIGHT]
    (worker,) = pool._alive
    pid = worker._process.pid
    for row in hostile:
      answer = row["answer"] * row.get("times", 1)
      before = cpu_s(pid)
      (score,) = judge(pool, [(boxed(answer), row["reference"])])
      assert score.status in ("ok", "no_answer"), (row, score)
      assert cpu_s(pid) - before <= 1.0, row
      assert judge(pool, [(boxed(r"\frac{4}{2}"), "2")]) == [RIGHT]
    assert peak_mb(pid) < 512
    assert {w._process.pid for w in pool._alive} == {pid}
    assert judge(pool, [(boxed(r"\sqrt{12}"), r"2\sqrt{3}")]) == [RIGHT]


@pytest.mark.parametrize(
  "answer",
  [
    r"9^{9^{9^{9}}}",
    "3^{1500000000}",
    "10000000!",
    "((9!)!)!",
    "1e999999999",
    r"\binom{1000000000}{5}",
    "(" * 5000,
    r"\sqrt[1000000]{5}",
    "__import__('os').abort()",
    "5" * 100_000,
    r"e^{e^{e^{e^{e}}}}",
    "nan",
    "NaN",
    "inf",
    "-inf",
    r"\infty",
    "",
    " ",
    r"\text{}",
    "None",
    "x = x",
    "0 = 0",
    "5 = 5",
    "x",
    "\x00",
    "\ud800",
    "{",
    "}",
  ],
)
@pytest.mark.parametrize("reference", ["5", "x+1", r"\{1,2\}", "[0,1)"])
def test_what_is_never_right(answer, reference):
  """Decided in this process, so what would hang hangs the test."""
  assert not math.score(boxed(answer), reference).correct


@pytest.mark.parametrize(
  "text",
  [
    "{" * 100_000,
    r"\boxed{" * 30_000,
    "\\" * 100_000,
    "<answer>" * 50_000,
    "answer is " * 50_000,
    "answer" + " " * 100_000,
    "The answer is" + " " * 60_000,
    "The answer is" + " " * 60_000 + "\n",
    "The answer is" + "\t" * 60_000 + "\n \n",
    "answer: **" + " " * 60_000,
    "### Answer\n" + " " * 60_000,
    "####" + " " * 60_000,
    "#### " + "1." * 30_000 + "\nDone.",
    "#### Step\n" * 10_000,
    r"\phantom" + r"\boxed{\phantom{" + "a" * 60_000 + "}}",
    r"\boxed{" + " " * 60_000 + "x}",
    "$" * 100_000,
    r"\boxed{5}" * 30_000,
    "#### 5\n" * 30_000,
    r"\(" * 50_000,
    "".join(boxed(i) for i in range(20_000)),
    r"\boxed{5" * 10_000 + "}" * 10_000,
    "final " * 50_000,
    r"\boxed" + " " * 100_000 + "{5}",
    "\n" * 100_000,
    "答案是5" * 10_000,
  ],
)
def test_long_completions_are_read_in_linear_time(text):
  start = time.process_time()
  math.score(text, "5")
  assert time.process_time() - start < 2


def test_memory_that_runs_out_is_no_wrong_answer(monkeypatch):
  def out_of_memory(*_, **__):
    raise MemoryError

  monkeypatch.setattr(symbolic, "verify", out_of_memory)
  with pytest.raises(MemoryError):
    symbolic.equal(("symbol", "x"), ("symbol", "y"), {"x": "x", "y": "y"})


# ----- The worker process -----


def test_slow_comparison_is_a_timeout_and_is_killed(monkeypatch, tmp_path):
  file = tmp_path / "slow.py"
  file.write_text("import time\ndef judge(*_):\n  time.sleep(600)\n")
  with pools.Pool(workers=1, deadline_s=0.5) as slow:
    monkeypatch.setattr(math, "_own_pool", lambda: slow)
    monkeypatch.setattr(math, "__name__", str(file))  # where judge is
    score = math.score(boxed(r"2\sqrt{3}"), r"\sqrt{12}")
    assert score == Score(0.0, False, "timeout")
    assert math.score(boxed("3"), "3") == RIGHT


def test_crash_of_the_worker_is_no_wrong_answer(monkeypatch):
  class Broken:
    def run(self, calls):
      return [pools.Outcome("crash", None, "its worker died")]

  monkeypatch.setattr(math, "_own_pool", Broken)
  score = math.score(boxed(r"2\sqrt{3}"), r"\sqrt{12}")
  assert score == Score(0.0, False, "crash")


def test_a_worker_of_a_pool_compares_by_itself(pool, tmp_path):
  """It has a deadline and a limit already, and needs no pool of its own."""
  file = tmp_path / "alone.py"
  file.write_text(
    "from progrpo_jax.rewards import math, serving\n"
    "def alone(completion, reference):\n"
    "  math._own_pool = None  # a call of it would raise\n"
    "  score = math.score(completion, reference)\n"
    "  return [serving.in_worker(), score.correct]\n"
  )
  arguments = [boxed(r"2\sqrt{3}"), r"\sqrt{12}"]
  [outcome] = pool.run([pools.Call(f"{file}:alone", arguments, {})])
  assert outcome.value == [True, True]
  assert not serving.in_worker()


def test_works_in_threads():
  found = []
  work = [
    threading.Thread(
      target=lambda: found.append(
        math.score(boxed(r"\frac{6}{\sqrt{3}}"), r"2\sqrt{3}")
      )
    )
    for _ in range(3)
  ]
  for thread in work:
    thread.start()
  for thread in work:
    thread.join()
  assert found == [RIGHT] * 3


def test_forked_process_takes_a_worker_of_its_own():
  code = (
    "import multiprocessing\n"
    "from progrpo_jax.rewards import math\n"
    r"ask = lambda: math.score(r'\boxed{2\sqrt{3}}', r'\sqrt{12}').correct"
    "\nassert ask()\n"
    "def child():\n"
    "  raise SystemExit(0 if ask() else 1)\n"
    "fork = multiprocessing.get_context('fork').Process(target=child)\n"
    "fork.start()\n"
    "fork.join()\n"
    "assert fork.exitcode == 0 and ask()\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_math_verify_runs_in_no_process_but_a_worker():
  code = (
    "import sys\n"
    "from progrpo_jax.rewards import math\n"
    r"assert math.score(r'\boxed{2\sqrt{3}}', r'\sqrt{12}').correct"
    "\n"
    "assert math._pool_of.cache_info().currsize == 1\n"
    "found = {'math_verify', 'sympy', 'latex2sympy2_extended'}\n"
    "assert not found & set(sys.modules), found & set(sys.modules)\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_plain_answers_start_no_worker(monkeypatch):
  def refuse():
    raise AssertionError("a worker was asked for")

  monkeypatch.setattr(math, "_own_pool", refuse)
  kinds = {
    "integer",
    "fraction",
    "decimal",
    "mixed number",
    "thousands",
    "percent",
    "currency",
    "units",
    "text",
    "form",
  }
  for row in PAIRS:
    if row["kind"] in kinds:
      score = math.score(row["completion"], row["reference"])
      assert score.correct == row["correct"], row


@pytest.mark.parametrize(
  ("gold", "answer", "equal"),
  [
    (r"\sqrt{12}", r"2\sqrt{3}", True),
    (r"\sqrt{12}", r"3\sqrt{2}", False),
    (r"\sqrt[3]{x^{6}}", "x^{2}", True),
    (r"\log_{2}{8}+x", "x+3", True),
    (r"\binom{6}{2}+x", "x+15", True),
    (r"\binom{x}{2}", r"\frac{x(x-1)}{2}", True),
    (r"\binom{x}{2}", r"\frac{x(x+1)}{2}", False),
    (r"\binom{x}{9}+1", r"1+\binom{x}{9}", True),
    (r"5!+x", "x+120", True),
    (r"\lfloor 2.5\rfloor+x", "x+2", True),
    (r"\lceil 2.5\rceil+x", "x+2", False),
    (r"\tanh{x}", r"\frac{e^{2x}-1}{e^{2x}+1}", True),
    (r"\tanh{x}", r"\frac{e^{2x}-1}{e^{2x}+2}", False),
    (r"\frac{e^{ix}-e^{-ix}}{2i}", r"\sin{x}", True),
    (r"\arctan{1}+x", r"x+\frac{\pi}{4}", True),
    ("|x|", r"\sqrt{x^{2}}", True),
    ("|x|", "x", False),
    ("x", "y", False),
    # Math-Verify drops what is below 1e-15.
    (r"\frac{\sqrt{2}}{10^{20}}", r"\frac{\sqrt{3}}{10^{20}}", False),
    (r"x+\frac{1}{10^{20}}", "x+0", False),
    (r"\frac{0}{0}", r"\frac{0}{0}", False),
    (r"\frac{1}{0}", r"\frac{1}{0}", False),
    (r"\ln{0}", r"\ln{0}", False),
  ],
)
def test_symbolic(gold, answer, equal):
  trees = expressions.parse(gold), expressions.parse(answer)
  assert None not in trees
  assert symbolic.equal(*trees, {"x": "x", "y": "y"}) is equal


@pytest.mark.parametrize(
  "text",
  [
    "(9^{5000})^{5000}+x",
    r"\binom{10^{9}}{5\times 10^{8}}+x",
    r"\binom{x}{4999}",
    "9999999!+x",
    r"\sqrt[3]{(7^{4000})^{4000}}+x",
    "2^{-4000000}x",
    "2^{2^{2^{2^{9}}}}x",
  ],
)
def test_symbolic_builds_no_huge_number(text):
  """Not even where the limits of `math` do not stand before it."""
  tree, start = expressions.parse(text), time.process_time()
  with pytest.raises(evaluation.TooLarge):
    symbolic.expression(tree, {"x": "x"})
  assert not symbolic.equal(tree, tree, {"x": "x"})
  assert time.process_time() - start < 1


@pytest.mark.parametrize(
  "text",
  [
    "((x+1)^{5000})^{5000}",
    "((x^{5000})^{5000})^{5000}",
    "x^{x^{x^{900000}}}",
    "(x+1)^{400}(x-1)^{400}",
    "(e^{x}+e^{y}+1)^{90}",
  ],
)
def test_symbolic_multiplies_little_out(text):
  start = time.process_time()
  built = symbolic.expression(expressions.parse(text), {"x": "x", "y": "y"})
  assert not symbolic._vanishes(built - 1)
  assert time.process_time() - start < 1


# ----- References -----


@pytest.mark.parametrize(
  ("reference", "words"),
  [
    ("", "holds no answer"),
    ("  ", "holds no answer"),
    ("$$", "holds no answer"),
    (r"\text{ }", "holds no answer"),
    (r"\boxed{}", "holds no answer"),
    ("nan", "holds no answer"),
    ("NaN", "holds no answer"),
    ("inf", "holds no answer"),
    ("None", "holds no answer"),
    (None, "is a NoneType"),
    (True, "is a bool"),
    ([1, 2], "is a list"),
    ({}, "is a dict"),
    (float("nan"), "is nan"),
    (float("inf"), "is inf"),
    ("1/0", "has no value"),
    (r"\frac{3}{1-1}", "has no value"),
    (r"\frac{1}{2", "do not match"),
    (r"\sqrt{2}}", "do not match"),
    ("7" * 1000, "1000 characters"),
    (10**1001, "1000 digits"),
    (r"\boxed{1}, then again \boxed{2}", "several answers"),
  ],
)
def test_bad_reference_is_refused(reference, words):
  with pytest.raises(InputError, match=words):
    math.check_reference(reference)
  assert math.score(boxed("1"), reference) == Score(0.0, False, "refused")


@pytest.mark.parametrize(
  ("reference", "text"),
  [
    ("42", "42"),
    (42, "42"),
    (0.5, "0.5"),
    (-3, "-3"),
    (r"\boxed{1} or \boxed{2}", "1; 2"),
    ("6*7 = 42\n#### 42", "42"),
    (r"Thus \boxed{\frac12}.", r"\frac12"),
    (r"\{1,2\}", r"\{1,2\}"),
    ("[0,1)", "[0,1)"),
    ("Evelyn", "Evelyn"),
    (r"\infty", r"\infty"),
    (r"\frac{1}{x}", r"\frac{1}{x}"),
  ],
)
def test_good_reference(reference, text):
  assert math.check_reference(reference) == text
  assert math.score(boxed(text), reference) == RIGHT


# ----- Options -----


def test_forms_can_be_narrowed():
  text = "The answer is 5."
  assert math.score(text, "5") == RIGHT
  assert math.score(text, "5", forms=("boxed",)).status == "no_answer"
  assert math.score("5", "5").status == "no_answer"
  assert math.score("5", "5", forms=("whole",)) == RIGHT
  with pytest.raises(InputError, match="no form of an answer 'box'"):
    math.score(text, "5", forms=("box",))


def test_tolerance_is_relative_and_off_by_default():
  assert not math.score(boxed("9.8"), "9.81").correct
  assert math.score(boxed("9.8"), "9.81", tolerance=0.01).correct
  assert not math.score(boxed("9.7"), "9.81", tolerance=0.01).correct
  assert math.score(boxed("3.1416"), r"\pi", tolerance=1e-4).correct
  assert not math.score(boxed("0.1"), "0", tolerance=0.5).correct
  assert math.score(boxed("-9.8"), "-9.81", tolerance=0.01).correct
  with pytest.raises(InputError, match="tolerance"):
    math.score(boxed("1"), "1", tolerance=-1)


@pytest.mark.parametrize(
  ("reference", "answer", "evaluated"),
  [
    ("42", r"6\times7", False),
    ("70", r"\binom{8}{4}", False),
    ("3", r"\log_2 8", False),
    ("120", "5!", False),
    ("42", "41+1", False),
    ("42", "42.0", True),
    ("1/2", "0.5", True),
    ("-7/2", r"-3\frac12", True),
    ("0.5", r"50\%", True),
    ("2500", r"2.5\times10^{3}", True),
    ("2^{10}", "1024", True),
    ("2^{10}", "4^5", True),
    ("5", "x=5", True),
  ],
)
def test_copied_calculations_can_be_refused(reference, answer, evaluated):
  assert math.score(boxed(answer), reference) == RIGHT
  score = math.score(boxed(answer), reference, evaluated=True)
  assert score.correct is evaluated


def test_canonical():
  row = base.Row("file", "", "1/2", {})
  texts = [
    r"\boxed{0.5}",
    "#### 1/2",
    r"\boxed{\frac{2}{4}}",
    r"x is \boxed{x = \tfrac12}",
  ]
  assert {math.canonical(t, row) for t in texts} == {"1/2"}
  assert math.canonical(r"\boxed{1,2}", row) == math.canonical(
    r"\boxed{2 \text{ and } 1}", row
  )
  different = [
    r"\boxed{(1,2)}",
    r"\boxed{(2,1)}",
    r"\boxed{[1,2)}",
    r"\boxed{\sqrt{2}}",
    r"\boxed{50\%}",
    "nothing",
    "",
  ]
  assert len({math.canonical(t, row) for t in different}) == len(different)


def test_normal_form_of_a_huge_number():
  assert math.normal_form("2^{30000}") == math.normal_form("4^{15000}")
  assert math.normal_form("1/2^{30000}") != math.normal_form("1/2^{30001}")


# ----- Properties -----

FRAGMENTS = st.sampled_from(
  [
    r"\boxed{",
    r"\fbox{",
    "}",
    "{",
    r"\frac",
    r"\sqrt",
    "^",
    "_",
    r"\{",
    r"\}",
    "(",
    ")",
    "[",
    "]",
    ",",
    ";",
    "=",
    "<",
    r"\le",
    r"\cup",
    r"\pm",
    r"\text{",
    "and",
    "or",
    "x",
    "y",
    "1",
    "23",
    "0.5",
    ".",
    "%",
    "$",
    "/",
    "+",
    "-",
    "!",
    "|",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    "&",
    r"\\",
    r"\log",
    r"\sin",
    r"\pi",
    "e",
    "i",
    " ",
    "\n",
    "#### ",
    "answer is ",
    "<answer>",
    "</answer>",
    r"\infty",
    r"\in",
    r"\approx",
    "½",
    "²",
    "√",
    r"\left",
    r"\right",
    r"\binom",
    r"\lfloor",
    r"\rfloor",
    "cm",
    "NaN",
  ]
)
TEXT = st.one_of(
  st.text(max_size=60),
  st.lists(FRAGMENTS, max_size=14).map("".join),
  st.lists(FRAGMENTS, max_size=10).map("".join).map(boxed),
)


class Nobody:
  """Stands for the worker: asks nobody and finds nothing equal."""

  def run(self, calls):
    return [pools.Outcome("ok", False, "")] * len(calls)


@settings(max_examples=400, deadline=None)
@given(TEXT, TEXT)
def test_no_text_raises(completion, reference):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(math, "_own_pool", Nobody)
    score = math.score(completion, reference)
    assert score.status in ("ok", "no_answer", "several_answers", "refused")
    assert score.reward == float(score.correct)
    assert isinstance(math.normal_form(completion), str)
    row = base.Row("file", "", "1", {})
    assert isinstance(math.canonical(completion, row), str)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["", " ", "\u200b", "$", "{}", r"\,", "$$", "\n"]), TEXT)
def test_empty_answer_scores_nothing(empty, reference):
  score = math.score(boxed(empty), reference)
  assert not score.correct and score.reward == 0


@settings(max_examples=300, deadline=None)
@given(
  st.sampled_from(
    [
      ("3", "3"),
      ("1/2", "0.5"),
      ("4", "3"),
      (r"\{1,2\}", r"\{2,1\}"),
      ("5", r"5\text{ cm}"),
    ]
  ),
  TEXT,
  TEXT,
)
def test_text_beside_the_box_changes_nothing(pair, before, after):
  reference, answer = pair
  beside = [t.replace("boxed", "").replace("fbox", "") for t in (before, after)]
  expected = math.score(boxed(answer), reference)
  assert math.score(boxed(answer) + beside[1], reference) == expected
  text = beside[0].replace("\\", "") + " " + boxed(answer) + beside[1]
  assert math.score(text, reference) == expected


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_fractions_equal_themselves_and_no_neighbour(value):
  over, under = value.as_integer_ratio()
  forms = [
    f"{over}/{under}",
    rf"\frac{{{over}}}{{{under}}}",
    rf"{{{3 * over}}} \div {3 * under}",
    f"{over}\\cdot {under}^{{-1}}",
  ]
  for form in forms:
    assert math.score(boxed(form), str(value)) == RIGHT
  near = rf"\frac{{{over}}}{{{under}}}+10^{{-30}}"
  assert math.score(boxed(near), str(value)) == WRONG


@settings(max_examples=100, deadline=None)
@given(
  st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True),
  st.randoms(use_true_random=False),
)
def test_order_matters_in_tuples_and_not_in_sets(numbers, random):
  mixed = random.sample(numbers, len(numbers))
  one, other = (", ".join(map(str, n)) for n in (numbers, mixed))
  assert math.score(boxed(rf"\{{{other}\}}"), rf"\{{{one}\}}") == RIGHT
  assert math.score(boxed(other), one) == RIGHT
  same = numbers == mixed
  assert math.score(boxed(f"({other})"), f"({one})").correct == same


def test_limits_leave_room_for_real_answers():
  assert expressions.parse("x" * (expressions.MAX_CHARS + 1)) is None
  assert expressions.parse("(" * 10 + "x" + ")" * 10) is not None
  assert evaluation.exact(expressions.parse("2^{10000}-1")) == 2**10000 - 1
