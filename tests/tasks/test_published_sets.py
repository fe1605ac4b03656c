"""Each published set, from a few rows in the form in which it is published."""

import base64
import json
import pickle
import zlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import math as math_verifier
from progrpo_jax.rewards import serving
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema

NAMES = [name for name in base.names() if hasattr(base.resolve(name), "SET")]
DAPO = (
  "Solve the following math problem step by step. The last line of your "
  "response should be of the form Answer: $Answer (without quotes) where "
  "$Answer is the answer to the problem.\n\n{}\n\nRemember to put your "
  'answer on its own line after "Answer:".'
)
EURUS = (
  "{}\n\nWrite Python code to solve the problem. Present the code in \n"
  "```python\nYour code\n```\nat the end."
)
IO = json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
ADD = "a, b = map(int, input().split())\nprint(a + b)"
FUNCTION = json.dumps({"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]})


def chat(text):
  return [
    {"role": "system", "content": "Think."},
    {"role": "user", "content": text},
  ]


def math(**more):
  return [
    {"problem": f"What is {i} + 1?", "answer": str(i + 1), **more}
    for i in range(4)
  ]


def eurus(source, question, ground_truth, ability="code"):
  return {
    "data_source": source,
    "prompt": chat(EURUS.format(question)),
    "ability": ability,
    "extra_info": {"split": "train", "index": 0},
    "reward_model": {"style": "rule", "ground_truth": ground_truth},
  }


def private(cases):
  packed = zlib.compress(pickle.dumps(json.dumps(cases)))
  return base64.b64encode(packed).decode()


def lcb(i, cases, date="2024-09-01T00:00:00", **more):
  return {
    "question_title": "t",
    "question_content": f"Problem {i}: do it.",
    "platform": "leetcode",
    "question_id": str(i),
    "contest_id": "c",
    "contest_date": date,
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps(cases),
    "private_test_cases": private(cases),
    "metadata": "{}",
    **more,
  }


def human(test, name="add"):
  return {
    "task_id": f"HumanEval/{name}",
    "prompt": f'def {name}(a, b):\n    """Adds {name}."""\n',
    "canonical_solution": "    return a + b\n",
    "entry_point": name,
    "test": test,
  }


HUMAN = """
import numpy as np

def assertion(out, exp, atol):
    assert out == exp

def check(candidate):
    inputs = [[1, 2], ['a', 'b'], [(1,), (2,)]]
    results = [3, 'ab', (1, 2)]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""

# Solutions of MATH with two boxes: of several answers, and of one twice.
SEVERAL = [
  {
    "problem": f"Corners {i}?",
    "level": "Level 2",
    "type": "Algebra",
    "solution": rf"Either \boxed{{{one}}} or \boxed{{{other}}}.",
  }
  for i, (one, other) in enumerate(
    [("(1,2)", "(2,1)"), (r"\frac{3}{2}", r"1\frac12")]
  )
]

# Set -> files -> rows, as they are published.
FILES = {
  "gsm8k": {
    "main/train-00000-of-00001.parquet": [
      {"question": f"Ann has {i} apples.", "answer": f"So.\n#### 1,{i}00"}
      for i in range(4)
    ],
    "main/test-00000-of-00001.parquet": [
      {"question": "Bob has a pear.", "answer": "One.\n#### 1"}
    ],
  },
  "hendrycks_math": {
    f"{subject}/{split}-00000-of-00001.parquet": [
      {
        "problem": f"{split} {subject} {i}",
        "level": f"Level {i}",
        "type": subject,
        "solution": f"So \\boxed{{\\frac{{{i}}}{{7}}}}.",
      }
      for i in (1, 5)
    ]
    + several * (split == "test")
    for subject, several in zip(
      base.resolve("hendrycks_math").SUBJECTS, [SEVERAL] + 6 * [[]]
    )
    for split in ("train", "test")
  },
  "deepscaler": {
    "deepscaler.json": [
      {
        "problem": f"What is {i} + 1?",
        "answer": str(i + 1),
        "solution": f"It is \\boxed{{{i + 1}}}.",
      }
      for i in range(200)
    ]
  },
  "dapo_math_17k": {
    "data/dapo-math-17k.parquet": [
      {
        "data_source": "math_dapo",
        "ability": "MATH",
        "prompt": [
          {"content": DAPO.format(f"Find {i}.\nNow."), "role": "user"}
        ],
        "reward_model": {"ground_truth": str(i), "style": "rule-lighteval"},
        "extra_info": {"index": "x"},
      }
      for i in range(200)
    ]
    * 3
  },
  "aime24": {
    "data/train-00000-of-00001.parquet": math(
      id=60, solution="s", url="u", year="2024"
    )
  },
  "aime25": {
    "aime2025-I.jsonl": [{"question": "One?", "answer": "70"}],
    "aime2025-II.jsonl": [{"question": "Two?", "answer": "468"}],
  },
  "amc23": {
    "test-00000-of-00001.parquet": [
      {"id": 0, "question": "How far?", "answer": 27.0, "url": "u"}
    ]
  },
  "math500": {
    "test.jsonl": math(solution="s", subject="Algebra", level=2, unique_id="u")
  },
  "minerva_math": {
    "test.jsonl": [
      {"question": "How wide?", "answer": "16"},
      {"problem": "How deep?", "solution": "So $\\boxed{1.5e3}$", "idx": 3},
    ]
  },
  "olympiad_bench": {
    "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet": [
      {
        "id": 1,
        "question": "Let $T$ be.",
        "final_answer": ["$14$"],
        "is_multiple_answer": False,
        "modality": "Text-only",
        "error": None,
      },
      {
        "id": 2,
        "question": "Find all.",
        "final_answer": ["1", "$2$"],
        "is_multiple_answer": True,
        "modality": "Text-only",
      },
      {
        "id": 4,
        "question": "To a tenth.",
        "final_answer": ["$2.5$"],
        "is_multiple_answer": False,
        "modality": "Text-only",
        "error": "1e-1",
      },
      {
        "id": 3,
        "question": "See.",
        "final_answer": ["1"],
        "is_multiple_answer": False,
        "modality": "Multimodal",
      },
    ]
  },
  "eurus2_code": {
    "train.parquet": [
      eurus("taco", "Add two numbers.", IO),
      eurus("apps", "Write add.", FUNCTION),
      eurus("numina_olympiads", "Prove it.", "3", ability="math"),
    ],
    "validation.parquet": [
      eurus("codeforces", "Sum two numbers.", IO),
      eurus("apps", "Write total.", FUNCTION),
    ],
  },
  "deepcoder": {
    "primeintellect/train-00000-of-00002.parquet": [
      {
        "problem": "Add two numbers.",
        "solutions": [ADD],
        "tests": json.dumps(
          [{"type": "stdin_stdout", "input": "1 2", "output": "3"}] * 20
        ),
      }
    ],
    "primeintellect/train-00001-of-00002.parquet": [
      {
        "problem": "Write plus.",
        "solutions": [],
        "tests": json.dumps(
          [
            {
              "type": "function_call",
              "fn_name": "plus",
              "input": [1, 2],
              "output": [3],
            }
          ]
        ),
      }
    ],
    "taco/train-00000-of-00001.parquet": [
      {"problem": "Total two numbers.", "tests": IO, "solutions": [ADD]}
    ],
    "lcbv5/train-00000-of-00001.parquet": [
      {
        "problem": "Sum it.",
        "starter_code": "class Solution:\n  pass",
        "metadata": {"func_name": "sumUp"},
        "tests": json.dumps(
          [
            {
              "input": "[1,2]",
              "output": "3",
              "testtype": "functional",
              "metadata": {"func_name": "sumUp"},
            }
          ]
        ),
      }
    ],
    "codeforces/test-00000-of-00001.parquet": [
      {
        "problem": "Count.",
        "tests": json.dumps([{"input": "1", "output": "1"}]),
      }
    ],
    "lcbv5/test-00000-of-00001.parquet": [
      {
        "problem": "Measure.",
        "starter_code": "",
        "metadata": {"func_name": None},
        "tests": json.dumps(
          [{"input": "1", "output": "1", "testtype": "stdin", "metadata": {}}]
        ),
      }
    ],
  },
  "apps": {
    "train.jsonl": [
      {
        "id": 1,
        "question": "Add two numbers.",
        "input_output": IO,
        "solutions": json.dumps([ADD]),
        "starter_code": "",
        "difficulty": "interview",
        "url": "u",
      },
      {
        "id": 2,
        "question": "No tests.",
        "input_output": "",
        "solutions": "",
        "starter_code": "",
        "difficulty": "interview",
      },
    ],
    "test.jsonl": [
      {
        "id": 0,
        "question": "Write add.",
        "input_output": FUNCTION,
        "solutions": "",
        "starter_code": "def add(a, b):\n",
        "difficulty": "introductory",
        "url": "u",
      }
    ],
  },
  "taco": {
    "ALL/train-00000-of-00009.parquet": [
      {
        "question": "Add two numbers.",
        "input_output": IO,
        "solutions": json.dumps([ADD]),
        "starter_code": "",
        "difficulty": "EASY",
      }
    ],
    "ALL/test-00000-of-00001.parquet": [
      {
        "question": "Write add.",
        "input_output": FUNCTION,
        "solutions": "[]",
        "starter_code": "def add(a, b):\n",
        "difficulty": "HARD",
      }
    ],
  },
  "code_contests": {
    f"data/{split}-00000-of-00001-abc.parquet": [
      {
        "name": "n",
        "description": f"{split}: add two numbers.",
        "cf_rating": 800 * (split == "test"),
        "public_tests": {"input": ["1 2"], "output": ["3"]},
        "private_tests": {"input": ["3 4"], "output": ["7"]},
        "generated_tests": {"input": ["5 6"], "output": ["11"]},
        "solutions": {"language": [2, 3], "solution": ["int", ADD]},
      },
      {
        "name": "i",
        "description": f"{split}: see <image>",
        "cf_rating": 1500,
        "public_tests": {"input": ["1"], "output": ["1"]},
        "private_tests": {"input": [], "output": []},
        "generated_tests": {"input": [], "output": []},
        "solutions": {"language": [], "solution": []},
      },
    ]
    for split in ("train", "test")
  },
  "livecodebench": {
    name: [lcb(name, [{"input": "1 2", "output": "3", "testtype": "stdin"}])]
    for name in (
      "test.jsonl",
      "test2.jsonl",
      "test3.jsonl",
      "test4.jsonl",
      "test5.jsonl",
    )
  }
  | {
    "test6.jsonl": [
      lcb(
        6,
        [{"input": "1\n[2]", "output": "3", "testtype": "functional"}],
        date="2025-04-01T00:00:00",
        starter_code="class Solution:\n    def add(self, a, b):",
        metadata='{"func_name": "add"}',
      )
    ]
  },
  "humaneval_plus": {
    "data/test-00000-of-00001-5973903632b82d40.parquet": [
      human(HUMAN),
      human(HUMAN.replace("exp, 0)", "exp, 1e-06)"), "plus"),
      human(
        "def check(c):\n  inputs = [[1, 2]]\n  for i in inputs:\n"
        "    assertion(c(*i), ref_func(*i), 0)",
        "computed",
      ),
      human(HUMAN.replace("'ab'", "{1}"), "set_valued"),
      human(HUMAN.replace("'ab'", "float('nan')"), "called"),
    ]
  },
  "scp116k": {
    "data/train-00000-of-00001.parquet": [
      {
        "domain": "Physics",
        "problem": f"Problem {i} of physics.",
        "matched_solution": f"First.\nThen $\\boxed{{{i} m}}$",
        "is_o1_solution_same_with_matched_solution": i < 190,
      }
      for i in range(200)
    ]
    + [
      {
        "domain": "Biology",
        "problem": "Why?",
        "matched_solution": solution,
        "is_o1_solution_same_with_matched_solution": True,
      }
      for solution in (None, "A long way\nto say so.")
    ]
    + [
      {
        "domain": "Chemistry",
        "problem": "How much?",
        "matched_solution": "$42$.",
        "is_o1_solution_same_with_matched_solution": True,
      }
    ]
  },
  "gpqa": {
    "gpqa_diamond.csv": [
      {
        "Record ID": str(i),
        "Question": f"What is {i},\nexactly?",
        "Correct Answer": f"right {i}\n",
        "Incorrect Answer 1": "wrong a",
        "Incorrect Answer 2": "wrong, b",
        "Incorrect Answer 3": "wrong c",
        "High-level domain": "Physics",
      }
      for i in range(20)
    ]
  },
  "mmlu_pro": {
    "data/test-00000-of-00001.parquet": [
      {
        "question_id": i,
        "question": f"Which {i}?",
        "options": ["one", "N/A", "right", "two", "three", "four", "five"],
        "answer": "C",
        "answer_index": 2,
        "cot_content": "",
        "category": category,
        "src": "",
      }
      for i, category in enumerate(["physics", "law"] * 10)
    ]
  },
  "nemotron_instructions": {
    "RL/instruction_following/instruction_following.jsonl": [
      {
        "input": [{"role": "user", "content": f"Write poem {i}."}],
        "args": {
          "instruction_id_list": ["punctuation:no_comma"],
          "kwargs": [{}],
        },
      }
      for i in range(200)
    ]
    + [
      {
        "prompt": "Write a letter.",
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 9, "relation": "at least", "language": None}],
      },
      {
        "prompt": "Write.",
        "instruction_id_list": ["paragraphs:x"],
        "kwargs": [None],
      },
    ]
  },
  "ifeval": {
    "ifeval_input_data.jsonl": [
      {
        "key": 1000,
        "prompt": "Write a summary.",
        "instruction_id_list": [
          "punctuation:no_comma",
          "length_constraints:number_words",
        ],
        "kwargs": [
          {"num_words": None},
          {"num_words": 300, "relation": "at least"},
        ],
      }
    ]
  },
}

# Set -> rows of train and of validation, and the reasons for leaving out.
SIZES = {
  "gsm8k": (4, 1, set()),
  "hendrycks_math": (14, 15, {"its solution boxes several answers"}),
  "dapo_math_17k": (None, None, {"repeated question"}),
  "deepscaler": (None, None, set()),
  "aime24": (None, 4, set()),
  "aime25": (None, 2, set()),
  "amc23": (None, 1, set()),
  "math500": (None, 4, set()),
  "minerva_math": (None, 2, set()),
  "olympiad_bench": (None, 3, {"it has an image"}),
  "eurus2_code": (2, 2, {"not code"}),
  "deepcoder": (4, 2, set()),
  "apps": (1, 1, {"no test cases"}),
  "taco": (1, 1, set()),
  "code_contests": (1, 1, {"it has an image"}),
  "livecodebench": (None, 6, set()),
  "humaneval_plus": (
    None,
    2,
    {
      "its tests are not lists of inputs and results",
      "its tests have values that JSON does not have",
      "its tests are not literals",
    },
  ),
  "scp116k": (
    None,
    None,
    {"no ground truth", "no model agrees with the solution"},
  ),
  "gpqa": (None, 20, set()),
  "mmlu_pro": (None, 20, set()),
  "nemotron_instructions": (None, None, {"no check of 'paragraphs:x'"}),
  "ifeval": (None, 1, set()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where files and builds of this module lie."""
  return tmp_path_factory.mktemp("published")


@pytest.fixture
def load(folder, write):
  """A function (name, split, **options) -> all rows of a set."""

  def rows(name, split, where="data", **options):
    files = folder / "files" / name
    if not files.exists():
      for path, content in FILES[name].items():
        write(files / path, content)
    if "train" in base.resolve(name).SET.splits:
      options.setdefault("against", [])
    source = base.load(
      name,
      split,
      data_dir=str(folder / where),
      **{"seed": 0, "manual_dir": str(files), **options},
    )
    return [source[i] for i in range(len(source))]

  return rows


def test_every_set_is_tried_here():
  assert set(NAMES) == set(FILES) == set(SIZES)
  assert len(NAMES) == 22


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_twice_the_same(name, load):
  known = base.resolve(name).SET
  assert known.name == name and known.verifier == base.resolve(name).VERIFIER
  for split in known.splits:
    first = load(name, split)
    assert first and first == load(name, split, where="again")
    size = SIZES[name][base.SPLITS.index(split)]
    assert size in (None, len(first))
    for row in first:
      assert row.task == name and row.prompt.strip() and row.reference
      assert json.loads(json.dumps([row.reference, row.meta])) == [
        row.reference,
        row.meta,
      ]
      assert "{question}" not in row.prompt and "{how}" not in row.prompt


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_is_counted(name, load, folder):
  known = base.resolve(name).SET
  load(name, known.splits[-1])
  report = published.reports(known, str(folder / "data"))[-1]
  reasons = {
    reason
    for account in report["splits"].values()
    for reason in account["left_out"]
  }
  assert reasons == SIZES[name][2]


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_score_one_and_nonsense_does_not(name, load):
  """By the verifier, called as the pool calls it."""
  known = base.resolve(name).SET
  tried = 0
  for row in load(name, known.splits[-1])[:3]:
    for text in (*row.demonstrations[:1], "I do not know."):
      item = base.item(row, text)
      judge = serving.resolve(item.function)
      score = judge(item.completion, item.reference, **item.meta)
      if score.status == "refused":
        pytest.skip("no jail can be had here")
      right = text in row.demonstrations
      assert score.correct is right or known.domain == "instructions", text
      tried += right
  assert (
    tried
    or known.domain in ("instructions", "science")
    or name in ("dapo_math_17k", "eurus2_code", "livecodebench")
  )


@pytest.mark.parametrize("name", NAMES)
def test_wrong_columns_are_named(name, write, tmp_path):
  known = base.resolve(name).SET
  for path, content in FILES[name].items():
    write(tmp_path / path, [{"other": "x"} for _ in content])
  options = {"against": []} if "train" in known.splits else {}
  with pytest.raises(InputError) as caught:
    base.load(
      name,
      known.splits[0],
      data_dir=str(tmp_path / "data"),
      seed=0,
      manual_dir=str(tmp_path),
      **options,
    )
  said = str(caught.value)
  assert "no column" in said and "(columns: other)" in said
  assert " 1: " in said and str(tmp_path) in said


SOME = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.sampled_from(["", "code", "a #### 1", "\\boxed{1}", "[]", "{}", IO]),
  lambda v: (
    st.lists(v, max_size=3)
    | st.dictionaries(
      st.sampled_from(["role", "content", "ground_truth", "input"]),
      v,
      max_size=3,
    )
  ),
  max_leaves=5,
)


@pytest.mark.parametrize("name", NAMES)
def test_no_row_raises_anything_else(name):
  """Whatever stands in the columns, a row is a problem, left out or bad."""
  known = base.resolve(name).SET
  columns = {key for rows in FILES[name].values() for r in rows for key in r}
  good = {
    k: v for rows in FILES[name].values() for r in rows for k, v in r.items()
  }

  @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
  @given(st.dictionaries(st.sampled_from(sorted(columns)), SOME, max_size=4))
  def check(changes):
    record = {**good, **changes}
    if known.missing(record):
      return
    try:
      made = known.row(record, known.options)
    except (schema.BadRow, schema.LeftOut, InputError):
      return
    assert isinstance(made.question, str)

  check()


# ----- What is particular to some -----


def test_gsm8k_numbers_have_no_thousands_separators(load):
  assert load("gsm8k", "train")[1].reference == "1100"


def test_math_levels_and_subjects(load):
  rows = load("hendrycks_math", "train", levels=[5], subjects=["algebra"])
  assert [r.reference for r in rows] == ["\\frac{5}{7}"]
  rows = load("hendrycks_math", "validation", levels=["1"])
  assert len(rows) == 7


def test_math_that_boxes_several_answers_is_left_out(load):
  rows = [
    row
    for row in load("hendrycks_math", "validation")
    if row.prompt.startswith("Corners")
  ]
  assert [r.reference for r in rows] == [r"1\frac12"]
  assert rows[0].demonstrations == ()


def test_dapo_has_no_instruction_of_its_own(load):
  rows = load("dapo_math_17k", "train", template="bare")
  assert len({r.prompt for r in rows}) == len(rows) > 150
  for row in rows:
    assert row.prompt == f"Find {row.reference}.\nNow."


def test_amc_and_olympiad_answers(load):
  assert load("amc23", "validation")[0].reference == "27"
  found = [r.reference for r in load("olympiad_bench", "validation")]
  assert found == ["14", "1, 2", "2.5"]
  found = [r.reference for r in load("minerva_math", "validation")]
  assert found == ["16", "1.5e3"]


def test_eurus_has_no_instruction_of_its_own(load):
  first, second = load("eurus2_code", "train", template="bare")
  assert first.prompt == "Add two numbers."
  assert first.meta == {"time_limit_s": 5.0, "memory_mb": 1024, "partial": True}
  assert second.meta["entry_point"] == "add"
  assert second.reference == [{"args": [1, 2], "expected": 3}]
  only = load("eurus2_code", "train", sources=["apps"])
  assert [r.meta["entry_point"] for r in only] == ["add"]
  assert "The tests call add." in only[0].prompt


def test_deepcoder_keeps_fifteen_tests(load):
  rows = load("deepcoder", "train")
  assert [len(r.reference) for r in rows] == [15, 1, 2, 1]
  assert rows[3].meta["entry_point"] == "sumUp"
  assert rows[3].reference == [{"args": [[1, 2]], "expected": 3}]
  assert "sumUp of the class Solution" in rows[3].prompt
  assert len(load("deepcoder", "train", subsets=["taco"])) == 1


def test_code_contests_joins_tests(load):
  row = load("code_contests", "validation")[0]
  assert [t["input"] for t in row.reference] == ["1 2", "3 4", "5 6"]
  row = load("code_contests", "validation", generated=False)[0]
  assert [t["input"] for t in row.reference] == ["1 2", "3 4"]
  assert row.demonstrations == (f"```python\n{ADD}\n```",)


def test_code_contests_knows_ratings(load):
  row = load("code_contests", "validation")[0]
  assert row.meta["rating"] == 800
  assert "rating" not in load("code_contests", "train")[0].meta  # 0: unknown
  item = base.item(row, "x")
  assert item.meta == {k: v for k, v in row.meta.items() if k != "rating"}
  assert item.meta["time_limit_s"] == 5.0


@pytest.mark.parametrize("value", ["800", -1, 1.5, True])
def test_code_contests_refuses_what_is_no_rating(load, value):
  problems = base.resolve("code_contests").SET
  record = {
    "description": "Add.",
    "public_tests": {"input": ["1"], "output": ["1"]},
    "cf_rating": value,
  }
  with pytest.raises(schema.BadRow, match="is not a rating"):
    problems.row(record, problems.options)


def test_olympiad_errors_are_tolerances(load):
  exact, several, row = load("olympiad_bench", "validation")
  assert "tolerance" not in {**exact.meta, **several.meta}
  assert row.meta["tolerance"] == pytest.approx(0.1 / 2.5)
  item = base.item(row, r"\boxed{2.58}")
  assert math_verifier.score(
    item.completion, item.reference, **item.meta
  ).correct
  item = base.item(row, r"\boxed{2.61}")
  assert not math_verifier.score(
    item.completion, item.reference, **item.meta
  ).correct
  problems = base.resolve("olympiad_bench").SET
  for error in (None, "", "1e-1,1e-2", "0", "5", [1]):
    record = {"question": "How far?", "final_answer": ["3"], "error": error}
    assert problems.row(record, problems.options).meta == {}


def test_livecodebench_by_date_and_release(load):
  rows = load("livecodebench", "validation")
  assert len(rows[0].reference) == 2  # public and private
  assert rows[-1].reference[0] == {"args": [1, [2]], "expected": 3}
  assert rows[-1].meta["entry_point"] == "add" and not rows[0].meta["partial"]
  assert len(load("livecodebench", "validation", first="2025-01-01")) == 1
  assert len(load("livecodebench", "validation", last="2025-01-01")) == 5
  assert len(load("livecodebench", "validation", release=2)) == 2
  with pytest.raises(InputError, match="release is 1 to 6, not 7"):
    load("livecodebench", "validation", release=7)


class Payload:
  def __reduce__(self):
    return (open, ("/tmp/should_not_be_there", "w"))


@pytest.mark.parametrize(
  "hostile", [pickle.dumps(Payload()), pickle.dumps([1]), b"\x80", b""]
)
def test_livecodebench_pickles_run_nothing(hostile):
  packed = base64.b64encode(zlib.compress(hostile)).decode()
  record = {**lcb(1, []), "private_test_cases": packed}
  known = base.resolve("livecodebench").SET
  with pytest.raises(schema.BadRow, match="cannot be read"):
    known.row(record, known.options)


@pytest.mark.parametrize(
  ("results", "asked", "tolerance"),
  [
    ("[1.5, 2.0]", "0", 1e-6),
    ("[[1.5], (2, 0.5)]", "0", 1e-6),
    ("[1, 0.5]", "0", 1e-6),
    ("[1, 2]", "0", None),
    ("[True, 'a']", "0", None),
    ("[123456789, 0.5]", "0", None),
    ("[1.5, 2.5]", "0.01", 0.01),
    ("[1, 2]", "1e-3", 1e-3),
  ],
)
def test_humaneval_tolerances_are_those_of_the_published_tests(
  results, asked, tolerance
):
  problems = base.resolve("humaneval_plus").SET
  test = HUMAN.replace("[[1, 2], ['a', 'b'], [(1,), (2,)]]", "[[1], [2]]")
  test = test.replace("[3, 'ab', (1, 2)]", results)
  test = test.replace("exp, 0)", f"exp, {asked})")
  row = problems.row(human(test), problems.options)
  assert row.meta.get("tolerance") == tolerance


def test_humaneval_becomes_calls(load):
  first, second = load("humaneval_plus", "validation")
  assert first.reference == [
    {"args": [1, 2], "expected": 3},
    {"args": ["a", "b"], "expected": "ab"},
    {"args": [[1], [2]], "expected": [1, 2]},
  ]
  assert first.meta["entry_point"] == "add" and "tolerance" not in first.meta
  assert second.meta["tolerance"] == 1e-6
  assert "def add(a, b):" in first.prompt


def test_scp_takes_boxes_and_short_solutions(load):
  rows = load("scp116k", "train") + load("scp116k", "validation")
  answers = {r.reference for r in rows}
  assert len(rows) == 191 and {"42", "7 m"} <= answers
  more = load("scp116k", "train", agreed=False, domains=["Physics"])
  more += load("scp116k", "validation", agreed=False, domains=["Physics"])
  assert len(more) == 200


@pytest.mark.parametrize("name", ["gpqa", "mmlu_pro"])
def test_options_are_shuffled_by_seed_and_row(name, load):
  rows, again = load(name, "validation"), load(name, "validation", seed=1)
  letters = [r.reference for r in rows]
  assert len(set(letters)) > 2
  assert letters != [r.reference for r in again]
  for row in rows + again:
    shown = row.meta["options"]
    place = "ABCDEFGHIJ".index(row.reference)
    assert shown[place].startswith("right") and "N/A" not in shown
    assert f"\n({row.reference}) {shown[place]}" in row.prompt
  one, other = (
    {r.prompt.partition("\n(")[0] for r in part} for part in (rows, again)
  )
  assert one == other


def test_mmlu_categories(load):
  assert len(load("mmlu_pro", "validation", categories=["law"])) == 10


def test_instructions_lose_their_nulls(load):
  row = load("ifeval", "validation")[0]
  assert row.prompt == "Write a summary." and row.meta == {"binary": True}
  assert row.reference["kwargs"] == [
    {},
    {"num_words": 300, "relation": "at least"},
  ]
  rows = load("nemotron_instructions", "train")
  rows += load("nemotron_instructions", "validation")
  assert len(rows) == 201 and {len(r.reference["kwargs"]) for r in rows} == {1}
