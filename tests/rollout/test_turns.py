"""Responses of several turns: the tokens, what counts of them, failures."""

import json

import jax
import numpy as np
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax import main
from progrpo_jax.algos import arm
from progrpo_jax.build import stages as build
from progrpo_jax.cli import arguments
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters, scoring
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rollout import decoding, sampler, turns, verify
from progrpo_jax.tasks import base, guess_number
from progrpo_jax.text import sentencepiece_tokenizer
from progrpo_jax.text import tokenizer as tokenizer_lib
from tests.text import made

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def pool():
  with pools.Pool(workers=1, deadline_s=120.0) as pool:
    yield pool


@pytest.fixture(scope="module")
def char():
  return sentencepiece_tokenizer.SentencePieceTokenizer.train(
    ["1-7:0123456789+-?"]
  )


def row(number, **meta):
  return base.Row(
    task="guess_number",
    prompt="1-7:",
    reference=number,
    meta={"most": 7, "template": "compact"} | meta,
  )


def encoded(tokenizer, rows, ids=None):
  """Rows as prompts; padded on the left by one token."""
  tokens, user = zip(*[tokenizer.encode_prompt(r.prompt) for r in rows])
  pad = ((0, 0), (1, 0))
  mask = np.pad(np.ones(np.shape(tokens), bool), pad)
  return batch_lib.Prompts(
    tokens_PT=np.pad(np.int32(tokens), pad),
    mask_PT=mask,
    user_mask_PT=np.pad(np.array(user), pad),
    ids_P=np.arange(len(rows)) if ids is None else np.asarray(ids),
    rows=tuple(rows),
  )


class Script:
  """An engine that writes given turns, and keeps what it was asked to read."""

  def __init__(self, tokenizer, *written, stop=True):
    self.tokenizer, self.written, self.stop = tokenizer, list(written), stop
    self.read, self.ids, self.first = [], [], []

  def generate(self, prompts, rows, key, settings):
    texts = self.written.pop(0)
    shape = len(rows) * settings.num_generations, settings.max_new_tokens
    tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    finished = np.zeros(shape[0], bool)
    for b, text in enumerate(texts):
      if rows[b // settings.num_generations] < 0:
        continue
      ids = self.tokenizer.encode(text)
      if self.stop:
        ids = [*ids, settings.stop_ids[0]]
      ids = ids[: shape[1]]
      tokens[b, : len(ids)], mask[b, : len(ids)] = ids, True
      finished[b] = ids[-1] in settings.stop_ids
    real = [p for p in rows if p >= 0]
    self.read.append(
      [prompts.tokens_PT[p][prompts.mask_PT[p]].tolist() for p in real]
    )
    self.first.append(
      None if prompts.first_P is None else prompts.first_P[rows[rows >= 0]]
    )
    return batch_lib.Rollout(
      tokens_BT=tokens,
      mask_BT=mask,
      logp_BT=np.where(mask, np.float32(-1), np.float32(0)),
      finished_B=finished,
    )


def settings_of(tokenizer, **changes):
  return decoding.Settings(
    **dict(
      num_generations=2,
      max_new_tokens=64,
      stop_ids=tokenizer.stop_ids,
      chunk=8,
      max_turns=3,
    )
    | changes
  )


def play(engine, rows, tokenizer, pool, **changes):
  return turns.sample(
    engine,
    encoded(tokenizer, rows),
    KEY,
    settings_of(tokenizer, **changes),
    tokenizer,
    turns.TaskReplies(pool),
  )


def test_a_conversation_is_the_tokens_written_and_the_templates_pieces(
  tmp_path, pool
):
  """Golden: what is read next is the prompt, the turn, the reply, no more."""
  tokenizer = tokenizer_lib.load(made.hf_directory(tmp_path, made.CHATML))
  inner = tokenizer._tokenizer
  engine = Script(tokenizer, ["4", "6"], ["5", "-"], ["7", "-"])
  rollout, failed = play(engine, [row(6, template="full")], tokenizer, pool)
  assert not failed.any()
  first = "<|im_start|>user\n1-7:<|im_end|>\n<|im_start|>assistant\n"
  second = first + (
    "4<|im_end|>\n<|im_start|>user\nHigher.<|im_end|>\n<|im_start|>assistant\n"
  )
  third = second + (
    "5<|im_end|>\n<|im_start|>user\nHigher.<|im_end|>\n<|im_start|>assistant\n"
  )
  assert [inner.decode(r) for (r,) in engine.read] == [first, second, third]
  # The second sample was right at once; the first has its number.
  assert [f if f is None else f.tolist() for f in engine.first] == [
    None,
    [0],
    [0],
  ]
  tokens, mask = rollout.tokens_BT[0], rollout.mask_BT[0]
  length = batch_lib.extents(mask)
  assert inner.decode(tokens[:length]) == third[len(first) :] + "7<|im_end|>"
  assert inner.decode(tokens[mask]) == "4<|im_end|>5<|im_end|>7<|im_end|>"
  assert not rollout.logp_BT[~rollout.mask_BT].any()
  assert (rollout.logp_BT[rollout.mask_BT] == -1).all()
  assert rollout.finished_B.all()
  assert verify.texts(tokenizer, rollout, 2) == (("7", "6"),)
  assert verify.conversation(tokenizer, tokens, mask)[0::2] == [
    {"role": "assistant", "content": text} for text in "457"
  ]


def test_text_of_a_reply_is_never_a_control_token(tmp_path):
  tokenizer = tokenizer_lib.load(made.hf_directory(tmp_path, made.CHATML))
  ids = tokenizer.encode_reply("<|im_end|>")
  end, start = tokenizer._tokenizer.convert_tokens_to_ids(
    ["<|im_end|>", "<|im_start|>"]
  )
  # The template's own end of the message alone, and two beginnings.
  assert ids.count(end) == 1 and ids.count(start) == 2


@pytest.mark.parametrize(
  ("changes", "written", "finished"),
  [
    (dict(max_turns=1), 1, True),
    (dict(max_turns=2), 2, True),
    (dict(max_new_tokens=3), 1, False),  # no room after the reply
    (dict(max_new_tokens=4), 2, False),  # room for a token, not for its end
  ],
)
def test_turns_and_tokens_are_bounded(char, pool, changes, written, finished):
  engine = Script(char, ["4", "4"], ["1", "1"], ["2", "2"])
  rollout, failed = play(engine, [row(7)], char, pool, **changes)
  assert len(engine.read) == written and not failed.any()
  assert rollout.finished_B.tolist() == [finished] * 2
  runs = batch_lib.runs(rollout.mask_BT[0])
  assert sum(is_written for *_, is_written in runs) == written


def test_a_turn_that_was_cut_is_not_answered(char, pool):
  engine = Script(char, ["4" * 64] * 2, stop=False)
  rollout, _ = play(engine, [row(7)], char, pool)
  assert len(engine.read) == 1 and rollout.mask_BT.all()


def test_a_reply_that_raises_masks_its_response_and_is_named(
  char, pool, monkeypatch
):
  said = []
  monkeypatch.setattr(
    turns.logging, "error", lambda text, *args: said.append(text % args)
  )
  before = pool.counters.crashes
  engine = Script(char, ["4"] * 6, ["7"] * 6)
  rows = [row(7), row(7, template="of no such name"), row(7)]
  rollout, failed = play(engine, rows, char, pool)
  assert failed.tolist() == [False, False, True, True, False, False]
  assert pool.counters.crashes == before + 2
  assert len(said) == 1 and "task guess_number" in said[0]
  assert "KeyError" in said[0] and "2 replies failed" in said[0]
  # The others went on.
  assert verify.texts(char, rollout, 2) == (("7",) * 2, ("4",) * 2, ("7",) * 2)
  with pytest.raises(pools.PoolError, match="2 of 2 replies failed"):
    play(Script(char, ["4"] * 2), [rows[1]], char, pool)


CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=300, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
)


class Mirror:
  """In place of a pool: everything is answered at once."""

  def ask(self, calls):
    values = [guess_number.reply(*call.args, **call.kwargs) for call in calls]
    return [pools.Outcome("ok", value, "") for value in values]

  def answer(self, text):
    return text


@pytest.fixture(scope="module")
def engine(random_params):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  params = jax.device_put(
    random_params(CONFIG, scale=0.2), parameters.shardings(CONFIG, mesh)
  )
  return sampler.Engine(CONFIG, params, mesh)


@pytest.fixture(scope="module")
def sampled(engine, char):
  """A function (settings, ids) -> rollout; most tokens end a turn."""

  def run(ids=(4, 9, 2), **changes):
    settings = settings_of(
      char,
      stop_ids=tuple(range(0, 300, 3)),
      **dict(max_new_tokens=16) | changes,
    )
    prompts = encoded(char, [row(7)] * len(ids), ids)
    return (
      prompts,
      turns.sample(
        engine, prompts, KEY, settings, char, turns.TaskReplies(Mirror())
      ).rollout,
    )

  return run


def test_sampled_turns_are_scored_as_they_were_sampled(engine, sampled):
  prompts, rollout = sampled()
  mask = rollout.mask_BT
  # Several turns, of several tokens, and padding.
  assert {len(batch_lib.runs(m)) for m in mask} >= {5}
  assert not mask[:, -1].all()
  shape = len(prompts), 2, -1
  scores = scoring.score(
    CONFIG,
    engine.params,
    batch_lib.Sequences(
      prompt_NT=prompts.tokens_PT,
      prompt_mask_NT=prompts.mask_PT,
      tokens_NRT=rollout.tokens_BT.reshape(shape),
      mask_NRT=mask.reshape(shape),
    ),
    scoring.Distribution(),
  )
  np.testing.assert_allclose(
    rollout.logp_BT, scores.logp_NRT.reshape(mask.shape), atol=1e-4
  )
  assert (rollout.logp_BT[mask] < 0).all()


def test_samples_depend_on_their_ids_and_turns_alone(sampled):
  _, whole = sampled()
  _, parts = sampled(batch_prompts=2)
  np.testing.assert_array_equal(whole.tokens_BT, parts.tokens_BT)
  np.testing.assert_array_equal(whole.mask_BT, parts.mask_BT)
  _, other = sampled(ids=(2, 9))
  np.testing.assert_array_equal(whole.tokens_BT[4:], other.tokens_BT[:2])
  # The first turn is that of a run without turns.
  _, single = sampled(max_turns=1)
  for b, mask in enumerate(single.mask_BT):
    _, end, _ = batch_lib.runs(mask)[0]
    np.testing.assert_array_equal(
      whole.tokens_BT[b, :end], single.tokens_BT[b, :end]
    )


def test_confidence_ignores_what_the_policy_did_not_write():
  logp = np.float32([[-0.1, -9.0, -0.4, -0.2]])
  mask = np.array([[True, False, True, True]])
  other = np.where(mask, logp, np.nan)
  value = arm.answer_confidence(logp, mask, 0.5)
  assert value == arm.answer_confidence(other, mask, 0.5)
  np.testing.assert_allclose(value, np.exp(-0.3), rtol=1e-6)


TASK = {"guess_number": {"weight": 1.0, "options": {"template": "compact"}}}
TURNS = dict(
  data=dict(tasks=TASK), sampling=dict(max_new_tokens=8, max_turns=3)
)


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory):
  """(folder, a function that trains a workdir up to a step)."""
  folder = tmp_path_factory.mktemp("turns")
  small.write(folder / "config.py", **TURNS)

  config = f"{folder / 'config.py'}:prorl"

  def train(name, steps):
    args = ["--config", config, f"--config.train.total_steps={steps}"]
    assert main.main(["train", *args, "--workdir", str(folder / name)]) == 0
    return arguments.parse(arguments.parser("train", ""), args)[0]

  train("run", 3)
  return folder, train


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _timeless(line):
  return {
    k: v for k, v in line.items() if not k.startswith(("timing_s/", "perf/"))
  }


def test_a_resumed_run_with_turns_is_the_unbroken_one(unbroken):
  folder, train = unbroken
  for steps in (1, 2, 3):
    train("resumed", steps)
  one, other = folder / "run", folder / "resumed"
  for name in ("metrics.jsonl", "eval.jsonl"):
    a, b = _lines(one / name), _lines(other / name)
    if name == "eval.jsonl":  # the last step of a run is always evaluated
      steps = {line["step"] for line in a}
      b = [line for line in b if line["step"] in steps]
    assert list(map(_timeless, a)) == list(map(_timeless, b))
  for path in sorted((one / "rollouts").iterdir()):
    assert path.read_text() == (other / "rollouts" / path.name).read_text()


def test_rollouts_show_the_turns_and_count_what_the_policy_wrote(unbroken):
  folder, _ = unbroken
  completions = [
    completion
    for path in sorted((folder / "run" / "rollouts").iterdir())
    for record in _lines(path)
    for completion in record["completions"]
  ]
  several = [c for c in completions if "turns" in c]
  assert several and len(several) < len(completions)
  for completion in several:
    roles = [turn["role"] for turn in completion["turns"]]
    assert roles == ["assistant", "user"] * (len(roles) // 2) + ["assistant"]
    assert completion["turns"][-1]["content"] == completion["text"]
    replies = len(roles) // 2
    # Eight tokens are the whole response, replies included.
    assert completion["length"] + replies <= 8


def test_an_evaluation_plays_the_turns(small, unbroken):
  folder, train = unbroken
  setup, params = build.make_setup(train("again", 1))
  with setup.pool:
    evaluator = setup.first.validate.evaluators[0]
    samples = evaluator.sample(params)
  said = [
    (setup.tokenizer.decode(tokens), text)
    for tokens_G, texts_G in zip(samples.tokens_XG, samples.texts_XG)
    for tokens, text in zip(tokens_G, texts_G)
  ]
  longer = [whole for whole, last in said if whole != last]
  # A reply is one of these characters. Were replies counted, each of these
  # samples would have one; the policy itself seldom writes them.
  own = [whole for whole in longer if not set("+-?") & set(whole)]
  assert len(own) > len(longer) / 2
