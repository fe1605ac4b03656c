import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import answers


@pytest.mark.parametrize(
  ("text", "found"),
  [
    (r"\boxed{5}", ["5"]),
    (r"\boxed{\frac{1}{2}} or \fbox{0.5}", [r"\frac{1}{2}", "0.5"]),
    (r"\boxed{\{1,2\}}", [r"\{1,2\}"]),
    (r"\boxed{\left\{x : x > 0\right\}}", [r"\left\{x : x > 0\right\}"]),
    (r"\boxed {5}", ["5"]),
    (r"\\boxed{5}", ["5"]),
    (r"$\boxed 5$.", ["5"]),
    (r"\boxed{a \boxed{b} c}", [r"a \boxed{b} c"]),
    (r"\boxed{a \boxed{b}", ["b"]),
    (r"\boxed{a", []),
    (r"} \boxed{5} {", ["5"]),
    (
      r"\boxed{\begin{pmatrix}1\\{2}\end{pmatrix}}",
      [r"\begin{pmatrix}1\\{2}\end{pmatrix}"],
    ),
    (r"\boxed{}", [""]),
    ("boxed{5}", []),
    (r"\boxedx{5}", []),
  ],
)
def test_boxed(text, found):
  assert answers.boxed(text) == found


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("The answer is 5.", ["5"]),
    ("the final answer is $x^2$.", ["x^2"]),
    ("So the answer is **Paris**.", ["Paris"]),
    ("Answer: 3.14", ["3.14"]),
    ("**Answer:** 3", ["3"]),
    ("Final Answer: The final answer is $7$. I hope it is correct.", ["7"]),
    ("Final Answer: The largest $n$ is 34.", ["34"]),
    ("The answer is 5 because 2 + 3 = 5.", ["5"]),
    ("The answer is:\n5", ["5"]),
    ("The answer is $1,000 to $2,000", ["$1,000 to $2,000"]),
    (r"The answer is \(3\)%.", [r"3\%"]),
    ("The answer is found by adding up all that there is", []),
    ("The answer is 1. The answer is 2.", ["1", "2"]),
    ("The correct answer is (C) Paris", ["(C) Paris"]),
    ("There is no answer", []),
    ("the answer", []),
  ],
)
def test_sentences(text, found):
  assert answers.sentences(text) == found


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("so $x = 5$", ["x = 5"]),
    ("so $x = 5$.", ["x = 5"]),
    (r"so \(5\)", ["5"]),
    (r"so \[ 5 \]", [" 5 "]),
    ("$$5$$", ["5"]),
    ("$$\n5\n$$\n", ["\n5\n"]),
    ("$5$ and $6$", ["6"]),
    ("$5$ is it", []),
    ("$5", []),
    ("5", []),
    (r"\$5\$", []),
  ],
)
def test_formulas(text, found):
  assert answers.formulas(text) == found


def test_hashed_and_tagged():
  assert answers.hashed("a\n#### 1\nb\n#### 2") == ["2"]
  assert answers.hashed("a #### 1") == []
  assert answers.tagged("<answer>1</answer><answer>\n2 </answer>") == ["1", "2"]
  assert answers.tagged("<answer>1 <answer>2</answer>") == ["2"]
  assert answers.tagged("<answer>1") == []


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("#### Step 3: conclude\nSo it is 42.\n\n**Answer: 42**", ["42"]),
    ("#### Final Answer\n42", ["42"]),
    ("#### Solution\nThe answer is $42$.", ["42"]),
    ("#### 1. Add\nThe answer is 42.", ["42"]),
    ("#### 2 Results\nThe answer is 42.", ["42"]),
    ("#### 3.1 Results\nThe answer is 42.", ["42"]),
    ("#### (a)\nThe answer is 42.", ["42"]),
    ("#### Case x = 3\nThe answer is 42.", ["42"]),
    ("#### $n = 3$: the base case\nThe answer is 42.", ["42"]),
    ("#### Step-by-step solution\nThe answer is 42.", ["42"]),
    ("#### 42\n#### Remark\nThe answer is 41.", ["42"]),
    ("#### 42\nI hope that helps.", ["42"]),
    ("#### 42 dollars per day\nDone.", ["42 dollars per day"]),
    ("#### **42**\nDone.", ["**42**"]),
    ("#### $42$\nDone.", ["$42$"]),
    ("#### (1, 2)\nDone.", ["(1, 2)"]),
    ("#### x + 1\nDone.", ["x + 1"]),
    ("#### x = 5\nDone.", ["x = 5"]),
    ("#### Evelyn\n", ["Evelyn"]),
    ("#### Evelyn\n```", ["Evelyn"]),
    ("#### Conclusion\nWe are done.", []),
    ("#### Step 42\nWe are done.", []),
  ],
)
def test_headings_are_no_marks(text, found):
  assert answers.find(text) == found


def test_the_strongest_form_counts():
  text = "The answer is 1.\n#### 2\n<answer>3</answer>\n\\boxed{4} $5$"
  for forms, found in [
    (answers.FORMS, ["4"]),
    (("tag", "hash"), ["3"]),
    (("hash",), ["2"]),
    (("sentence",), ["1"]),
    (("formula",), ["5"]),
    (("whole",), []),
  ]:
    assert answers.find(text, forms) == found
  assert answers.find(r"\boxed{} The answer is 1.") == ["1"]
  assert answers.find("5") == []
  assert answers.find(" 5\n", ("whole",)) == ["5"]


def test_unknown_form():
  for forms in (("box",), "box"):
    with pytest.raises(InputError, match="no form of an answer 'box'"):
      answers.find("", forms)
  with pytest.raises(InputError, match="empty"):
    answers.find("", ())


@pytest.mark.parametrize(
  ("text", "found"),
  [
    (r"\boxed{\phantom{2}} ... \boxed{4}", ["4"]),
    (r"\boxed{\hphantom{\frac{1}{2}}\,}", []),
    (r"\boxed{\quad} \boxed{ ~\ \qquad.}", []),
    (r"\boxed{\phantom{2}3}", [r"\phantom{2}3"]),
    (r"\boxed{\phantom{2}", []),
  ],
)
def test_boxes_to_be_filled_in_are_no_answers(text, found):
  assert answers.find(text) == found
