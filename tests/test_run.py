"""A run as a notebook sees it."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import progrpo_jax
from progrpo_jax import errors, run
from progrpo_jax.build import answers as answers_lib
from progrpo_jax.cli import sample as sample_command
from progrpo_jax.models import transformer
from progrpo_jax.report import comparison, live
from progrpo_jax.settings import files


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
  """A short run with resets and evaluations, checkpoints 0, 2 and 4."""
  workdir = tmp_path_factory.mktemp("run") / "prorl"
  small.train(workdir, "checkpoint.every=2", "checkpoint.keep_every=2")
  return progrpo_jax.load_run(workdir)


def test_importing_the_package_is_light():
  code = (
    "import sys, progrpo_jax; assert 'load_run' in dir(progrpo_jax); "
    "print({'jax', 'numpy', 'progrpo_jax.run'} & set(sys.modules)); "
    "assert not hasattr(progrpo_jax, 'load_runs')"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "set()"
  assert progrpo_jax.load_run is run.load_run


def test_series_are_those_of_the_files(trained):
  table = trained.metrics()
  lines = (trained.path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert len(table) == len(rows) == 4
  assert set(table.names) == {name for row in rows for name in row}
  assert table["step"].tolist() == [1, 2, 3, 4]
  for row, value in zip(rows, table["reward"]):
    assert row["reward"] == value
  evals = trained.evals()
  assert evals["step"].tolist() == [0, 2, 4]
  last = json.loads((trained.path / "eval.jsonl").read_text().splitlines()[-1])
  assert evals["eval/chain_sum/pass@1"][-1] == last["eval/chain_sum/pass@1"]


def test_config_is_the_one_that_was_trained(trained, small):
  c = trained.config
  assert c.algo.arm.alpha == 0.3 and c.algo.reset.modes == ("every",)
  asked = small.config("checkpoint.every=2", "checkpoint.keep_every=2")
  assert c.to_dict() == asked.to_dict()
  c.algo.arm.alpha = 1.0
  assert trained.config.algo.arm.alpha == 0.3
  with pytest.raises(AttributeError):
    c.algo.arm.alfa = 1.0


@pytest.mark.parametrize(
  "spec", ["tiny.py", "prorl_r1_distill_1_5b.py", "prorl_v2_r1_distill_1_5b.py"]
)
def test_configs_of_every_kind_come_back(spec, make_run):
  config = files.load(f"configs/{spec}")
  workdir = make_run(steps=1)
  (workdir / "config.json").write_text(config.to_json_best_effort())
  assert run.load_run(workdir).config.to_dict() == config.to_dict()


def test_a_config_older_than_a_key_has_its_default(trained, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(trained.path, workdir)
  known = json.loads((workdir / "config.json").read_text())
  del known["algo"]["arm"], known["model"]["system_prompt"]
  (workdir / "config.json").write_text(json.dumps(known))
  c = run.load_run(workdir).config
  assert (c.algo.arm.alpha, c.model.system_prompt) == (0.0, "")
  assert c.algo.beta == trained.config.algo.beta


def test_resets_are_those_that_happened(trained, make_run):
  resets = trained.resets()
  assert resets["step"].tolist() == [2, 4]
  assert resets["reason"].tolist() == ["2 steps since the last reset"] * 2
  # One by formula, without a reason: steps 40 and 80 of 100.
  assert run.load_run(make_run("long")).resets()["step"].tolist() == [40, 80]
  none = run.load_run(make_run("short", steps=20)).resets()
  assert len(none) == 0 and none.names == ("step", "reason")


def test_rollouts_and_samples_of_a_step(trained):
  groups = trained.rollouts(3)
  assert {g["step"] for g in groups} == {3}
  assert len(groups) == 4
  assert all(len(g["completions"]) == 4 for g in groups)
  assert trained.rollouts() == trained.rollouts(4) != groups
  assert len(trained.eval_samples(2)) == 6
  assert trained.eval_samples() == trained.eval_samples(4)


def test_a_record_ends_where_it_is_asked_to(make_run):
  found = run.load_run(make_run())
  base = found.record_until(0)
  assert base.metrics == [] and [r["step"] for r in base.evals] == [0]
  half = found.record_until(50)
  assert len(half.metrics) == 50
  assert [r["step"] for r in half.evals] == [0, 20, 40]
  assert found.record_until(100) == found.record
  summary = comparison.summarise({"run": [found.record]}, base=base)
  assert summary["base"]["step"] == 0 and summary["run"]["step"] == 100


def test_answers_are_the_command_s(trained, small, monkeypatch, capfd):
  answers = trained.sample(["1+2=", "3+4="], n=3)
  assert [len(a) for a in answers] == [3, 3]
  assert trained.sample(["1+2=", "3+4="], n=3) == answers
  monkeypatch.setattr(sample_command, "_lines", lambda: ["1+2=", "3+4="])
  flags = ["--policy", str(trained.path), "--num_samples", "3"]
  assert sample_command.run([*small.args(), *flags]) == 0
  # A terminal is shown no control characters, which this policy may write.
  shown = [live.printable(text) for text in sum(answers, [])]
  assert capfd.readouterr().out.splitlines() == shown


def test_a_batch_of_prompts_answers_as_each_alone(trained):
  # The first has the same number either way; a text alone is one prompt.
  together = trained.sample(["1+2=", "3+4+5=", "6="], n=2)
  assert trained.sample("1+2=", n=2) == together[:1]
  assert trained.sample([]) == []


def test_steps_and_temperatures_differ(trained):
  assert trained.checkpoints() == [0, 2, 4]
  prompts = [f"{a}+{b}=" for a in range(1, 9) for b in range(1, 5)]
  greedy = trained.sample(prompts, n=2, temperature=0)
  assert all(a == b for a, b in greedy)
  first = trained.sample(prompts, n=2, step=0)
  assert first != trained.sample(prompts, n=2)
  assert first == trained.sample(prompts, n=2, step=0)


def test_only_one_policy_is_held_and_it_loads_in_silence(trained, caplog):
  for step in (0, 2):
    trained.sample("1+2=", n=1, step=step)
    assert list(trained._policies) == [step]
  assert not caplog.records


def test_written_answers_are_as_probable_as_the_policy_says(trained):
  """By the logits of each prompt and answer alone, without packing."""
  c = trained.config
  responder = answers_lib.Responder.load(c, str(trained.path))
  policy, pairs = responder.policy, [("1+2=", "3"), ("3+4=", "12"), ("9=", "")]
  expected = []
  for prompt, answer in pairs:
    head, _ = policy.tokenizer.encode_prompt(prompt)
    tail = [*policy.tokenizer.encode(answer), policy.tokenizer.stop_ids[0]]
    tokens_1T = np.array([[*head, *tail]], np.int32)
    logits_TV = transformer.logits(
      policy.config, policy.params, tokens_1T, np.ones_like(tokens_1T, bool)
    )[0]
    # The distribution is the one that was sampled from in training.
    assert c.sampling.top_p == 1.0 and not c.sampling.top_k
    logp_TV = np.asarray(jax.nn.log_softmax(logits_TV / c.sampling.temperature))
    expected.append(
      sum(logp_TV[len(head) - 1 + i, t] for i, t in enumerate(tail))
    )
  found = responder.log_probs(pairs)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert responder.log_probs([]).shape == (0,)


def test_adapters_that_learned_nothing_answer_as_their_base(small, tmp_path):
  made = ("model.lora.rank=2", "train.total_steps=1", "eval.every=0")
  small.train(tmp_path / "lora", *made, method="grpo")
  answers = run.load_run(tmp_path / "lora").sample(["1+2=", "3+4="], step=0)
  base = answers_lib.Responder.load(small.config(method="grpo"))
  assert base.sample(["1+2=", "3+4="], n=4) == answers


def test_a_run_is_seen_as_it_goes_on(make_run):
  workdir = make_run(steps=10)
  found = run.load_run(workdir)
  assert len(found.metrics()) == 10
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"step": 11, "reward": 0.5}\n{"step": 12, "rew')
  assert found.metrics()["step"].tolist() == list(range(1, 12))
  assert np.isnan(found.metrics()["entropy"][-1])


@pytest.mark.parametrize(
  ("ask", "said"),
  [
    (
      lambda r: r.sample("1+2=", step=3),
      "no checkpoint of step 3; available steps: 0, 2, 4",
    ),
    (lambda r: r.sample("1+2=", n=0), "n = 0"),
    (lambda r: r.sample("1+2=", temperature=-0.5), "temperature = -0.5"),
    (lambda r: r.sample("1+2=", temperature=float("nan")), "temperature"),
    (
      lambda r: r.sample(["1=", "1+2+3+4+5+6+7="]),
      "'1+2+3+4+5+6+7=': the "
      "prompt has 15 tokens, config.data.max_prompt_length is 12",
    ),
    (lambda r: r.sample(""), "'': the prompt has no tokens"),
    (
      lambda r: r.rollouts(9),
      "no rollouts of step 9; available steps: 1, 2, 3, 4",
    ),
    (lambda r: r.eval_samples(1), "no evaluation samples of step 1; avail"),
    (lambda r: r.metrics()["rewards"], "did you mean 'reward'?"),
    (lambda r: r.evals()["step", "nothing/like it"], "no column 'nothing/lik"),
  ],
)
def test_what_is_not_there_is_named(trained, ask, said):
  with pytest.raises(errors.InputError) as found:
    ask(trained)
  assert said in str(found.value)


def test_places_that_are_no_runs(tmp_path, small, make_run):
  for place, said in (
    (tmp_path / "nowhere", "no such workdir"),
    (tmp_path, "is not the workdir of a run"),
    (small.base, "is not the workdir of a run"),
  ):
    with pytest.raises(errors.InputError, match=said):
      run.load_run(place)
  workdir = make_run(steps=2)
  with pytest.raises(errors.InputError, match=f"such as {workdir}"):
    run.load_run(workdir.parent)
  (workdir / "config.json").unlink()
  with pytest.raises(errors.InputError, match="holds no config.json"):
    run.load_run(str(workdir)).sample("1+2=")


def test_a_run_stays_where_it_is(make_run, monkeypatch):
  workdir = make_run(steps=2)
  monkeypatch.chdir(workdir.parent)
  found = run.load_run(workdir.name)
  monkeypatch.chdir("/")
  assert len(found.metrics()) == 2
  monkeypatch.setenv("HOME", str(workdir.parent))
  assert run.load_run(f"~/{workdir.name}") == found


def test_a_run_with_parts_missing(make_run):
  workdir = make_run(steps=4)
  with pytest.raises(errors.InputError, match="no 'model': it is not the con"):
    run.load_run(workdir).sample("1+2=")
  (workdir / "metrics.jsonl").unlink()
  found = run.load_run(workdir)  # an evaluation by itself is a run too
  assert len(found.evals())
  assert len(found.resets()) == 0
  with pytest.raises(errors.InputError, match="has not finished a step"):
    found.metrics()
  (workdir / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
  (workdir / "eval.jsonl").unlink()
  found = run.load_run(workdir)
  with pytest.raises(errors.InputError, match="config.eval.every asks"):
    found.evals()
  for path in (workdir / "rollouts").iterdir():
    path.unlink()
  with pytest.raises(errors.InputError, match="holds no rollouts"):
    found.rollouts()


ROWS = [
  {"step": 1, "x": 0.5, "why": "so"},
  {"step": 2, "x": None},
  {"step": 3, "x": 2, "arm/a": True, "why": "<b>"},
]


def test_a_table_of_rows():
  table = run.Table.of_rows(ROWS)
  assert table.names == ("step", "x", "why", "arm/a")
  assert table["step"].dtype == int and table["step"].tolist() == [1, 2, 3]
  np.testing.assert_array_equal(table["x"], [0.5, np.nan, 2.0])
  np.testing.assert_array_equal(table["arm/a"], [np.nan, np.nan, 1.0])
  assert table["why"].tolist() == ["so", None, "<b>"]
  assert "x" in table and "y" not in table and len(table) == 3
  assert dict(table).keys() == {"step", "x", "why", "arm/a"}
  assert list(table) == list(table.names)


def test_parts_of_a_table():
  table = run.Table.of_rows(ROWS)
  assert table["x", "step"].names == table[["x", "step"]].names == ("x", "step")
  assert table[1:]["step"].tolist() == [2, 3]
  assert table[-1]["step"].tolist() == [3] and len(table[0]) == 1
  assert table[table["step"] > 2]["why"].tolist() == ["<b>"]
  assert table.like("arm/*", "step").names == ("step", "arm/a")
  assert len(table.like("none")) == 0
  with pytest.raises(IndexError):
    table[3]


def test_a_table_stays_as_it_is():
  values = np.array([1.0, 2.0])
  table = run.Table({"x": values})
  values[0] = 9.0
  assert table["x"].tolist() == [1.0, 2.0]
  for change in (table, table[:1], table["x",]):
    with pytest.raises(ValueError, match="read-only"):
      change["x"][0] = 3.0
  with pytest.raises(ValueError, match="differ in length"):
    run.Table({"x": [1], "y": [1, 2]})


def test_a_table_on_a_page():
  page = run.Table.of_rows(ROWS)._repr_html_()
  assert page.count("<tr>") == 4
  assert "&lt;b&gt;" in page and "<b>" not in page
  assert "<td>–</td>" in page and "<td>0.5</td>" in page
  long = run.Table({f"c{i}<": np.arange(100) for i in range(30)})._repr_html_()
  assert long.count("<tr>") == 12 and "<td>…</td>" in long
  assert "100 rows, 18 more columns" in long and "c0&lt;" in long
  assert "<td>99</td>" in long and "<td>50</td>" not in long
  assert repr(run.Table({"a": [1]})) == "Table of 1 rows: a"
