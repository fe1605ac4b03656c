import json

from progrpo_jax import main


def test_trains_prints_and_leaves_the_workdir(small, tmp_path, capsys):
  argv = [
    "train",
    *small.args("train.total_steps=1", "log.tensorboard=True", method="grpo"),
    "--workdir",
    str(tmp_path),
  ]
  assert main.main(argv) == 0
  out = capsys.readouterr().out
  assert "grpo in " in out and "step 1/1" in out and "evaluation at" in out
  assert {p.name for p in tmp_path.iterdir()} == {
    "checkpoints",
    "config.json",
    "eval.jsonl",
    "evals",
    "metrics.jsonl",
    "model",
    "rollouts",
    "tb",
  }
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["train"]["total_steps"] == 1
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert row["step"] == 1
  assert {
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "entropy",
    "loss",
    "grad_norm",
    "clip_ratio/high_mean",
    "completions/mean_length",
    "sampling/logp_difference_mean",
    "arm/sign_flip",
    "learning_rate",
    "ref_reset/count",
    "dynamic_sampling/rounds",
    "perf/tokens_per_second",
    "perf/throughput",
    "perf/mfu",
    "perf/useful_share_sample",
    "timing_s/step",
    "timing_s/compile",
    "verifier/timeouts",
    "num_tokens",
  } <= row.keys()
  assert 0 < row["perf/useful_share_sample"] <= 1
