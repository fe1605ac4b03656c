import json

from hypothesis import given
from hypothesis import strategies as st
import pytest

from progrpo_jax.rewards import code
from progrpo_jax.tasks.sets import programs, schema, testcases

STDIN = [{"input": "1 2\n", "output": "3\n"}, {"input": "4", "output": "4"}]
CALLS = [{"args": [1, [2]], "expected": 3}, {"args": [4, []], "expected": 4}]


@pytest.mark.parametrize(
  "value",
  [
    {"inputs": ["1 2\n", "4"], "outputs": ["3\n", "4"]},
    {"inputs": [["1 2", ""], ["4"]], "outputs": ["3\n", ["4"]]},
    {"input": ["1 2\n", "4"], "output": ["3\n", "4"]},
    {"inputs": ["1 2\n", "4"], "outputs": ["3\n", "4"], "fn_name": None},
    STDIN,
    [{**test, "type": "stdin_stdout"} for test in STDIN],
    [{**test, "testtype": "stdin", "metadata": {}} for test in STDIN],
  ],
)
@pytest.mark.parametrize("form", [lambda v: v, json.dumps])
def test_programs_in_every_form(value, form):
  assert testcases.read(form(value), "tests") == (STDIN, None)


@pytest.mark.parametrize(
  "value",
  [
    {"inputs": [[1, [2]], [4, []]], "outputs": [[3], [4]], "fn_name": "f"},
    {"inputs": [[1, [2]], [4, []]], "outputs": [3, 4], "fn_name": "f"},
    [
      {
        "input": [1, [2]],
        "output": [3],
        "type": "function_call",
        "fn_name": "f",
      },
      {
        "input": [4, []],
        "output": [4],
        "type": "function_call",
        "fn_name": "f",
      },
    ],
    [
      {
        "input": "1\n[2]",
        "output": "3",
        "testtype": "functional",
        "metadata": {"func_name": "f"},
      },
      {"input": "4\n[]", "output": "4", "testtype": "functional"},
    ],
  ],
)
@pytest.mark.parametrize("form", [lambda v: v, json.dumps])
def test_calls_in_every_form(value, form):
  tests, name = testcases.read(form(value), "tests")
  assert (tests, name) == (CALLS, "f")
  code.check_tests(tests, name)


def test_the_name_may_stand_elsewhere():
  cases = [{"input": "[1]", "output": "[1]", "testtype": "functional"}]
  tests, name = testcases.read(cases, "tests", "g")
  # Text of one JSON value a line is not wrapped: the list is what is expected.
  assert tests == [{"args": [[1]], "expected": [1]}] and name == "g"


def test_outputs_are_unwrapped_only_if_all_are_wrapped():
  value = {"inputs": [[1], [2]], "outputs": [[1], [1, 2]], "fn_name": "f"}
  tests, _ = testcases.read(value, "tests")
  assert [t["expected"] for t in tests] == [[1], [1, 2]]


@pytest.mark.parametrize(
  "value, words",
  [
    (3, "an int, not test cases"),
    ("{", "not JSON"),
    ({"inputs": ["1"]}, "no lists of inputs and outputs"),
    ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
    ([{"input": "1"}], "without input and output"),
    ([{"input": 1, "output": "1"}], "an int where text is read"),
    ([{"input": "", "output": [1]}], "a list where text is read"),
    ([{"input": [], "output": 1, "type": "function_call"}], "without a name"),
    (
      [{"input": 1, "output": 1, "fn_name": "f"}],
      "arguments that are not a list",
    ),
    ([{"input": "{", "output": "1", "fn_name": "f"}], "not JSON"),
    ([{"input": "", "output": "", "type": "html"}], "the kinds .'html'"),
  ],
)
def test_what_is_no_test_case_is_named(value, words):
  with pytest.raises(schema.BadRow, match=words):
    testcases.read(value, "tests")


@pytest.mark.parametrize("value", ["", "[]", {"inputs": [], "outputs": []}])
def test_no_tests_leave_a_problem_out(value):
  with pytest.raises(schema.LeftOut, match="no test cases"):
    testcases.read(value, "tests")


def test_longest_by_hand():
  tests = [{"input": "a" * n, "output": ""} for n in (3, 1, 5, 5, 2)]
  kept = testcases.longest(tests, 3)
  assert [len(t["input"]) for t in kept] == [3, 5, 5]
  assert testcases.longest(tests, 0) == testcases.longest(tests, 9) == tests
  assert testcases.longest(CALLS, 1) == CALLS[:1]


VALUES = st.recursive(
  st.none() | st.integers() | st.text(max_size=5),
  lambda v: (
    st.lists(v, max_size=3)
    | st.dictionaries(
      st.sampled_from(
        ["input", "output", "inputs", "outputs", "fn_name", "type"]
      ),
      v,
    )
  ),
)


@given(VALUES)
def test_any_value_gives_tests_that_the_verifier_takes_or_is_refused(value):
  try:
    tests, name = testcases.read(value, "tests")
  except (schema.BadRow, schema.LeftOut):
    return
  code.check_tests(tests, name)


def test_a_problem_says_what_is_asked_for():
  calls = {"inputs": [[1]], "outputs": [1], "fn_name": "f"}
  starter = "class Solution:\n  def f(self, x):\n"
  made = programs.problem(
    "Add.", calls, "tests", starter=starter, solutions='["def f(x): ..."]'
  )
  assert made.meta == {"entry_point": "f"}
  assert made.asks["how"] == "The tests call f of the class Solution."
  assert made.question.endswith(f"```python\n{starter.rstrip()}\n```")
  assert made.demonstrations == ("```python\ndef f(x): ...\n```",)
  plain = programs.problem("Add.", STDIN, "tests", solutions="not JSON")
  assert plain.question == "Add." and plain.meta == {}
  assert "standard input" in plain.asks["how"]
  assert plain.demonstrations == ()
  fenced = programs.problem("", STDIN, "t", solutions=["```python\n1\n```"])
  assert fenced.demonstrations == ("```python\n1\n```",)
