import json
import math

import numpy as np

from progrpo_jax import main


def test_prints_and_writes_pass_at_k(small, tmp_path, capfd):
  argv = ["evaluate", *small.args("eval.num_samples=8"), "--policy",
          str(small.base), "--workdir", str(tmp_path)]
  assert main.main(argv) == 0
  assert "chain_sum/pass@8" in capfd.readouterr().out
  row = json.loads((tmp_path / "eval.jsonl").read_text())
  records = [json.loads(x) for x in
             (tmp_path / "evals" / "000000.jsonl").read_text().splitlines()]
  counts = [sum(s["correct"] for s in r["completions"]) for r in records]
  for k in (1, 2, 4, 8):
    wanted = np.mean([1 - math.comb(8 - c, k) / math.comb(8, k)
                      for c in counts])
    assert np.isclose(row[f"eval/chain_sum/pass@{k}"], wanted)
    low, high = (row[f"eval/chain_sum/pass@{k}/{end}"]
                 for end in ("low", "high"))
    assert low <= wanted <= high


def test_missing_policy_is_named(small, tmp_path, capfd):
  argv = ["evaluate", *small.args(), "--policy", str(tmp_path / "none")]
  assert main.main(argv) == 2
  assert "none': no such directory" in capfd.readouterr().err
