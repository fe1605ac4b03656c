"""Model cards: their metadata, and what they say of a run."""

import json
import subprocess

from etils import epath
import huggingface_hub
import pytest
import transformers

import progrpo_jax
from progrpo_jax import main
from progrpo_jax.report import card
from progrpo_jax.settings import defaults, methods
from progrpo_jax.storage import metrics
from progrpo_jax.text import tokenizer


def _config(method="progrpo", **model):
  c = methods.progrpo(defaults.get_config())
  c.method = method
  c.data.tasks = {"sums": {"module": "file", "options": {"file": "a.jsonl"}}}
  c.model.init_from = "models/base"
  c.model.update(model)
  return json.loads(c.to_json_best_effort())


def _eval(step, value, **more):
  at = "eval/sums/pass@1"
  return {
    "step": step,
    at: value,
    f"{at}/low": value - 0.1,
    f"{at}/high": value + 0.1,
    f"{at}/num_problems": 72,
  } | more


def _export(tmp_path, evals=(), config=None, **options):
  run = metrics.Record(
    path=epath.Path(tmp_path),
    config=config or _config(),
    metrics=[{"step": s, "reward": s / 10} for s in range(1, 31)],
    evals=list(evals),
  )
  options = dict(step=20, name="me/sums") | options
  return card.Export(run=run, **options)


def _read(exported):
  """The card as huggingface_hub reads it."""
  read = huggingface_hub.ModelCard(card.text(exported))
  return read.data.to_dict(), read.text


def test_the_metadata_is_read_back(tmp_path):
  evals = [_eval(0, 0.4), _eval(20, 0.5), _eval(30, 0.9)]
  config = _config(init_from="Some.One/tiny@v1", download=True)
  data, _ = _read(_export(tmp_path, evals, config))
  assert data["base_model"] == "Some.One/tiny"
  assert data["library_name"] == "transformers"
  assert data["pipeline_tag"] == "text-generation"
  assert {"reinforcement-learning", "progrpo_jax", "progrpo"} <= set(
    data["tags"]
  )
  (model,) = data["model-index"]
  assert model["name"] == "ProGRPO, step 20"
  (result,) = model["results"]
  assert result["dataset"]["type"] == "sums"
  assert result["metrics"] == [
    {"type": "pass@k", "value": 0.5, "name": "pass@1"}
  ]


def test_a_local_base_is_no_model_of_the_hub(tmp_path):
  data, text = _read(_export(tmp_path))
  assert "base_model" not in data and "model-index" not in data
  assert "It starts from `models/base`." in text
  assert "The run evaluated nothing" in text


def test_the_text_says_how_it_was_trained_and_measured(tmp_path):
  evals = [_eval(0, 0.4), _eval(10, 0.5), _eval(30, 0.9)]
  evals[1]["eval/sums/pass@4/at_least"] = 0.6
  evals[1]["eval/sums/pass@4/at_most"] = 0.8
  _, text = _read(_export(tmp_path, evals))
  assert "# ProGRPO, step 20" in text
  assert "ProGRPO ([2602.05281](https://arxiv.org/abs/2602.05281)): " in text
  assert "at step 10, the last that was evaluated before 20" in text
  assert (
    "| sums | 1 | 0.400 (0.300 – 0.500) | 0.500 (0.400 – 0.600) | 72 |" in text
  )
  assert "| sums | 4 | – | between 0.600 and 0.800 |  |" in text
  assert "0.900" not in text  # a later step
  assert "| ARM's alpha | 1.0 |" in text and "| steps | 20 |" in text
  # Means of ten steps: (1 + ... + 10) / 100 and (11 + ... + 20) / 100.
  assert "from 0.550 to 1.550" in text
  whole = text.partition("```json\n")[2].partition("\n```")[0]
  assert json.loads(whole) == _config()
  assert f"progrpo_jax {progrpo_jax.__version__}" in text


@pytest.mark.parametrize("name", sorted(vars(methods)))
def test_every_method_has_a_name_and_most_a_paper(name):
  if name.startswith("_"):
    return
  title, sentence = card.method_of(name)
  assert title and len(title) < 30 and "(" not in title
  assert sentence == "" or sentence.endswith(".")
  if name not in ("prorl_v2",):
    assert "](https://arxiv.org/abs/" in sentence


def test_a_method_of_ones_own_is_its_label(tmp_path):
  assert card.method_of("mine") == ("mine", "")
  assert card.method_of("_surrogate") == ("_surrogate", "")
  assert "# mine, step 20" in card.text(
    _export(tmp_path, config=_config("mine"))
  )


def _code(text):
  return text.partition("```python\n")[2].partition("\n```")[0]


def test_the_example_is_python_and_follows_the_template(tmp_path):
  plain = _code(card.text(_export(tmp_path)))
  compile(plain, "card", "exec")
  assert "AutoModelForCausalLM.from_pretrained('me/sums')" in plain
  assert 'tokenizer(prompt, return_tensors="pt")' in plain
  (tmp_path / "model").mkdir()
  (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")
  config = _config(system_prompt='Say "yes".')
  config["model"]["chat_template_options"] = {"enable_thinking": False}
  chat = _code(card.text(_export(tmp_path, config=config)))
  compile(chat, "card", "exec")
  assert "{'role': 'user', 'content': prompt}" in chat
  assert "'Say \"yes\".'" in chat and "enable_thinking=False" in chat
  config["model"]["chat_template"] = "none"
  assert "apply_chat_template" not in card.text(
    _export(tmp_path, config=config)
  )
  # The tokenizer keeps a template that was not used.
  assert "did not go through the tokenizer's chat template" in card.text(
    _export(tmp_path, config=config)
  )
  # A tokenizer that is saved has the template of the training; beside adapters
  # lies none.
  config["model"]["chat_template"] = "{{ messages }}"
  named = "`model.chat_template` names"
  assert named not in card.text(_export(tmp_path, config=config))
  assert named in card.text(_export(tmp_path, config=config, adapters=True))


def test_adapters_are_loaded_by_peft(tmp_path):
  config = _config(init_from="Some.One/tiny", download=True)
  exported = _export(tmp_path, config=config, adapters=True)
  data, text = _read(exported)
  assert data["library_name"] == "peft"
  code = _code(text)
  compile(code, "card", "exec")
  assert "AutoTokenizer.from_pretrained('Some.One/tiny')" in code
  assert "AutoPeftModelForCausalLM.from_pretrained('me/sums')" in code


def test_the_version_names_the_commit_of_a_checkout(monkeypatch, tmp_path):
  package = tmp_path / "progrpo_jax"
  package.mkdir()
  file = package / "__init__.py"
  file.write_text("")
  monkeypatch.setattr(card.progrpo_jax, "__file__", str(file))
  monkeypatch.setattr(card, "_installed_commit", lambda: None)
  assert card.version() == progrpo_jax.__version__

  def git(*words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
      ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()

  git("init", "--quiet")
  assert card.version() == progrpo_jax.__version__  # another's checkout
  git("add", ".")
  git("commit", "--quiet", "-m", "first")
  commit = git("rev-parse", "--short=12", "HEAD")
  assert card.version() == f"{progrpo_jax.__version__} (commit {commit})"
  file.write_text("changed = True\n")
  assert card.version().endswith(f"(commit {commit}-dirty)")


def test_every_export_of_a_run_has_a_card(small, tmp_path):
  workdir, output = tmp_path / "run", tmp_path / "hf"
  small.train(workdir, "train.total_steps=2", method="progrpo")
  for policy, step in ((workdir, 2), (workdir / "checkpoints" / "1", 1)):
    argv = ["export", "--policy", str(policy), "--output", str(output)]
    assert main.main(argv) == 0
    text = (output / card.NAME).read_text()
    assert f"# ProGRPO, step {step}" in text
    assert str(output) in text
  # The prompt of the example reaches the model as in training: with BOS.
  begin = "inputs = tokenizer("
  written = text.partition(begin)[2].partition(", return_tensors")[0]
  theirs = transformers.AutoTokenizer.from_pretrained(output)
  ours = tokenizer.load(output)
  prompt = eval(written, {"prompt": "1+2="})
  assert theirs(prompt)["input_ids"] == ours.encode_prompt("1+2=")[0]
  # A policy that is no run's has none, nor that of what was there before.
  argv = ["export", "--policy", str(small.base), "--output", str(output)]
  assert main.main(argv) == 0
  assert not (output / card.NAME).exists()
