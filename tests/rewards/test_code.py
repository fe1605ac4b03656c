"""The verifier of programs: what counts as an answer, as equal, as a pass."""

import json
import pathlib
import runpy

import hypothesis
from hypothesis import strategies as st
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import code, sandbox
from progrpo_jax.rewards import pool as pools
from progrpo_jax.tasks.sets import programs as published

BEST = sandbox.best()
needs_jail = pytest.mark.skipif(
  not BEST.grade, reason=f"no isolation here: {BEST.reason}"
)
HOSTILE = runpy.run_path(
  str(pathlib.Path(__file__).with_name("hostile.py")), run_name="hostile"
)
fenced, HONEST, SUM = (HOSTILE[n] for n in ("fenced", "HONEST", "SUM"))
PROGRAMS = HOSTILE["PROGRAMS"]
NO_ANSWER = (0.0, False, "no_answer")
WRONG, RIGHT = (0.0, False, "ok"), (1.0, True, "ok")


# ----- The program -----


@pytest.mark.parametrize(
  "text, program",
  [
    ("```python\na\n```", "a\n"),
    ("```\na\n\n  b\n```\nDone.", "a\n\n  b\n"),
    ("```py\na\n```\nor\n```Python3\nb\n```\n", "b\n"),
    ("```python title='x'\na\n```", "a\n"),
    ("```python\r\na\r\nb\r\n```\r\n", "a\nb\n"),
    ("```python\na\n```\nIt prints\n```text\n7\n```", "a\n"),
    ("````python\na = '''\n```\n'''\n````", "a = '''\n```\n'''\n"),
    ("1. So:\n   ```python\n   if a:\n     b\n   ```\n", "if a:\n  b\n"),
    ("```python\n```", ""),
    ("```cpp\na\n```", None),
    ("```python\na", None),
    ("```python\na\n```\nbetter:\n```python\nb", None),
    ("```python\na\n``", None),
    ("``` a ``` b", None),
    # Python is what says so; a block without a language stands in for none.
    ("```python\na\n```\nIt prints\n```\n7\n```", "a\n"),
    ("```\n7\n```\n```python\na\n```", "a\n"),
    ("```\na\n```\n```\nb\n```", "b\n"),
    ("```\na\n```\n```bash\nb\n```", "a\n"),
    ("```python\na\n```\n```cpp\nb\n```", "a\n"),
    ("```python\na\n```\n```bash\nb\n```\n```output\n7\n```", "a\n"),
    ("```python\na\n```\nIt prints\n```\n7", "a\n"),
    ("```python\na\n```\nIt prints\n```text\n7", "a\n"),
    ("```\na\n```\n```\nb", None),
    ("```pycon\n>>> a\n```", None),
    ("```python2\na\n```", None),
    *(
      (f"{fence}\na\n{fence[:3]}", "a\n")
      for fence in (
        "~~~",
        "~~~python",
        "```python:main.py",
        "```py:src/a.py",
        "```{python}",
        "```{.python .numberLines}",
        "```{python, eval=False}",
        "``` python",
        "```python3.11",
        "```PyPy3",
        "```py3",
        "```python=",
        "```python {1,3}",
        "~~~ py `a`",
        "```Python 3",
      )
    ),
    ("~~~python\na\n```\nb\n~~~", "a\n```\nb\n"),
    ("~~~~python\na\n~~~\nb\n~~~~", "a\n~~~\nb\n"),
    ("```python\na\n~~~\n```", "a\n~~~\n"),
    ("1. ```python\n   if a:\n     b\n   ```", "if a:\n  b\n"),
    ("2) ```python\nif a:\n  b\n```", "if a:\n  b\n"),
    ("- ~~~py\n  if a:\n    b\n  ~~~", "if a:\n  b\n"),
    ("- 1. ```py\n     a\n     ```", "a\n"),
    ("    ```python\n    if a:\n\n        b\n    ```", "if a:\n\n    b\n"),
    ("\t```python\n\tif a:\n\t\tb\n\t```", "if a:\n\tb\n"),
    ("1. ```python\r\n   if a:\r\n     b\r\n   ```\r\n", "if a:\n  b\n"),
    ("  ```python\n  a = '''\nb\n  '''\n  ```", "a = '''\nb\n'''\n"),
    # A fence in a text of the program does not close its block.
    (
      "```python\na = '''\n```\nb\n```\n'''\n```\nDone.",
      "a = '''\n```\nb\n```\n'''\n",
    ),
    (
      '```python\ndef f():\n  """\n  ```\n  f()\n  ```\n  """\n  return 1\n```',
      'def f():\n  """\n  ```\n  f()\n  ```\n  """\n  return 1\n',
    ),
    (
      '```python\ndef f():\n  """\n  ```python\n  f()\n  ```\n  """\n```\n'
      "It prints\n```\n7\n```",
      'def f():\n  """\n  ```python\n  f()\n  ```\n  """\n',
    ),
    ('```\n"""\n```\n"""\na\n```', '"""\n```\n"""\na\n'),
    # But a text that is never closed is an error of its own block.
    ("```python\na = '''\n```\nbetter:\n```python\nb\n```", "b\n"),
    ("```python\na = '''\n```\nDone.", "a = '''\n"),
    ("```python\na = '''\n```\n'''\nDone.", "a = '''\n"),
    ("```python\na = '''\n```\nwrong\n```\n'''(\n```", "a = '''\n"),
    # In a quotation, whose marks are no part of the program.
    ("> So:\n> ```python\n> if a:\n>   b\n> ```\n", "if a:\n  b\n"),
    (">```py\n>if a:\n>\n>  b\n>```", "if a:\n\n  b\n"),
    ("> > ```py\n> > a\n> > ```", "a\n"),
    ("  > 1. ```py\n  >    if a:\n  >      b\n  >    ```", "if a:\n  b\n"),
    ("> ```py\n> a\n\n> b\n> ```", "a\n\nb\n"),
    ("> ```py\n> >>> a\n> ```", ">>> a\n"),
    ("```py\na = '''\n> b\n> ```\n'''\n```", "a = '''\n> b\n> ```\n'''\n"),
    # A quotation ends its block, the end of the text does not.
    ("> ```py\n> a\n\nSo\n```py\nb\n```", "b\n"),
    ("> ```py\n> a\nSo", "a\n"),
    ("> ```py\n> a\n", None),
    ("```py\na\n```\n> ```py\n> b", None),
    # Markers of lists and names of files as people write them.
    *(
      (f"{mark} ```py\n   if a:\n     b\n   ```", "if a:\n  b\n")
      for mark in ("a)", "(1)", "(a)", "b.", "•", "◦", "–", "(iv)")
    ),
    ("a ```py\na\n```", None),
    ("a) b ```py\na\n```", None),
    *(
      (f"```{info}\na\n```", "a\n")
      for info in (
        "ipython",
        "IPython3",
        "python main.py",
        "main.py",
        "src/my-a.py",
        "py3.12",
        "python-exec",
        "python3 -i",
      )
    ),
    ("```main.pyx\na\n```", None),
    ("```pytb\na\n```", None),
    # A mark of the order of bytes is no part of the text.
    ("\ufeff```python\na\n```", "a\n"),
    ("```python\n\ufeffa\n```", "a\n"),
    # The marker of a list may be a Roman number.
    ("ii. ```python\na\n```", "a\n"),
    ("i) - ```python\na\n```", "a\n"),
    ("print(7)", None),
    ("", None),
    # Long runs of markers, which a fence never follows.
    ("i. " * 60_000, None),
    ("ivx) " * 20_000 + "a", None),
    ("1. - > " * 20_000, None),
    ("> " * 60_000 + "x", None),
  ],
)
def test_extract_golden(text, program):
  assert code.extract(text) == program


@hypothesis.given(
  st.lists(st.text(st.characters(exclude_characters="\r\n`")), max_size=6),
  st.text(st.characters(exclude_characters="`")),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_extract_finds_what_was_fenced(lines, before):
  program = "\n".join([*lines, ""])
  assert code.extract(f"{before}\n```python\n{program}```\nEnd.") == program


@pytest.mark.parametrize(
  "program, valid",
  [
    ("", True),
    ("x = 1", True),
    ("x = (", False),
    ("print 7", False),
    ("\0", False),
    ("'\ud800'", False),
    ("def f():\nreturn 1", False),
    ("x = 'a\\d'", True),
    ("#" * 200_001, False),
    # Left to the jail: hard on the parser.
    ("(" * 5000, True),
    ("x = " + "-" * 49_000 + "1", True),
    ("x = " + "1+" * 24_000 + "1", True),
    ("x = (" + " " * 60_000, True),
  ],
)
def test_is_valid_golden(program, valid, recwarn):
  assert code.is_valid(program) is valid
  assert not recwarn.list


def test_no_jail_for_what_cannot_be_a_program(monkeypatch):
  def jail(*_, **__):
    raise AssertionError("a jail was opened")

  monkeypatch.setattr(sandbox, "Jail", jail)
  assert code.score("7", SUM) == NO_ANSWER
  assert code.score("```python\nprint(7)", SUM) == NO_ANSWER
  assert code.score(fenced("x = ("), SUM) == WRONG
  assert code.score(fenced("x" * 300_000), SUM) == WRONG


# ----- What is equal -----


@pytest.mark.parametrize(
  "text, expected, tolerance, same",
  [
    ("7", "7\n", None, True),
    ("7 \n\n\n", "7", None, True),
    ("1  2\t3\n4", "1 2 3 \n4\n", None, True),
    ("a\r\nb\r\n", "a\nb\n", None, True),
    ("", "\n", None, True),
    ("", "7", None, False),
    ("7", "", None, False),
    ("7\n8", "7 8", None, False),
    ("\n7", "7", None, False),
    ("7 8", "7", None, False),
    ("78", "7 8", None, False),
    ("Yes", "YES", None, False),
    ("7.0", "7", None, True),
    ("7", "7.0", None, True),
    ("7.1", "7", None, False),
    ("7.0000000000000001", "7", None, False),
    ("1", "1.4", None, False),
    ("1.4", "1", None, False),
    ("0.5", "0.500000", None, True),
    (".5", "0.5", None, True),
    ("0.50001", "0.5", None, False),
    ("-0.0", "0", None, True),
    ("0.30000000000000004", "0.3", None, True),
    ("1e3", "1000", None, True),
    ("0.333333", "0.3333333333", None, True),
    ("0.33", "0.333", None, False),
    ("0.000001", "0.000002", None, False),
    ("1e-3", "0.001", None, True),
    ("007", "7", None, False),
    ("0010", "10", None, False),
    ("True", "1", None, False),
    ("1_000", "1000", None, False),
    ("\u0667", "7", None, False),
    ("0x7", "7", None, False),
    ("Infinity", "inf", None, False),
    ("1/2", "0.5", None, False),
    ("1e9999", "1e9998", None, False),
    ("1.0e9999", "1e9999", None, True),
    ("1" + "0" * 5000, "1" + "0" * 5000 + ".0", None, True),
    ("1" + "0" * 5000, "1" + "0" * 4999 + "1", None, False),
    ("100000000000000000001", "100000000000000000000.0", None, False),
    ("7.0", "7", 1e-9, True),
    ("0.3333333", "0.33333333333", 1e-6, True),
    ("0.333", "0.33333333333", 1e-6, False),
    ("1000000.5", "1000000", 1e-6, True),
    ("Case 1: 0.5", "Case 1: 0.50", 1e-9, True),
    ("Case 2: 0.5", "Case 1: 0.5", 1e-9, False),
    ("nan", "1", 1e9, False),
    ("nan", "nan", 1e-9, True),
    ("inf", "1", 1e9, False),
    ("1e999", "1e308", 1e-6, False),
    ("9" * 5000, "9" * 5000, 1e-6, True),
    ("9" * 5000, "1", 1e-6, False),
  ],
)
def test_same_text_golden(text, expected, tolerance, same):
  assert code.same_text(text, expected, tolerance) is same


NAN = float("nan")


@pytest.mark.parametrize(
  "value, expected, tolerance, same",
  [
    (7, 7, None, True),
    (7, 7.0, None, True),
    (7, 7.0, 1e-9, True),
    (7, 7.5, None, False),
    (1, 1.4, None, False),
    (8, 7, None, False),
    (True, 1, None, True),
    (1, True, None, True),
    (False, 0, 1.0, True),
    (True, 0, None, False),
    (True, 2, 1.0, False),
    (True, 1.5, 1.0, False),
    ("True", True, None, False),
    ("1", 1, None, False),
    (0.300001, 0.3, None, False),
    (1 + 2**-52, 1, None, False),
    (2**53 + 1, 2.0**53, None, False),
    (True, True, 1.0, True),
    (True, False, 1.0, False),
    (None, False, None, False),
    (None, None, None, True),
    ("7", 7, None, False),
    ("a", "a", None, True),
    ([1, 2], [1, 2], None, True),
    ([1, 2], [2, 1], None, False),
    ([1], [1, 1], None, False),
    ([], None, None, False),
    ([], {}, None, False),
    ([[1], {"a": 2}], [[1], {"a": 2}], None, True),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, None, True),
    ({"a": 1}, {"a": True}, None, True),
    ({"a": 1}, {"b": 1}, None, False),
    (NAN, NAN, None, True),
    (NAN, 1.0, 1e9, False),
    (NAN, NAN, 0.1, True),
    (-0.0, 0.0, None, True),
    (float("inf"), float("inf"), None, True),
    (float("inf"), 1e308, 1e9, False),
    (0.1 + 0.2, 0.3, None, True),
    (0.1 + 0.2, 0.3, 1e-9, True),
    (10**400, 10**400, None, True),
    (10**400, 10**400 + 1, None, False),
    (10**400, 1.0, 1e-6, False),
    (10**400, 10**400 + 1, 1e-6, False),
  ],
)
def test_same_value_golden(value, expected, tolerance, same):
  assert code.same_value(value, expected, tolerance) is same


values = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
  ),
  max_leaves=20,
)


@hypothesis.given(values)
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_value_equals_itself_and_nothing_that_holds_it(value):
  assert code.same_value(value, json.loads(json.dumps(value)))
  assert code.same_value(value, value, 1e-6)
  assert not code.same_value([value], value)
  assert not code.same_value(value, {"a": value})


def test_same_value_of_deep_values():
  deep = []
  for _ in range(150):
    deep = [deep]
  assert code.same_value(deep, json.loads(json.dumps(deep)))
  assert not code.same_value(deep, [deep])
  for _ in range(600):
    deep = [deep]
  assert not code.same_value(deep, deep)


# ----- The tests of an item -----


@pytest.mark.parametrize(
  "tests, entry_point, words",
  [
    ([], None, "no tests"),
    ("x", None, "list, not str"),
    ({"input": "", "output": ""}, None, "list, not dict"),
    (["x"], None, "test 0: must be a mapping"),
    ([SUM[0], {}], None, 'test 1: needs "input" and "output"'),
    ([{"input": "", "output": 7}], None, '"output" is 7'),
    ([{"args": "x", "expected": 1}], "f", '"args" must be a list'),
    ([{"args": [1]}], "f", 'no "expected"'),
    ([{"args": [1], "expected": 1}], None, "entry_point must name"),
    ([{"args": [1], "expected": 1}], "f(", "entry_point must name"),
    ([{"args": [{1}], "expected": 1}], "f", "not JSON"),
    ([{"args": [1], "expected": object()}], "f", "not JSON"),
  ],
)
def test_malformed_tests_are_named(tests, entry_point, words):
  with pytest.raises(InputError) as caught:
    code.score(fenced("x"), tests, entry_point=entry_point)
  assert words in str(caught.value)


# ----- Scores -----


@needs_jail
def test_score_golden_of_programs():
  assert code.score(fenced(HONEST), SUM) == RIGHT
  half = fenced("print(7)")
  assert code.score(half, SUM) == (0.5, False, "ok")
  assert code.score(half, SUM, partial=False) == WRONG
  assert code.score(half, SUM[:1], partial=False) == RIGHT
  # Right output, then a crash.
  assert code.score(fenced("print(7)\nexit(1)"), SUM[:1]) == WRONG
  assert code.score(fenced("print(7)\nx / 0"), SUM[:1]) == WRONG
  assert code.score(fenced("print(7)\nexit()"), SUM[:1]) == RIGHT


@needs_jail
def test_score_golden_of_functions():
  tests = [
    {"args": [3, 4], "expected": [4, 3]},
    {"args": ["a", None], "expected": (None, "a")},
    {"args": [[1], {"b": 2}], "expected": [{"b": 2}, [1]]},
    {"args": [1.5, True], "expected": [True, 1.5]},
  ]
  swap = "def swap(a, b):\n  print('noise')\n  return b, a\n"
  assert code.score(fenced(swap), tests, entry_point="swap") == RIGHT
  method = "class Solution:\n  def swap(self, a, b): return [b, a]\n"
  assert code.score(fenced(method), tests, entry_point="swap") == RIGHT
  lazy = "def swap(a, b): return [b, a] if a != 3 else [4, 3.1]\n"
  assert code.score(fenced(lazy), tests, entry_point="swap") == (
    0.75,
    False,
    "ok",
  )
  assert (
    code.score(fenced(lazy), tests, entry_point="swap", tolerance=0.1) == RIGHT
  )
  assert code.score(fenced(swap), tests, entry_point="wsap") == WRONG
  # One test that exits early fails alone.
  exits = "def swap(a, b):\n  if a == 'a': exit(0)\n  return b, a\n"
  assert code.score(fenced(exits), tests, entry_point="swap") == (
    0.75,
    False,
    "ok",
  )


@needs_jail
def test_time_is_shared_by_the_tests():
  slow = fenced("n = int(input())\nwhile n == 3: pass\nprint(n)")
  tests = [{"input": str(n), "output": str(n)} for n in range(6)]
  assert code.score(slow, tests, time_limit_s=4.0) == (0.5, False, "ok")
  assert code.score(slow, tests, time_limit_s=30.0, test_limit_s=2.0) == (
    5 / 6,
    False,
    "ok",
  )


STARTER = """class Solution:
  def f(self, x: List[int], n: Optional[int] = None) -> Dict[str, int]:
    """


@needs_jail
@pytest.mark.parametrize(
  "program, value",
  [
    (STARTER + "return x", [3, 1, 3]),
    (STARTER + "return Counter(x).most_common(1)[0][0]", 3),
    (STARTER + "heapify(x); return heappop(x)", 1),
    (STARTER + "return bisect_left(sorted(x), 3) + bisect.bisect([1], 2)", 2),
    (STARTER + "return gcd(*x) + math.gcd(6, 4) + pow(2, 3, 5)", 6),
    (STARTER + "return [inf > 1, *accumulate(x)]", [True, 3, 4, 7]),
    (STARTER + "return reduce(lambda a, b: a * b, x)", 9),
    (STARTER + "d = defaultdict(list); d[1] += x; return d", {"1": [3, 1, 3]}),
    (STARTER + "return sys.maxsize > len(ascii_lowercase)", True),
    # A local name of one function is no definition for another.
    ("def g():\n  Counter = 1\ndef f(x): return Counter(x)[3]", 2),
    # What a program defines itself is what it means.
    ("def gcd(*x): return 99\ndef f(x): return gcd(*x)", 99),
    ("List = 5\ndef f(x): return List", 5),
    ("def f(x):\n  count = 4\n  return count", 4),
    ("'''Doc.'''\ndef f(x): return __doc__", "Doc."),
    ("def f(x): return __doc__", None),
    (
      "def f(x: List): return sorted(n for n in globals() if n[0] != '_')",
      ["f"],
    ),
    ("from __future__ import annotations\ndef f(x: No): return max(x)", 3),
    # Deep recursion, as the published graders allow it.
    ("def f(x):\n  g = lambda n: n and 1 + g(n - 1)\n  return g(9_999)", 9999),
    (
      "import traceback\ndef f(x):\n  try: List[0][0][0]()\n"
      "  except Exception as e: return e.__traceback__.tb_lineno",
      3,
    ),
  ],
)
def test_names_of_the_published_graders(program, value):
  tests = [{"args": [[3, 1, 3]], "expected": value}]
  assert code.score(fenced(program), tests, entry_point="f") == RIGHT


@needs_jail
@pytest.mark.parametrize(
  "program, entry_point",
  [
    ("x = 1", "gcd"),
    ("def f(*x): return gcd(*x)", "gcd"),
    ("class Solution:\n  def gcd(self, a, b): return 7 * a", "gcd"),
    ("import numpy\ndef gcd(a, b): return 2", "gcd"),
  ],
)
def test_a_name_that_is_given_is_no_function_of_the_program(
  program, entry_point
):
  tests = [{"args": [4, 6], "expected": 2}]
  assert code.score(fenced(program), tests, entry_point=entry_point) == WRONG


@needs_jail
@pytest.mark.parametrize(
  "program",
  [
    "from math import gcd\nclass Solution:\n"
    "  def gcd(self, a, b): return gcd(a, b)",
    "def gcd(a, b): return 7\nclass Solution:\n  def gcd(self, a, b): return 2",
    "class Solution: pass\ndef gcd(a, b): return 2",
  ],
)
def test_a_method_of_the_solution_comes_before_what_has_its_name(program):
  tests = [{"args": [4, 6], "expected": 2}]
  assert code.score(fenced(program), tests, entry_point="gcd") == RIGHT


@needs_jail
@pytest.mark.parametrize(
  "program, prelude, output",
  [
    ("print(f(3))", "def f(x): return x + 1", "4"),
    (
      "from __future__ import annotations\nprint(sqrt(4))",
      "from math import *",
      "2.0",
    ),
    (
      "'''Doc.'''\nfrom __future__ import division\nprint(__doc__)",
      "'''Its own.'''\nimport math",
      "Doc.",
    ),
    ("def f(x: No): pass\nprint(8)", "from __future__ import annotations", "8"),
    ("def f(): return 2\nprint(f())", "def f(): return 1", "2"),
    (
      "try: 1 / 0\nexcept Exception as e: print(e.__traceback__.tb_lineno)",
      "\n\n\nimport math",
      "1",
    ),
  ],
)
def test_a_prelude_is_executed_first(program, prelude, output):
  tests = [{"input": "", "output": output}]
  assert code.score(fenced(program), tests, prelude=prelude) == RIGHT


def test_a_prelude_that_does_not_compile_is_named():
  with pytest.raises(InputError, match="prelude is not valid Python"):
    code.score(fenced("x"), SUM, prelude="import (")


BIG = 10**5000 - 1


@needs_jail
@pytest.mark.parametrize(
  "returned, expected, right",
  [
    ("deque([1, 2])", [1, 2], True),
    ("deque([1, 2])", [2, 1], False),
    ("range(3)", [0, 1, 2], True),
    ("range(3)", [0, 1, 2, 3], False),
    ("[range(2), deque([(3, 4)])]", [[0, 1], [[3, 4]]], True),
    ("__import__('array').array('i', [1, 2])", [1, 2], True),
    ("namedtuple('P', 'x y')(1, 2)", [1, 2], True),
    ("{'a': deque([True])}", {"a": [1]}, True),
    ("Counter('aab')", {"a": 2, "b": 1}, True),
    ("{1: 2}", {"1": 2}, True),
    ("Counter('ab').keys()", ["a", "b"], True),
    ("{2: 1, 1: 3}.values()", [1, 3], True),
    ("{2: 1}.values()", [2], False),
    ("OrderedDict(a=1).items()", [["a", 1]], True),
    ("swapped().keys()", ["b", "a"], True),
    ("Decimal('2.50')", 2.5, True),
    ("Decimal('2.50')", 2.51, False),
    ("[Fraction(6, 3), Fraction(1, 4)]", [2, 0.25], True),
    ("Fraction(1, 3)", 0.3333333333, True),
    ("Fraction(1, 3)", 0.33, False),
    ("Decimal(10**30 + 1)", 10**30 + 1, True),
    ("Decimal(10**30 + 1)", 10**30, False),
    ("Decimal('7.00000000000000000001')", 7, False),
    ("Decimal('NaN')", NAN, False),
    ("Decimal('1e999')", 1, False),
    ("{1, 2}", [1, 2], False),
    ("iter([1, 2])", [1, 2], False),
    ("'ab'", ["a", "b"], False),
    ("range(7, 8)", 7, False),
    ("range(10 ** 12)", [0], False),
    ("b'7'", "7", False),
    ("2.0", 2, True),
    ("0.1 + 0.2", 0.3, True),
    ("1", 1.4, False),
    # Lists, as pytest cannot name an integer of that length.
    ("[10 ** 5000]", [10**5000], True),
    ("[10 ** 5000 + 1]", [10**5000], False),
    ("[int('9' * 6000)]", [10**6000 - 1], True),
    ("{1: n}", {"1": BIG}, True),
    ("[n, [n + 1]]", [BIG, [10**5000]], True),
    ("[float('inf')]", [BIG], False),
    ("str(n + 1)", "1" + "0" * 5000, True),
  ],
)
def test_values_of_other_types(returned, expected, right):
  program = fenced(
    "from decimal import Decimal\nfrom fractions import Fraction\n"
    "def swapped():\n  d = OrderedDict(a=1, b=2)\n  d.move_to_end('a')\n"
    f"  return d\ndef f(n):\n  return {returned}"
  )
  tests = [{"args": [BIG], "expected": expected}]
  assert code.score(program, tests, entry_point="f") == (
    RIGHT if right else WRONG
  )


@needs_jail
def test_long_outputs_are_right_too():
  tests = [{"input": "", "output": "x" * (3 << 20)}]
  assert code.score(fenced("print('x' * (3 << 20))"), tests) == RIGHT
  assert code.score(fenced("print('x' * (9 << 20))"), tests) == WRONG


# As recursive programs begin: a thread with a stack of 512 MiB.
DEEP = """
import sys, threading
sys.setrecursionlimit(10 ** 6)
threading.stack_size(2 ** 29)
def depth(n):
  return 0 if n == 0 else 1 + depth(n - 1)
main = threading.Thread(target=lambda: print(depth(int(input()))))
main.start()
main.join()
"""


@needs_jail
def test_a_deep_recursion_fits_the_memory_of_published_problems():
  limits = {k: v for k, v in published.META.items() if k != "time_limit_s"}
  tests = [{"input": "100000", "output": "100000"}]
  completion = f"```python{DEEP}```"
  assert code.score(completion, tests, **limits) == RIGHT
  assert not code.score(completion, tests, memory_mb=512).correct


def test_no_jail_is_masked(monkeypatch):
  monkeypatch.setattr(sandbox, "_best", None)
  monkeypatch.setattr(
    sandbox, "probe", lambda name: sandbox.Backend(name, 0, "not today")
  )
  assert code.score(fenced(HONEST), SUM) == (0.0, False, "refused")


@pytest.mark.parametrize(
  "error",
  [
    sandbox.JailError("it ended at once"),
    sandbox.NoAnswer("busy"),
    OSError(24, "too many open files"),
  ],
)
@pytest.mark.parametrize("when", ["start", "run"])
def test_a_failure_of_the_jail_is_masked(monkeypatch, error, when):
  class Broken:
    def __init__(self, *_, **__):
      if when == "start":
        raise error

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def run(self, *_, **__):
      raise error

  monkeypatch.setattr(sandbox, "Jail", Broken)
  assert code.score(fenced(HONEST), SUM) == (0.0, False, "crash")


@needs_jail
def test_in_a_worker_of_the_pool():
  name = "progrpo_jax.rewards.code:score"
  items = [
    pools.Item(name, fenced(program), SUM, {"time_limit_s": 2.0})
    for program in (
      HONEST,
      "while True: pass",
      "a = []\nwhile True:\n  a.append(bytearray(1 << 20))",
      "print(7)",
      HONEST,
    )
  ]
  items.append(pools.Item(name, "none", SUM, {}))
  with pools.Pool(workers=2, deadline_s=60.0, memory_mb=1024) as pool:
    assert pool.score(items) == [
      RIGHT,
      WRONG,
      WRONG,
      (0.5, False, "ok"),
      RIGHT,
      NO_ANSWER,
    ]


# ----- Whatever a model writes -----


class Stub:
  """A jail whose every run ends as it is told to."""

  def __init__(self, output):
    self.output = output

  def __call__(self, *_, **__):
    return self

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def run(self, *_, **__):
    return self.output

  call = run


texts = st.text() | st.sampled_from(
  [
    "7",
    "[" * 10**5,
    "9" * 10**5,
    "1e999",
    "NaN",
    "-0.0",
    '{"a": ',
    "nul",
    '{"a": 1, "a": 7}',
    "[7",
    "7 7",
    '"\\ud800"',
    "Infinity",
  ]
)
outputs = st.builds(
  sandbox.Output,
  st.sampled_from(["exit", "signal", "timeout", "flood"]),
  st.integers(0, 255),
  texts,
  texts,
  texts,
)
programs = (
  st.text()
  | st.text().map(fenced)
  | st.lists(
    st.sampled_from(["```", "```python", "\n", "x", "(", "\0", "\ud800", " "])
  ).map("".join)
)


@hypothesis.given(programs, outputs)
@hypothesis.settings(max_examples=300, deadline=None)
def test_never_raises(completion, output):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sandbox, "Jail", Stub(output))
    for tests, options in (
      (SUM, {}),
      (SUM, {"tolerance": 0.1, "partial": False}),
      ([{"args": [1], "expected": 7}], {"entry_point": "f"}),
      (
        [{"args": [1], "expected": 0.5}],
        {"entry_point": "f", "tolerance": 1e-9},
      ),
    ):
      found = code.score(completion, tests, **options)
      assert found.status in ("ok", "no_answer")
      assert 0 <= found.reward <= 1
      assert found.correct == (found.reward == 1)


@pytest.mark.parametrize(
  "output, right",
  [
    (("exit", 0, "", "", "7"), True),
    (("exit", 0, "", "", " 7\n"), True),
    (("exit", 0, "7", "", ""), False),
    (("exit", 0, "", "", "7.0"), True),
    (("exit", 0, "", "", "7.5"), False),
    (("exit", 0, "", "", '"7"'), False),
    (("exit", 0, "", "", "true"), False),
    (("exit", 0, "", "", "7 7"), False),
    (("exit", 0, "", "", '{"ended": 0}7'), False),
    (("exit", 1, "", "", "7"), False),
    (("signal", 9, "", "", "7"), False),
    (("timeout", 0, "", "", "7"), False),
    (("flood", 0, "", "", "7"), False),
  ],
)
def test_only_a_whole_result_of_a_whole_run_counts(monkeypatch, output, right):
  monkeypatch.setattr(sandbox, "Jail", Stub(sandbox.Output(*output)))
  tests = [{"args": [], "expected": 7}]
  found = code.score(fenced("def f(): 0"), tests, entry_point="f")
  assert found == (RIGHT if right else WRONG)


@needs_jail
@hypothesis.given(st.text().map(fenced))
@hypothesis.settings(max_examples=10, deadline=None)
def test_no_text_breaks_a_real_jail(completion):
  assert code.score(completion, SUM, time_limit_s=2.0).status == "ok"


# ----- Hostile programs -----


@needs_jail
@pytest.mark.parametrize(
  "number", range(len(PROGRAMS)), ids=lambda n: f"{n}-group{PROGRAMS[n].group}"
)
def test_hostile_program_is_held_and_the_next_item_is_right(number):
  hostile = PROGRAMS[number]
  if hostile.needs not in ("", BEST.name, f"grade {BEST.grade}"):
    pytest.skip(f"held with {hostile.needs} only, here is {BEST}")
  with HOSTILE["places"]() as outside:
    found = HOSTILE["scored"](hostile, outside)
  assert found == (hostile.reward, hostile.reward == 1, "ok")
  assert code.score(fenced(HONEST), SUM) == RIGHT


def test_every_group_of_hostile_programs_is_there():
  assert {hostile.group for hostile in PROGRAMS} == set(range(1, 29))


@needs_jail
@pytest.mark.parametrize("group", [11, 12])
def test_the_searches_would_find_it(group):
  # The same programs, with what they look for in their own memory.
  for hostile in PROGRAMS:
    if hostile.group == group and "look(" in hostile.program:
      if hostile.entry_point:
        continue
      program = f"hidden = {HOSTILE['NEEDLE']!r}\n{hostile.program}"
      with sandbox.Jail(program, time_limit_s=20.0) as jail:
        assert HOSTILE["NEEDLE"] in jail.run("").stdout


@needs_jail
def test_the_programs_that_look_outside_would_see_it(monkeypatch):
  # Unconfined, they see files, sockets, processes.
  monkeypatch.setattr(sandbox, "_best", sandbox.Backend("none", 1))
  lookers = [
    h
    for h in PROGRAMS
    if h.reward == 1
    and (h.group in (12, 14) or h.tests[0].get("input") == "{paths}")
  ]
  assert len(lookers) == 3
  with HOSTILE["places"]() as outside:
    for hostile in lookers:
      assert HOSTILE["scored"](hostile, outside).reward < 1
