"""On-policy distillation through whole runs: a student comes to its teacher."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors
from progrpo_jax import progress as progress_lib
from progrpo_jax.build import base_policy
from progrpo_jax.build import stages as build
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, scoring
from progrpo_jax.plan import memory, programs
from progrpo_jax.settings import derived, identity
from progrpo_jax.text import tokenizer as tokenizer_lib

SHORT = ("eval.every=0", "train.total_steps=2", "checkpoint.every=1")
# The warm-up of a policy that is narrower and less deep than the small one.
STUDENT = (
  "warmup.embed_dim=8",
  "warmup.num_layers=1",
  "warmup.mlp_dim=16",
  "warmup.steps=20",
)


@pytest.fixture(scope="module")
def student(small, tmp_path_factory):
  """A policy of another shape than its teacher, `small.base`."""
  place = tmp_path_factory.mktemp("student") / "base"
  base_policy.warm_up(
    small.config("model.init_from=", *STUDENT), place, lambda *_: None
  )
  return place


@pytest.fixture(scope="module")
def taught(small, student):
  """Overrides of a run in which the small policy teaches the narrow one."""
  return (f"model.init_from={student}", f"algo.distill.teacher={small.base}")


def rows(workdir):
  return [json.loads(line) for line in open(workdir / "metrics.jsonl")]


def test_a_student_comes_to_its_teacher(small, tmp_path):
  """The teacher's weights with noise; rewards are measured, and teach nothing.

  From more than 0.4 nats a token to less than 0.1.
  """
  config, params = hf.load(str(small.base))
  rng = np.random.default_rng(0)
  noisy = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params
  )
  start = tmp_path / "start"
  hf.save(str(start), config, noisy, tokenizer_lib.load(str(small.base)))
  code, _ = small.train(
    tmp_path / "run",
    f"model.init_from={start}",
    f"algo.distill.teacher={small.base}",
    "eval.every=0",
    "checkpoint.every=100",
    "log.rollouts_every=0",
    "train.prompts_per_step=16",
    "train.num_iterations=1",
    "train.total_steps=35",
    "optim.learning_rate=0.005",
    "optim.decay=linear",
    method="grpo",
  )
  assert code == 0
  found = rows(tmp_path / "run")
  kl = [row["distill/reverse_kl"] for row in found]
  assert np.mean(kl[:3]) > 0.4, kl
  assert np.mean(kl[-5:]) < 0.1, kl
  assert all(np.isfinite(row["correct"]) for row in found)


def test_a_killed_run_goes_on_bit_for_bit(small, taught, tmp_path, recorded):
  """With the rewards' advantage and a discount, in one part and in two."""
  more = (
    *taught,
    "algo.distill.keep_rewards=True",
    "algo.distill.discount=0.5",
    "algo.distill.coef=0.3",
  )
  whole, half = tmp_path / "whole", tmp_path / "half"
  for workdir, steps in ((whole, 3), (half, 2), (half, 3)):
    assert (
      small.train(
        workdir, *more, *SHORT, f"train.total_steps={steps}", method="grpo"
      )[0]
      == 0
    )
  a, b = recorded(whole), recorded(half)
  assert a == b
  assert all(row["distill/reverse_kl"] != 0 for row in a["metrics.jsonl"])


@pytest.fixture(scope="module")
def prepared(small, taught):
  """function(*overrides) -> (groups, TrainBatch, advantages, metrics)."""
  made = {}

  def prepare(*overrides):
    if overrides not in made:
      setup, params = build.make_setup(
        small.config(*taught, *overrides, method="grpo")
      )
      with setup.pool:
        one, _ = setup.first.collect(
          setup.join(params), progress_lib.Progress()
        )
        made[overrides] = (
          one.batch,
          *setup.first.prepare(setup.join(params), None, one.batch, 0),
        )
    return made[overrides]

  return prepare


def test_advantages_of_tokens_are_the_teachers(prepared, small, student):
  """Against log-probs of two plain passes."""
  groups, train, _, metrics = prepared()
  mesh = sharding.make_mesh(1, 1, 1)
  q = train.sequences
  with jax.set_mesh(mesh):
    own, teacher = (
      scoring.score(
        *hf.load(str(place), mesh=mesh), q, scoring.Distribution()
      ).logp_NRT
      for place in (student, small.base)
    )
  mask = np.asarray(q.mask_NRT)
  np.testing.assert_allclose(
    train.adv_NRT, np.where(mask, teacher - own, 0), rtol=1e-5, atol=1e-5
  )
  assert metrics["distill/reverse_kl"] == pytest.approx(
    np.mean((own - teacher)[mask]), rel=1e-4
  )
  # The rewards' advantages are still there, and nothing reads them.
  assert train.adv_NR.shape == mask.shape[:2]


def test_rewards_may_stay(prepared, small, student):
  """The other way round: the better policy has both right and wrong answers."""
  turned = (f"model.init_from={small.base}", f"algo.distill.teacher={student}")
  _, alone, _, _ = prepared(*turned)
  _, both, said, _ = prepared(
    *turned, "algo.distill.keep_rewards=True", "algo.distill.coef=2.0"
  )
  mask = np.asarray(both.sequences.mask_NRT)
  adv = said.adv_PG.reshape(both.adv_NR.shape)
  np.testing.assert_allclose(
    both.adv_NRT,
    np.where(mask, 2 * alone.adv_NRT + adv[..., None], 0),
    rtol=1e-5,
    atol=1e-6,
  )
  assert np.any(adv)


def test_a_teacher_of_weight_0_is_not_asked(prepared):
  _, train, _, metrics = prepared("algo.distill.coef=0.0")
  assert train.adv_NRT is None
  assert not any(name.startswith("distill") for name in metrics)


def test_a_teacher_that_is_the_policy_has_nothing_to_say(small):
  setup, params = build.make_setup(
    small.config(f"algo.distill.teacher={small.base}", method="grpo")
  )
  with setup.pool:
    one, _ = setup.first.collect(setup.join(params), progress_lib.Progress())
    train, _, metrics = setup.first.prepare(
      setup.join(params), None, one.batch, 0
    )
  assert metrics["distill/reverse_kl"] == 0 and not np.any(train.adv_NRT)


def test_a_reply_has_no_advantage_of_tokens(prepared, small, taught):
  """A task answered in the middle: be it NaN under both, nothing is learnt."""
  groups, _, _, _ = prepared()
  setup, params = build.make_setup(small.config(*taught, method="grpo"))
  with setup.pool:
    mask = np.asarray(groups.rollout.mask_BT).copy()
    mask[:, 1] = False
    holes = ~mask & (
      np.arange(mask.shape[1]) < batch_lib.extents(mask)[:, None]
    )
    assert holes.any()
    talk = dataclasses.replace(
      groups, rollout=groups.rollout.replace(mask_BT=mask)
    )
    train, _, _ = setup.first.prepare(setup.join(params), None, talk, 0)
    assert not np.any(train.adv_NRT.reshape(mask.shape)[holes])
    assert np.any(train.adv_NRT.reshape(mask.shape)[mask])


def test_a_teacher_of_another_vocabulary_is_refused(small, tmp_path):
  other = tmp_path / "other"
  base_policy.warm_up(
    small.config(
      "model.init_from=",
      "data.tasks.chain_sum.options.template=full",
      "data.max_prompt_length=128",
      "sampling.max_new_tokens=64",
      "warmup.steps=1",
    ),
    other,
    lambda *_: None,
  )
  with pytest.raises(errors.InputError, match="tokenizer is not that") as said:
    build.make_setup(
      small.config(f"algo.distill.teacher={other}", method="grpo")
    )
  assert "config.algo.distill.teacher" in str(said.value)


@pytest.mark.parametrize(
  ("overrides", "method", "words"),
  [
    (("algo.distill.teacher=nowhere",), "grpo", "no such directory"),
    (
      ("algo.distill.teacher=x", "algo.arm.alpha=0.3"),
      "grpo",
      "algo.arm.alpha.*keep_rewards",
    ),
    (("algo.distill.teacher=x",), "flowrl", "algo.distill.teacher.*flowrl"),
    (
      ("algo.distill.teacher=x", "train.score=never"),
      "grpo",
      "train.score.*algo.distill.teacher",
    ),
    (
      (
        "algo.distill.teacher=x",
        "schedule=({'at_step': 1, 'set': {'algo.distill.teacher': 'y'}},)",
      ),
      "grpo",
      "algo.distill.teacher is fixed",
    ),
  ],
)
def test_what_cannot_be_taught_is_refused(small, overrides, method, words):
  with pytest.raises(errors.InputError, match=words):
    build.make_setup(
      small.config(
        "train.num_iterations=1",
        "train.num_minibatches=1",
        *overrides,
        method=method,
      )
    )


def test_a_workdir_is_no_teacher_and_its_checkpoint_is(small, tmp_path):
  """Another checkpoint would be the newest when the run goes on."""
  assert small.train(tmp_path, *SHORT, method="grpo")[0] == 0
  with pytest.raises(errors.InputError, match="newest checkpoint changes"):
    build.make_setup(
      small.config(f"algo.distill.teacher={tmp_path}", method="grpo")
    )
  place = tmp_path / "checkpoints" / "2"
  setup, _ = build.make_setup(
    small.config(f"algo.distill.teacher={place}", method="grpo")
  )
  setup.pool.close()
  assert setup.first.prepare.teacher is not None


def test_another_teacher_is_another_run(small):
  def of(teacher):
    c = small.config(f"algo.distill.teacher={teacher}", method="grpo")
    return json.loads(c.to_json_best_effort())

  assert identity.changes(of("a"), of("b")).defining
  assert not identity.changes(of("a"), of("./a")).defining
  assert not identity.changes(of(""), of("")).defining


def test_a_schedule_goes_from_the_teacher_to_rewards(small, taught, tmp_path):
  schedule = ({"at_step": 1, "set": {"algo.distill.coef": 0.0}},)
  code, _ = small.train(
    tmp_path, *taught, *SHORT, f"schedule={schedule!r}", method="grpo"
  )
  assert code == 0
  first, second = rows(tmp_path)
  assert "distill/reverse_kl" in first and "timing_s/teacher" in first
  assert "distill/reverse_kl" not in second


def test_plans_count_the_teacher(small, taught):
  """Its weights stay, and its pass over the batch is a phase and a program."""
  c = small.config(*taught, "model.dtype=bfloat16", method="grpo")
  mesh = sharding.make_mesh(1, 1, 1)
  model, teacher = memory.model_of(c), memory.teacher_of(c)
  assert (model.embed_dim, teacher.embed_dim) == (8, 16)
  policy = build.load_policy(c, mesh)
  made, params = build.load_teacher(c, mesh, policy)
  assert made == teacher
  held = sum(x.nbytes for x in jax.tree.leaves(params))
  phases = memory.estimate(c, model, mesh, "cpu", teacher)
  assert all(terms["teacher"] == held for terms in phases.values())
  assert memory.total(phases["teacher"]) > memory.total(phases["load"])
  assert programs.of(c) == (*programs.PHASES, "teacher")
  lowered = programs.lower(c, teacher, mesh, "teacher")
  assert lowered.compile() is not None
  more = programs.resident(c, model, mesh, "update", teacher)
  assert more - programs.resident(c, model, mesh, "update") == held
  plain = small.config(method="grpo")
  assert memory.teacher_of(plain) is None and not derived.distills(plain)
  assert programs.of(plain) == programs.PHASES
