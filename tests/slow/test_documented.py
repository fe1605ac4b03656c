"""The commands of the config files at paper scale, and the figures beside."""

import json
import pathlib
import re
import runpy
import shlex

import pytest

from progrpo_jax import loop, main
from progrpo_jax.cli import arguments

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TABLE = runpy.run_path(str(ROOT / "tests" / "commands.py"))
SHAPES = runpy.run_path(str(ROOT / "tools" / "make_memory.py"))["_SHAPES"]
TRAIN = sorted(
  command
  for command in TABLE["documented"]()
  if TABLE["PAPER"].fullmatch(command) and " train " in command
)
SUMS = {
  "chain_sum": {
    "options": {
      "template": "compact",
      "max_terms": 3,
      "max_digits": 1,
      "num_train": 64,
      "num_validation": 8,
    }
  }
}
# The model's config.json at the hub, without what the estimate does not read.
QWEN3_8B = dict(
  architectures=["Qwen3ForCausalLM"],
  model_type="qwen3",
  num_hidden_layers=36,
  hidden_size=4096,
  num_attention_heads=32,
  num_key_value_heads=8,
  head_dim=128,
  intermediate_size=12288,
  vocab_size=151936,
  tie_word_embeddings=False,
  rms_norm_eps=1e-6,
  rope_theta=1e6,
  max_position_embeddings=40960,
)


class Quiet:
  """A view that shows nothing."""

  def __getattr__(self, name):
    return lambda *args, **kwargs: None


def shrink(config, small, folder):
  """Model, data and sizes of a small run; the method stays what it is."""
  like = small.config(method="grpo")
  with config.unlocked():
    config.model.init_from = str(small.base)
    config.model.dtype, config.model.remat = "float32", "none"
    config.mesh = like.mesh
    config.data.tasks = SUMS
    config.data.dir = str(folder / "data")
    config.data.max_prompt_length, config.data.prompt_buckets = 12, ()
    config.schedule = ()
    config.sampling = like.sampling
    config.rewards = like.rewards
    config.eval = like.eval
    config.eval.every = 0
    config.algo.num_generations = 4
    config.algo.overlong_cache = min(config.algo.overlong_cache, 2)
    config.algo.rephrase.max_prompt_length = 64
    if config.algo.distill.teacher:
      config.algo.distill.teacher = str(small.base)
    config.algo.dynamic_sampling.prompts_per_round = 0
    config.algo.dynamic_sampling.max_rounds = 2
    config.train.prompts_per_step = 4 * config.train.num_minibatches
    config.train.micro_batch_rows = 0
    config.train.micro_batch_generations = 0
    config.train.total_steps = 1
    config.log.tensorboard = False
  return config


@pytest.mark.parametrize("command", TRAIN)
def test_a_method_at_paper_scale_trains_a_small_policy(
  command, small, tmp_path, monkeypatch
):
  parser = arguments.parser("train", "")
  parser.add_argument("--workdir")
  config, args = arguments.parse(parser, shlex.split(command)[2:])
  monkeypatch.chdir(tmp_path)
  code = loop.train(shrink(config, small, tmp_path), args.workdir, Quiet())
  assert code == 0
  row = json.loads((tmp_path / args.workdir / "metrics.jsonl").read_text())
  assert row["step"] == 1


def test_the_page_on_memory_has_what_the_doctor_prints(
  tmp_path, monkeypatch, capsys
):
  page = (ROOT / "docs" / "memory.md").read_text().partition("## One model")[2]
  place = tmp_path / "models" / "Qwen3-8B"
  place.mkdir(parents=True)
  (place / "config.json").write_text(json.dumps(QWEN3_8B))
  config = re.search(r"```python\n(.*?)^```", page, re.M | re.S)[1]
  (tmp_path / "qwen3.py").write_text(config)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("COLUMNS", "200")
  commands = re.findall(
    r"^progrpo (doctor .*)$", page.replace("\\\n", " "), re.M
  )
  told = [
    re.findall(r"\d+\.\d\d", row)
    for row in re.findall(r"^\| \d+ (?:H100|v5e).*$", page, re.M)
  ]
  assert len(commands) == 3
  for command, figures in zip(commands, told, strict=True):
    assert main.main(command.split()) == 0
    out = capsys.readouterr().out
    sums = re.findall(r"\d+\.\d\d", re.search(r"^.*\bsum\b.*$", out, re.M)[0])
    bound = re.search(r"should stay below (\d+\.\d\d)", out)[1]
    assert [*sums[1:], bound] == figures, command
