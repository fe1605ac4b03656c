import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import choice
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards.score import Score
from progrpo_jax.tasks import base

CITIES = ["Rome", "Oslo", "Paris", "Bern"]
RIGHT = Score(1.0, True, "ok")
WRONG = Score(0.0, False, "ok")
ORDER = [0, 3, 2, 1]
NONE = Score(0.0, False, "no_answer")
SEVERAL = Score(0.0, False, "several_answers")


@pytest.mark.parametrize(
  "completion",
  [
    r"\boxed{C}",
    r"\boxed{(C)}",
    r"\boxed{\text{C}}",
    r"\boxed{\textbf{(C)}}",
    r"\boxed{C.}",
    r"\boxed{c}",
    r"$\boxed{\mathrm{C}}$",
    r"\fbox{C}",
    r"\boxed{C} and again \boxed{(C)}",
    "<answer>C</answer>",
    "<answer>\n(C)\n</answer>",
    "The answer is C.",
    "The answer is (C).",
    "The correct answer is option C",
    "Answer: C",
    "**Answer:** C",
    "the answer is **C**",
    "Final answer: C",
    "Answer: C. It lies in France.",
    "The answer is (C) because it lies in France.",
    "C",
    "(C)",
    "C.",
    "**C**",
    "[C]",
    "It lies in France.\n\nC\n",
    "It lies in France.\n**(C)**",
    r"\boxed{\text{Option C}}",
    "The answer is $\\text{C}$",
    "The answer is A? No. \\boxed{C}",
    # Presentation.
    r"\boxed{\color{red}{C}}",
    r"\boxed{\color{red} C}",
    r"\boxed{\textcolor{blue}{C}}",
    r"\boxed{\textcolor{blue}{\textbf{(C)}}}",
    r"\boxed{\colorbox{yellow}{C}}",
    r"\boxed{\boxed{C}}",
    r"\boxed{\fbox{C}}",
    r"\boxed{\text{\textbf{C}}}",
    r"\boxed{\mathbf{\text{C}}}",
    r"\boxed{\text{Option \textbf{C}}}",
    r"\boxed{C✓}",
    r"\boxed{C \checkmark}",
    r"\boxed{\Huge C}",
    r"\boxed{\huge{C}}",
    "<answer>✅ C</answer>",
    "**Answer:** C ✅",
    "The answer is **C** ✓.",
    "It lies in France.\n✅ **C**",
  ],
)
def test_letters(completion):
  assert choice.score(completion, "C", options=CITIES) == RIGHT
  assert choice.score(completion, "C") == RIGHT
  assert choice.score(completion, "B", options=CITIES) == WRONG


@pytest.mark.parametrize(
  "completion",
  [
    r"\boxed{Paris}",
    r"\boxed{\text{Paris}}",
    r"\boxed{paris}",
    "<answer>Paris</answer>",
    "The answer is Paris.",
    "Answer: Paris",
    r"\boxed{C. Paris}",
    r"\boxed{(C) Paris}",
    "C) Paris",
    "(C) Paris",
    r"\boxed{\textbf{(C) } Paris}",
    "The answer is (C) Paris.",
  ],
)
def test_text_of_the_option(completion):
  assert choice.score(completion, "C", options=CITIES) == RIGHT
  assert choice.score(completion, "A", options=CITIES) == WRONG


@pytest.mark.parametrize(
  ("completion", "score"),
  [
    ("", NONE),
    ("Paris is nice", NONE),
    (r"\boxed{\color{red}{A}\color{blue}{C}}", WRONG),
    (r"\boxed{\boxed{A} \boxed{C}}", WRONG),
    (r"\boxed{A✓C}", WRONG),
    (r"\boxed{\text{\textbf{C}at}}", WRONG),
    ("It lies there.\n✅ a cat", NONE),
    (", ".join(r"\boxed{C}" for _ in range(20)), RIGHT),
    (", ".join(rf"\boxed{{C{'.' * i}}}" for i in range(20)), SEVERAL),
    ("I think a cat", NONE),
    (r"\boxed{}", NONE),
    (r"\boxed{C", NONE),
    ("A cat. C is nice", NONE),
    ("a", NONE),
    ("CC", NONE),
    ("It is C or so", NONE),
    ("The answer", NONE),
    (r"\boxed{D}", WRONG),
    (r"\boxed{Z}", WRONG),
    (r"\boxed{CA}", WRONG),
    (r"\boxed{Berlin}", WRONG),
    (r"\boxed{3}", WRONG),
    ("D", WRONG),
    (r"\boxed{Not C}", WRONG),
    (r"\boxed{ABCD}", WRONG),
    (r"\boxed{A} \boxed{C}", SEVERAL),
    (r"\boxed{A, C}", SEVERAL),
    (r"\boxed{A or C}", SEVERAL),
    (r"\boxed{A and C}", SEVERAL),
    (r"\boxed{A,B,C,D}", SEVERAL),
    (r"\boxed{(A)(C)}", WRONG),
    ("The answer is A. The answer is C.", SEVERAL),
    ("<answer>A</answer><answer>C</answer>", SEVERAL),
    (r"\boxed{C. Rome}", SEVERAL),
    (r"\boxed{C}\boxed{Rome}", SEVERAL),
  ],
)
def test_what_is_not_right(completion, score):
  assert choice.score(completion, "C", options=CITIES) == score


FOURTEEN = [f"city{letter}" for letter in "abcdefghijklmn"]
NUMBERS = ["1", "2", "3", "4", "5"]
WORMS = ["E. coli", "C. elegans", "yeast"]
BOTH = ["x", "y", "z", "Both A and B"]


# Each rule with the nearest text that it must not take for an answer. "" is
# no option, "AB" both of them.
@pytest.mark.parametrize(
  ("options", "chosen"),
  [
    # A letter with its option's text behind it, or before it.
    (
      CITIES,
      {
        "The answer is B (Oslo).": "B",
        "Answer: B - Oslo": "B",
        r"\boxed{B, Oslo}": "B",
        "Answer: B – Oslo": "B",
        "Answer: B—Oslo": "B",
        "answer: B) Oslo": "B",
        "The correct answer is: **B. Oslo**": "B",
        r"$$\boxed{\mathbf{(B)}\ \text{Oslo}}$$": "B",
        "Answer: B = Oslo": "B",
        r"\boxed{B\text{: Oslo}}": "B",
        r"\boxed{B \quad Oslo}": "B",
        "<answer>B: Oslo</answer>": "B",
        "Answer: Oslo (B)": "B",
        "The answer is (b) Oslo": "B",
        "B-Oslo": "B",
        "Option B: Oslo": "B",
        "The answer is B-cell": "",
        "The answer is C++": "",
        "Answer: B^2": "",
        "Answer: B → Oslo": "B",
        "Answer: B -> Oslo": "B",
        r"\boxed{B \Rightarrow Oslo}": "B",
        "(B) => Oslo": "B",
        "Answer: B → A": "AB",
        "Answer: B → Rome": "AB",
        "Answer: B → 5": "",
        "Answer: B = 5": "",
        "Answer: B Norway": "",
        "B 5": "",
      },
    ),
    # Behind a letter, the text of another option says that option too.
    (
      CITIES,
      {
        "The answer is B, Rome": "AB",
        "Answer: B. Rome": "AB",
        "Answer: Rome (B)": "AB",
        "Answer: B (A)": "AB",
        "Answer: B (Rome), since it is old": "AB",
        "Answer: B. Rome is older": "B",
        "Answer: C. B is wrong.": "C",
      },
    ),
    (
      NUMBERS,
      {
        r"\boxed{\text{Option E}: 5}": "E",
        r"\boxed{\text{Option E}: 4}": "DE",
        "Answer: E. 5.0": "E",
        "Answer: E. 7": "E",
        "Answer: 7": "",
      },
    ),
    # The text of one option, alone.
    (
      CITIES,
      {
        "It is cold.\nOslo": "B",
        "The answer is Oslo": "B",
        "Answer: the Oslo": "B",
        "Answer: Oslo or Rome": "AB",
        "The answer is Oslo, the capital of Norway": "B",
        "The answer is Oslo since it is cold": "B",
        "Oslo is cold": "",
        "The answer is Oslo Airport": "",
        "Not Oslo": "",
      },
    ),
    (
      WORMS,
      {
        "The answer is C. elegans": "B",
        "The answer is E. coli": "A",
        "The answer is C. A worm": "C",
        "Answer: C": "C",
      },
    ),
    (BOTH, {"The answer is both A and B": "D", "Answer: A and B": "AB"}),
    # Styles and brackets around a letter.
    (
      CITIES,
      {
        "(B)": "B",
        "**B**": "B",
        "B.": "B",
        "Option B": "B",
        "[B]": "B",
        r"\boxed{\text{(B)}}": "B",
        r"\boxed{\mathbf{B}}": "B",
        r"\boxed{\textbf{B}}": "B",
        "The answer is $B$.": "B",
        'Answer: "B"': "B",
        "Answer: 'B'": "B",
        r"\boxed{\alpha}": "",
      },
    ),
    # Words in front of it, and sentences that say an answer.
    (
      CITIES,
      {
        "The correct option is C": "C",
        "The best choice is (C) as": "C",
        "I choose B": "B",
        "I'd go with (C).": "C",
        r"\boxed{\text{The correct option is C}}": "C",
        "#### C": "C",
        "Selected option: C": "C",
        "The answer is that C is correct": "C",
        "The answer is right": "",
        "#### Chapter C": "",
        "The answer was B": "B",
        "The answer to the question is B.": "B",
        "Answer:\n\nB": "B",
        "**Answer**\n\nB": "B",
        "## Answer\nB": "B",
        "My final choice: B": "B",
        "The answer is likely B": "B",
        "I think B": "B",
        "Answer (B)": "B",
        "Option B is correct.": "B",
        "It must be B": "B",
        "So (B) is the correct answer, as Oslo is cold.": "B",
        "The answer is B\n\nBecause A is in Italy.": "B",
        "The option that fits is B.": "B",
        "The option that best matches the description is (B).": "B",
        "The statement which is true is B": "B",
        "The one that satisfies both is B": "B",
        "The correct statement is B.": "B",
        "The right one is B": "B",
        "The option that fits is not B": "",
        "The option that fits": "",
        "The option that does not fit is B.": "",
        "The option that fits the least number of facts is B.": "",
        "The option I would drop is B.": "",
        "It is cold.\n#### B": "B",
        "Option B is wrong.": "",
        "Neither A nor B is the correct answer": "",
        "If B is the correct answer we are lost": "",
        "Which option is B": "",
        "Is B the correct answer? Hm": "",
        "I choose a boat": "",
      },
    ),
    # Characters as in Chinese.
    (
      CITIES,
      {
        "答案：B": "B",
        "选项B": "B",
        "答案是B。": "B",
        "故选：B．": "B",
        "正确答案为（B）": "B",
        "因此，选B。": "B",
        "Ｂ": "B",
        "Answer：Ｂ": "B",
        "答案：Ａ、Ｂ": "AB",
        "Answer：B： Oslo": "B",
        "选项B是错误的": "",
        "选B": "B",
        "选（B）。": "B",
        "本题选B。": "B",
        "不选A，选B": "B",
        "不选B": "",
        "如果选B，就错了": "",
        "选B错误": "",
        "选出B": "",
        "答案：挪威": "",
      },
    ),
    # One after the other is judged, the right one last.
    (
      CITIES,
      {
        "B is incorrect, C is correct": "C",
        "B is wrong. C is right.": "C",
        "Option A is not correct, so (C) is the correct answer.": "C",
        "A is false and B is false, but C is true": "C",
        r"\boxed{\text{B is incorrect, C is correct}}": "C",
        "Answer: B isn't right; only C is correct.": "C",
        "So A is wrong, and thus C is correct.": "C",
        "**A** is wrong, **C** is correct": "C",
        "A错误，C正确": "C",
        "选项A不正确，选项C正确。": "C",
        "A is wrong, B and C are right": "BC",
        "A is wrong, B is right, C is right": "BC",
        # Of a question for what is wrong this might say B.
        "C is correct, B is incorrect": "",
        "C正确，B错误": "",
        "B is incorrect": "",
        "B is incorrect, C is incorrect": "",
        "B is incorrect, C is correct in part": "",
        "If B is incorrect, C is correct": "",
        "Is C correct?": "",
        "It is not so that B is incorrect, C is correct": "",
        "B is incorrect, C is not correct": "",
        "C is wrong, C is right": "",
      },
    ),
    # An earlier sentence that speaks of an answer.
    (
      CITIES,
      {
        "The answer must be a city in Norway.\nThe answer is B.": "B",
        "The answer is a capital. So the answer is B.": "B",
        "We ask which answer is right. Final answer: B": "B",
        "The answer is A. So the answer is C.": "C",
        r"First \boxed{A}. But that fails, so \boxed{B}": "B",
        "The answer is A. The answer is C.": "AC",
        "The answer is A or the answer is C.": "AC",
      },
    ),
    # Second thoughts.
    (
      CITIES,
      {
        "B? No, C": "C",
        "Answer: B? No, C": "C",
        r"\boxed{B? No, C}": "C",
        "The answer is B? No, it is C.": "C",
        "A? No, B? No, C.": "C",
        "Answer: B, no, actually C": "C",
        "A? No, B? Wait, no: C": "C",
        "The answer is B. Wait, the answer is C.": "C",
        "Not A but B": "B",
        "The correct answer is not A but B": "B",
        "Answer: B, not A": "B",
        "The answer isn't A, but B.": "B",
        "The answer is B rather than A": "B",
        "I first thought A, but the answer is B": "B",
        "The answer is not A. The answer is B.": "B",
        "The answer is B, no doubt": "B",
        "The answer is B? No.": "",
        "The answer is B. Actually, it follows at once.": "B",
        "The answer is not B": "",
        "Answer: B, not because of A": "B",
      },
    ),
    # Several.
    (
      CITIES,
      {
        "Answer: A or B": "AB",
        "Answer: A and B": "AB",
        "Answer: A/B": "AB",
        "Answer: either A or B": "AB",
        "Answer: (A) and (C)": "AC",
        "Answer: A, or Oslo": "AB",
        "Answer: B or so": "",
      },
    ),
    # Letters that are words, small letters, and letters without an option.
    (
      CITIES,
      {
        "The answer is A cat": "",
        "Answer: a cat": "",
        "A cat": "",
        "b": "",
        "answer: b": "B",
        r"\boxed{b}": "B",
        "(b)": "B",
        "Answer: I": "",
        "I think": "",
        "I": "",
        "Answer: C. A reason is its size": "C",
      },
    ),
    (
      FOURTEEN,
      {
        "Answer: K": "K",
        "Answer: N) cityn": "N",
        "The answer is I.": "I",
        "I think it is a dog": "",
        "Answer: O": "",
      },
    ),
    # A last sentence that points to an option without calling it the answer.
    (
      CITIES,
      {
        "So it is Paris, which corresponds to option C.": "C",
        "It lies in France.\n\nWe get answer choice C.": "C",
        "This matches option **(C)**.": "C",
        "That matches option B.\n\nThis matches option C.": "",
        "This does not match option C.": "",
        "not option C": "",
        "It is not the city that matches option C.": "",
        "If so, it matches option C.": "",
        "A wrong sign gives option C.": "",
        "Either it matches option B or it matches option C.": "",
        "Oslo is B, and this matches option C.": "",
        "This matches option C or D.": "",
        "This matches option C?": "",
        "This matches option C. But is it in France?": "",
        "This matches option C, but B is right.": "",
        "This matches option C. The answer is B.": "B",
        "The answer is B. This matches option C.": "B",
        "This matches option Z.": "",
      },
    ),
    # A placeholder that was filled in with its brackets.
    (
      CITIES,
      {
        "Answer: <C>": "C",
        "The answer is <C>.": "C",
        "Answer: <B> or <C>": "BC",
        "Answer: <B>C</B>": "",
        "Answer: a < C": "",
        "C>": "",
      },
    ),
    (
      None,
      {
        "The correct option is J.": "J",
        "Answer: K": "",
        "答案：B": "B",
        r"\boxed{\text{Option E}: 5}": "E",
        "B? No, C": "C",
      },
    ),
  ],
)
def test_rules_and_what_they_must_not_take(options, chosen):
  named = choice.by_letter(options)
  read = {
    text: "".join(sorted(choice.find(text, named) - {"?"})) for text in chosen
  }
  assert read == chosen


@pytest.mark.parametrize(
  "text",
  [
    "Answer: " + "A, " * 9000,
    r"\boxed{" + "A," * 300 + "}",
    "A? No, " * 5000,
    "The answer is " * 5000,
    "answer" + " " * 20000,
    "**" * 10000 + "B",
    "\n> " * 9000 + "Answer",
    r"\boxed{" + r"\text{" * 90 + "}" * 91,
    "答案" * 9000,
    "This matches option C. " * 5000,
    "matches " * 20000 + "option C",
    "answer to " * 2000,
    r"\boxed{5} " * 60_000,
    ", ".join(rf"\boxed{{{i}}}" for i in range(9000)),
    "<answer>" * 60_000,
  ],
)
def test_long_texts_are_read(text):
  choice.find(text, choice.by_letter(CITIES))


def test_marks_that_repeat_are_read_once(monkeypatch):
  read = []
  monkeypatch.setattr(choice, "_chosen", lambda text, _: read.append(text))
  choice.find(r"\boxed{5} " * 4000, {})
  assert read == ["5"]
  choice.find(", ".join(rf"\boxed{{{i}}}" for i in range(4000)), {})
  assert len(read) < 20


@pytest.mark.parametrize(
  ("completion", "letter"),
  [
    (r"\boxed{C}", "C"),
    ("<answer>(C)</answer>", "C"),
    ("The answer is C.", "C"),
    ("C", "C"),
    (r"\boxed{\text{C}}", "C"),
    (r"\boxed{A}", "A"),
    (r"\boxed{B}", "B"),
    # What is no capital is the text of the option that is written so.
    (r"\boxed{c}", "A"),
    (r"\boxed{d}", "D"),
    (r"\boxed{3 c}", "C"),
  ],
)
def test_a_capital_is_a_letter_before_it_is_a_text(completion, letter):
  options = ["c", "b + 1", "3 c", "B"]
  for each in "ABCD":
    assert choice.score(completion, each, options=options) == (
      RIGHT if each == letter else WRONG
    )


def test_equal_options_have_no_text():
  twice = ["1/2", "0.5", "2", "3"]
  assert choice.score(r"\boxed{0.5}", "A", options=twice) == WRONG
  assert choice.score(r"\boxed{A}", "A", options=twice) == RIGHT
  assert choice.score(r"\boxed{2.0}", "C", options=twice) == RIGHT


def test_numbers_and_formulas_as_options():
  options = {"A": r"$\frac{1}{2}$", "B": "2 m/s", "C": "1,000", "D": "$x^2$"}
  for letter, text in [("A", "0.5"), ("B", "2"), ("C", "1000"), ("D", "x^{2}")]:
    assert choice.score(rf"\boxed{{{text}}}", letter, options=options) == RIGHT


@pytest.mark.parametrize(
  ("reference", "completion", "right"),
  [
    ("2.5 m/s", r"\boxed{2.5}", True),
    ("2.5 m/s", r"\boxed{2.4}", False),
    ("sodium chloride", r"\boxed{\text{Sodium chloride}}", True),
    ("sodium chloride", r"\boxed{potassium}", False),
    ("42", "The answer is 42.", True),
    ("42", r"\boxed{41}", False),
    (r"1.6\times10^{-19}", r"\boxed{1.6e-19\text{ C}}", True),
  ],
)
def test_short_answers(reference, completion, right):
  assert choice.score(completion, reference).correct is right


def test_short_answers_may_have_a_tolerance():
  assert not choice.score(r"\boxed{9.8}", "9.81").correct
  assert choice.score(r"\boxed{9.8}", "9.81", tolerance=0.01).correct


@pytest.mark.parametrize(
  ("reference", "options", "words"),
  [
    ("E", CITIES, "'E' is none of the options A, B, C, D"),
    ("Berlin", CITIES, "'Berlin' is none"),
    (2, CITIES, "'2' is none"),
    (None, CITIES, "'None' is none"),
    ("", CITIES, "'' is none"),
    ("A", ["Rome"], "2 to 26 options"),
    ("A", [], "2 to 26 options"),
    ("A", ["Rome", ""], "option B is not a text"),
    ("A", ["Rome", 3], "option B is not a text"),
    ("A", "Rome", "are a str"),
    ("A", {"AA": "Rome", "B": "Oslo"}, "may not be 'AA'"),
    ("A", {"A": "Rome", "a": "Oslo"}, "different letters"),
    ("", None, "holds no answer"),
    (None, None, "is a NoneType"),
  ],
)
def test_bad_reference_is_refused(reference, options, words):
  with pytest.raises(InputError, match=words):
    choice.check_reference(reference, options)
  score = choice.score(r"\boxed{A}", reference, options=options)
  assert score == Score(0.0, False, "refused")


@pytest.mark.parametrize(
  ("between", "expected"),
  [
    ("\nWait. Rome is in Italy, and Norway is asked for.\n", RIGHT),
    (" I thought more. ", RIGHT),
    (" ", SEVERAL),
    ("\n\n", SEVERAL),
  ],
)
def test_who_corrects_an_answer_has_one(between, expected):
  text = f"The final answer is A.{between}The final answer is B."
  assert choice.score(text, "B", options=["Rome", "Oslo"]) == expected


def test_reference_may_be_written_in_several_ways():
  for reference in ("C", "c", "(C)", "C.", "Paris", "paris"):
    assert choice.check_reference(reference, CITIES)[0] == "C"
  assert choice.check_reference("C")[0] == "C"
  assert choice.check_reference("Paris")[0] == ""


def test_runs_in_the_pool():
  item = pools.Item(
    "progrpo_jax.rewards.choice:score",
    r"\boxed{Paris}",
    "C",
    {"options": CITIES},
  )
  with pools.Pool(workers=1, deadline_s=30.0) as pool:
    assert pool.score([item]) == [RIGHT]


def test_canonical():
  row = base.Row("file", "", "C", {"options": CITIES})
  texts = [r"\boxed{C}", "The answer is (C).", r"\boxed{Paris}", "C"]
  assert {choice.canonical(t, row) for t in texts} == {"C"}
  assert choice.canonical(r"\boxed{A}", row) == "A"
  assert choice.canonical("nothing", row) == "nothing"
  short = base.Row("file", "", "0.5", {})
  assert choice.canonical(r"\boxed{\frac12}", short) == "1/2"


def test_shuffle_depends_on_seed_and_row_alone():
  # Worked out once; another machine must find the same.
  assert choice.order(4, 0, "q1") == ORDER
  assert choice.shuffle(CITIES, 0, "q1") == [CITIES[i] for i in ORDER]
  code = "from progrpo_jax.rewards import choice; print(choice.order(4,0,'q1'))"
  for hash_seed in "12":
    found = subprocess.run(
      [sys.executable, "-c", code],
      check=True,
      capture_output=True,
      text=True,
      env={
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": ":".join(p for p in sys.path if p),
      },
    )
    assert found.stdout.strip() == str(ORDER)


def test_shuffles_are_spread_evenly():
  first = [choice.order(4, 7, row)[0] for row in range(4000)]
  assert all(850 < first.count(i) < 1150 for i in range(4))
  assert any(choice.order(4, 1, r) != choice.order(4, 2, r) for r in range(9))


@settings(max_examples=100, deadline=None)
@given(
  st.lists(st.text(max_size=5), min_size=2, max_size=10),
  st.integers(),
  st.integers(),
)
def test_shuffle_keeps_the_options(options, seed, row):
  shuffled = choice.shuffle(options, seed, row)
  assert sorted(shuffled) == sorted(options)
  order = choice.order(len(options), seed, row)
  for i, option in enumerate(options):
    assert shuffled[order.index(i)] == option


@settings(max_examples=300, deadline=None)
@given(
  st.one_of(
    st.text(max_size=60),
    st.lists(
      st.sampled_from(
        [
          r"\boxed{",
          "}",
          "A",
          "B",
          "(",
          ")",
          "answer is ",
          ",",
          " and ",
          ".",
          "\n",
          "Paris",
          "**",
          "<answer>",
          "</answer>",
          "$",
          "{",
          r"\text{",
          "^",
        ]
      ),
      max_size=12,
    ).map("".join),
  )
)
def test_no_text_raises(text):
  score = choice.score(text, "C", options=CITIES)
  assert score.status in ("ok", "no_answer", "several_answers")
  assert (
    choice.score(
      text + r"\boxed{C}" + text.replace("boxed", ""), "C", options=CITIES
    ).status
    != "no_answer"
  )
