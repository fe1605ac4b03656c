"""What may change between two starts of one workdir, and what may not."""

import json

import pytest

from progrpo_jax import errors, loop, main
from progrpo_jax.settings import identity
from progrpo_jax.text import sentencepiece_tokenizer


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
  """The workdir of a finished GRPO run of one step."""
  workdir = tmp_path_factory.mktemp("identity") / "run"
  code, _ = small.train(workdir, *SHORT, method="grpo")
  assert code == loop.DONE
  return workdir


SHORT = ("train.total_steps=1", "eval.every=0")


class Listening:
  """A view that keeps what it is told."""

  def __init__(self):
    self.said = []

  def message(self, text):
    self.said.append(text)

  def ignored(self, *args):
    pass

  step = eval = phase = evaluation = ignored


def plain(c):
  return json.loads(c.to_json_best_effort())


@pytest.mark.parametrize(
  "override",
  [
    "train.total_steps=9",
    "optim.learning_rate=1e-4",
    "eval.every=1",
    "checkpoint.keep=5",
    "rewards.deadline_s=3",
    "mesh.fsdp=1",
    "model.remat=layer",
    "model.logits_chunk=8",
    "train.row_tokens=512",
    "train.micro_batch_rows=2",
    "data.dir=/elsewhere",
    "log.rollouts_every=3",
    "warmup.steps=1",
  ],
)
def test_how_far_and_how_fast_may_change(small, override):
  found = identity.changes(plain(small.config()), plain(small.config(override)))
  key = override.partition("=")[0]
  assert not found.defining
  assert all(line.startswith(f"{key}: ") for line in found.free)


@pytest.mark.parametrize(
  "override",
  [
    "method=other",
    "seed=1",
    "algo.num_generations=8",
    "algo.arm.alpha=0.1",
    "sampling.temperature=0.5",
    "train.prompts_per_step=8",
    "train.num_minibatches=1",
    "optim.max_grad_norm=2",
    "optim.b1=0.5",
    "rewards.thinking=off",
    "data.max_prompt_length=99",
    "data.tasks.chain_sum.weight=2",
    "data.tasks.chain_sum.options.max_terms=3",
    "model.init_from=/other",
    "model.dtype=bfloat16",
  ],
)
def test_method_model_and_data_define_a_run(small, override):
  found = identity.changes(plain(small.config()), plain(small.config(override)))
  key = override.partition("=")[0]
  key = "data.tasks" if key.startswith("data.tasks") else key
  assert not found.free
  [line] = found.defining
  assert line.startswith(f"{key}: ") and " -> " in line
  with pytest.raises(errors.InputError, match=f"{key}.*--override"):
    identity.check(found, "run", override=False)
  identity.check(found, "run", override=True)


def test_a_key_of_another_version_is_said_and_not_refused(small):
  old = plain(small.config())
  del old["algo"]["arm"]
  found = identity.changes(old, plain(small.config()))
  assert not found.defining
  assert "algo.arm.alpha: (no such key) -> 0.3" in found.free


def test_what_changes_the_measure_is_known(small):
  for override, measures in (
    ("eval.num_problems=7", True),
    ("eval.temperature=0.7", True),
    ("eval.every=7", False),
    ("algo.beta=0.7", False),
  ):
    old, new = plain(small.config()), plain(small.config(override))
    found = identity.changes(old, new)
    assert found.measures == measures, override
    assert found.free or found.defining
  assert not identity.changes(old, old).measures


def test_a_schedule_may_gain_entries_and_lose_none(small):
  one, two = ({"at_step": n, "set": {"algo.beta": 0.1 * n}} for n in (1, 2))

  def staged(*entries):
    return plain(small.config(f"schedule={entries!r}"))

  assert not identity.changes(staged(one), staged(one, two)).defining
  assert identity.changes(staged(one, two), staged(one)).defining
  assert identity.changes(staged(one), staged(two)).defining


@pytest.mark.parametrize(
  ("entry", "at", "is_late"),
  [
    ({"at_step": 3}, (2, 0), False),
    ({"at_step": 3}, (3, 0), True),
    ({"at_step": 3}, (9, 0), True),
    ({"after_resets": 2}, (9, 1), False),
    ({"after_resets": 2}, (9, 2), True),
  ],
)
def test_an_appended_entry_begins_later(small, entry, at, is_late):
  """The steps that are done were not done as it says."""
  first = {"at_step": 1, "set": {"algo.beta": 0.1}}
  old, new = (
    plain(small.config(f"schedule={entries!r}"))
    for entries in ((first,), (first, entry | {"set": {"algo.beta": 0.2}}))
  )
  found = identity.changes(old, new, at)
  assert bool(found.defining) == is_late and bool(found.free) != is_late
  assert not identity.changes(new, new, at).defining
  for line in found.defining:
    assert f"begins after step {at[0]}, reset {at[1]}" in line


def test_an_unchanged_place_is_the_same_place(small, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert (
    identity.changes(
      plain(small.config("model.init_from=base")),
      plain(small.config(f"model.init_from={tmp_path / 'base'}")),
    )
    == identity.Changes()
  )


def test_a_finished_run_is_not_relabelled(small, run, capsys):
  """Another method is refused; the same one has nothing to do."""
  before = (run / "config.json").read_bytes()
  argv = ["train", *small.args(*SHORT, method="progrpo"), "--workdir", str(run)]
  assert main.main(argv) == 2
  said = capsys.readouterr().err
  assert "method: 'grpo' -> 'progrpo'" in said and "--override" in said
  argv = [
    "train",
    *small.args(*SHORT, "checkpoint.keep=7", method="grpo"),
    "--workdir",
    str(run),
  ]
  assert main.main(argv) == 0
  assert "already finished at step 1: raise train.total_steps" in " ".join(
    capsys.readouterr().out.split()
  )
  assert (run / "config.json").read_bytes() == before


def test_another_tokenizer_of_a_model_of_the_same_shape_is_refused(
  small, run, monkeypatch
):
  monkeypatch.setattr(
    sentencepiece_tokenizer.SentencePieceTokenizer,
    "pieces",
    lambda self: [("other", 0)],
  )
  with pytest.raises(errors.InputError, match="the tokenizer .* is not the"):
    small.train(run, *SHORT, method="grpo")
  # A run of before there was a digest goes on.
  file = run / "model" / "config.json"
  described = file.read_text()
  old = json.loads(described)
  del old["progrpo_tokenizer"]
  file.write_text(json.dumps(old, indent=2))
  try:
    assert small.train(run, *SHORT, method="grpo")[0] == loop.DONE
  finally:
    file.write_text(described)


def test_with_override_a_run_goes_on_with_another_method_and_data(
  small, recorded, tmp_path
):
  """Groups carried over belong to the method and data of before."""
  assert small.train(tmp_path, "train.total_steps=1")[0] == loop.DONE
  other = small.config(
    "train.total_steps=2",
    "algo.num_generations=8",
    "optim.max_grad_norm=0",
    "optim.learning_rate=1e-3",
    "data.tasks.chain_sum.options.max_terms=4",
  )
  with pytest.raises(errors.InputError, match="algo.num_generations: 4 -> 8"):
    loop.train(other, tmp_path, Listening())
  view = Listening()
  assert loop.train(other, tmp_path, view, override=True) == loop.DONE
  assert "changed: train.total_steps: 1 -> 2" in view.said
  assert "changed: optim.learning_rate: 0.003 -> 0.001" in view.said
  assert "changed: algo.num_generations: 4 -> 8" in view.said
  assert [row["step"] for row in recorded(tmp_path)["metrics.jsonl"]] == [1, 2]
  written = json.loads((tmp_path / "config.json").read_text())
  assert written["algo"]["num_generations"] == 8


@pytest.mark.parametrize("name", ["config.json", "model/config.json"])
@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe", b"[" * 10**5])
def test_a_description_that_cannot_be_read_is_named(
  small, tmp_path, name, content
):
  workdir = tmp_path / "run"
  (workdir / "model").mkdir(parents=True)
  (workdir / "checkpoints" / "1").mkdir(parents=True)
  (workdir / name).write_bytes(content)
  with pytest.raises(
    errors.InputError, match=f"{name}: not (JSON: .*|a JSON object); put a"
  ):
    small.train(workdir, method="grpo")
