import json
import math

import numpy as np

from progrpo_jax import main
from progrpo_jax.cli import evaluate


def test_prints_and_writes_pass_at_k(small, tmp_path, capfd):
  argv = [
    "evaluate",
    *small.args("eval.num_samples=8"),
    "--policy",
    str(small.base),
    "--workdir",
    str(tmp_path),
  ]
  assert main.main(argv) == 0
  assert "chain_sum/pass@8" in capfd.readouterr().out
  row = json.loads((tmp_path / "eval.jsonl").read_text())
  records = [
    json.loads(x)
    for x in (tmp_path / "evals" / "000000.jsonl").read_text().splitlines()
  ]
  counts = [sum(s["correct"] for s in r["completions"]) for r in records]
  for k in (1, 2, 4, 8):
    wanted = np.mean(
      [1 - math.comb(8 - c, k) / math.comb(8, k) for c in counts]
    )
    assert np.isclose(row[f"eval/chain_sum/pass@{k}"], wanted)
    low, high = (
      row[f"eval/chain_sum/pass@{k}/{end}"] for end in ("low", "high")
    )
    assert low <= wanted <= high


def test_missing_policy_is_named(small, tmp_path, capfd):
  argv = ["evaluate", *small.args(), "--policy", str(tmp_path / "none")]
  assert main.main(argv) == 2
  assert "none': no such directory" in capfd.readouterr().err


def test_bounds_and_numbers_of_problems_are_shown(capsys):
  evaluate.show(
    {
      "eval/a/pass@1/num_problems": 64,
      "eval/a/pass@1": 0.5,
      "eval/a/pass@1/low": 0.4,
      "eval/a/pass@1/high": 0.6,
      "eval/a/pass@8/num_problems": 40,
      "eval/a/pass@8/at_least": 0.61,
      "eval/a/pass@8/at_most": 0.88,
      "eval/a/num_problems": 64,
      "eval/a/left_out": 12,
    }
  )
  rows = [
    line.strip("│").split("│")
    for line in capsys.readouterr().out.splitlines()
    if line.startswith("│")
  ]
  assert [[cell.strip() for cell in row] for row in rows] == [
    ["a/pass@1", "0.500", "0.400 – 0.600", "64"],
    ["a/pass@8", "0.610 – 0.880", "not enough samples", "40"],
    ["a/num_problems", "64", "", ""],
    ["a/left_out", "12", "", ""],
  ]
