"""What is estimated beside what arrays, XLA and hand counts say."""

import dataclasses
import json
import pathlib
import runpy

import jax
import pytest

from progrpo_jax import errors
from progrpo_jax.build import functions
from progrpo_jax.build import stages as build
from progrpo_jax.devices import sharding
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import cache
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import memory
from progrpo_jax.settings import defaults, derived

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
COMPILED = runpy.run_path(str(TOOLS / "measure_memory.py"))["compiled"]
MODEL = model_config.ModelConfig(
  vocab_size=4096,
  num_layers=4,
  embed_dim=256,
  num_heads=8,
  num_kv_heads=2,
  head_dim=32,
  mlp_dim=1024,
)
GIB = 2**30


def config(**changes):
  """Four prompts of 64 tokens, four answers of 128 to each."""
  c = defaults.get_config()
  c.model.init_from = "somewhere"
  c.data.tasks = {"countdown": {}}
  c.data.max_prompt_length = 64
  c.sampling.max_new_tokens = 128
  c.algo.num_generations = 4
  c.train.prompts_per_step = 4
  c.eval.batch_prompts = 4
  c.eval.num_samples = 4
  for key, value in changes.items():
    *groups, last = key.split("__")
    place = c
    for group in groups:
      place = place[group]
    place[last] = value
  return c


def model_for(c, **changes):
  return dataclasses.replace(
    MODEL,
    dtype=c.model.dtype,
    remat=c.model.remat,
    lora=derived.lora_config(c),
    **changes,
  )


def estimate(c, count=1, platform="cpu", model=None):
  m = c.mesh
  return memory.estimate(
    c,
    model or model_for(c),
    sharding.abstract_mesh(count, m.data, m.fsdp, m.tensor),
    platform,
  )


def _bytes(tree):
  return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_what_stays_equals_real_arrays(small):
  """In bfloat16, so that masters and reference differ."""
  c = small.config("model.dtype=bfloat16")
  mesh = sharding.make_mesh(1, 1, 1)
  policy = build.load_policy(c, mesh)
  assert memory.model_of(c) == policy.config
  tx = functions.make_optimizer(c, functions.make_schedule(c))
  made = state_lib.create(policy.config, tx, policy.params, mesh)
  half = jax.tree.map(lambda x: x.astype("bfloat16"), made.params)
  for phase, terms in memory.estimate(c, policy.config, mesh, "tpu").items():
    assert terms["weights that train (float32)"] == _bytes(made.params), phase
    assert terms["optimiser"] == _bytes(made.opt_state)
    assert terms["reference"] == _bytes(half)
  without = memory.estimate(
    small.config("algo.beta=0"), policy.config, mesh, "tpu"
  )
  assert "reference" not in without["update"]


def test_the_cache_equals_a_real_one():
  c = config(sampling__max_new_tokens=33)
  terms = estimate(c)["sample"]
  real = cache.empty(model_for(c), 4, 4, 32)
  # Beside it are the columns of a chunk.
  chunk = cache.empty(model_for(c), 4, 4, c.sampling.chunk)
  assert terms["keys of responses"] == _bytes(
    (real.k, real.v, chunk.k, chunk.v)
  )
  assert terms["keys of prompts"] == 4 * 64 * cache.bytes_per_token(MODEL)
  # While the cache grows, a layer is there twice.
  long = config(sampling__max_new_tokens=129)
  assert estimate(long)["sample"]["keys of responses"] == _bytes(
    (real.k, real.v)
  ) * 4 * (1 + 1 / MODEL.num_layers) + _bytes((chunk.k, chunk.v))
  few = config(sampling__max_new_tokens=33, sampling__batch_prompts=2)
  assert (
    2 * estimate(few)["sample"]["keys of responses"]
    == (terms["keys of responses"])
  )


def test_a_mesh_cuts_weights_and_rows():
  whole = estimate(config())
  cut = estimate(config(mesh__fsdp=4, mesh__data=1), 4)
  for name in ("weights that train (float32)", "optimiser"):
    # Norms and biases are whole on every device.
    assert (
      whole["update"][name] / 4
      < cut["update"][name]
      < (1.02 * whole["update"][name] / 4)
    )
  assert (
    4 * cut["sample"]["keys of responses"]
    == (whole["sample"]["keys of responses"])
  )
  # Decoding has its weights whole, or they would be gathered for every token.
  name = "weights as decoding reads them"
  assert cut["sample"][name] == whole["sample"][name]
  split = estimate(config(mesh__tensor=2, mesh__data=1), 2)
  assert split["sample"][name] < 0.6 * whole["sample"][name]
  assert (
    2 * split["sample"]["keys of responses"]
    == (whole["sample"]["keys of responses"])
  )
  copies = estimate(config(mesh__data=4), 4)
  assert copies["load"]["optimiser"] == whole["load"]["optimiser"]


def test_responses_may_be_drawn_on_another_mesh_of_the_devices():
  """Shared by two: half the keys and weights of each, for twice the rows."""
  c = config(model__dtype="bfloat16", eval__every=1)
  mesh = sharding.abstract_mesh(4, 1, 4, 1)
  model = model_for(c)
  apart = memory.estimate(c, model, mesh, "tpu")
  c.sampling.tensor = 2
  shared = memory.estimate(c, model, mesh, "tpu")
  assert shared["update"] == apart["update"]
  for phase in ("sample", "evaluate"):
    whole, part = apart[phase], shared[phase]
    assert part["keys of responses"] == whole["keys of responses"]
    name = "weights as decoding reads them"
    # Norms, a few numbers, stay whole.
    assert part[name] == pytest.approx(whole[name] / 2, rel=0.01)
    # As training splits them, in bfloat16.
    copy = part["weights as prompts are read"]
    assert copy == pytest.approx(
      whole["weights that train (float32)"] / 2, rel=0.01
    )
  # The mesh that training would have had with these sizes.
  assert derived.sampling_mesh(c, mesh) == sharding.abstract_mesh(4, 1, 2, 2)


@pytest.mark.parametrize(("own", "tensor"), [(1, 3), (2, 1), (4, 6), (1, 16)])
def test_a_mesh_for_drawing_must_have_the_rows_of_training(own, tensor):
  c = config(sampling__tensor=tensor)
  mesh = sharding.abstract_mesh(8, 1, -1, own)
  with pytest.raises(errors.InputError, match="config.sampling.tensor"):
    derived.sampling_mesh(c, mesh)
  c.sampling.tensor = 0
  assert derived.sampling_mesh(c, mesh) is mesh


def test_the_optimiser_may_be_smaller():
  whole, half = (
    estimate(config(optim__mu_dtype=dtype))["load"]["optimiser"]
    for dtype in ("float32", "bfloat16")
  )
  assert abs(half / whole - 0.75) < 1e-3


def test_recomputing_keeps_less():
  name = "activations that the backward pass keeps"
  kept = [
    estimate(config(model__remat=remat))["update"][name]
    for remat in ("none", "dots", "layer")
  ]
  assert kept[0] > 2 * kept[1] > 3 * kept[2]


def test_adapters_alone_have_gradient_and_moments():
  full, adapted = (
    estimate(
      config(model__dtype="bfloat16", model__lora__rank=rank), platform="tpu"
    )["update"]
    for rank in (0, 4)
  )
  number = full["weights that train (float32)"] // 4
  frozen = adapted["weights that do not (bfloat16)"]
  assert frozen == 2 * number
  trained = adapted["weights that train (float32)"]
  assert trained < number / 10
  assert trained < adapted["gradient"] <= 2 * trained
  assert 2 * trained <= adapted["optimiser"] < 2 * trained + 100


def test_the_largest_stage_counts():
  c = config(
    schedule=(
      {"at_step": 5, "set": {"sampling.max_new_tokens": 512}},
      {"at_step": 9, "set": {"sampling.max_new_tokens": 64}},
    )
  )
  long = estimate(config(sampling__max_new_tokens=512))
  assert estimate(c) == long


@pytest.mark.parametrize(
  ("phase", "changes"),
  [
    ("sample", {}),
    ("score", {}),
    ("update", {}),
    ("update", dict(model__remat="layer", train__micro_batch_rows=1)),
    ("update", dict(model__lora__rank=8)),
  ],
)
def test_xla_says_the_same(phase, changes):
  """Within a quarter, as docs/memory.md says of float32 on a CPU."""
  c = config(**changes)
  mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
  said = memory.total(estimate(c)[phase])
  assert abs(said / COMPILED(c, model_for(c), mesh, phase) - 1) < 0.25


def test_the_head_is_counted_where_it_is_gathered():
  c = config(model__dtype="bfloat16", mesh__fsdp=4, mesh__data=1)
  numbers = MODEL.embed_dim * MODEL.vocab_size
  said = {
    tied: estimate(c, 4, "tpu", model_for(c, tie_embeddings=tied))
    for tied in (True, False)
  }
  for phases in said.values():
    assert phases["score"]["head"] == 2 * numbers
    # Beside its gradient in float32.
    assert phases["update"]["head"] == (2 + 4) * numbers
  # A tied one, which is transposed, is not counted once more.
  kept = "activations that the backward pass keeps"
  assert said[True]["update"][kept] == said[False]["update"][kept]


def test_a_plan_takes_the_mesh_that_cuts_least():
  c = config()
  need = memory.peak(estimate(c)) / memory.USABLE

  def chip(share):
    return memory.Chip("cpu", int(share * need))

  assert memory.propose(c, model_for(c), chip(1.01), 1)[0] == (1, 1, 1)
  assert memory.propose(c, model_for(c), chip(0.99), 1) is None
  sizes, phases = memory.propose(c, model_for(c), chip(0.5), 4)
  assert sizes[2] == 1 and memory.fits(phases, chip(0.5))
  assert memory.propose(c, model_for(c), chip(0.01), 4) is None
  # Sixteen devices are more than there are rows for: heads are cut instead.
  assert memory.propose(c, model_for(c), chip(0.9), 16)[0][2] >= 4


def test_the_order_of_meshes():
  assert list(memory.meshes(4)) == [
    (4, 1, 1),
    (2, 2, 1),
    (1, 4, 1),
    (2, 1, 2),
    (1, 2, 2),
    (1, 1, 4),
  ]


def test_what_a_mesh_cannot_cut_is_said():
  assert memory.warnings(MODEL, sharding.abstract_mesh(2, 1, 1, 2)) == []
  (said,) = memory.warnings(MODEL, sharding.abstract_mesh(8, 1, 2, 4))
  assert said == (
    "the 2 key heads cannot be split 4 ways: every device holds them all"
  )


def test_a_kernel_that_is_not_there_is_refused():
  c = config()
  model = dataclasses.replace(model_for(c), attention="splash")
  with pytest.raises(errors.InputError, match="config.model.attention"):
    estimate(c, model=model)


def test_the_shape_alone_will_do(tmp_path):
  """A config.json without weights, as for a plan before a download."""
  (tmp_path / "config.json").write_text(json.dumps(MODEL.to_hf()))
  c = config(model__init_from=str(tmp_path))
  assert memory.model_of(c) == MODEL
  c.model.init_from = str(tmp_path / "none")
  with pytest.raises(errors.InputError, match="none"):
    memory.model_of(c)
