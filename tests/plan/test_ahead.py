import dataclasses
import importlib.util

import jax
import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.devices import sharding
from progrpo_jax.plan import ahead, counts, memory, programs, roofline
from progrpo_jax.settings import derived


@pytest.mark.parametrize(
  ("chip", "count", "name"),
  [
    ("v5e", 1, "v5e:2x2"),
    ("v5e", 4, "v5e:2x2"),
    ("v5e", 8, "v5e:2x4"),
    ("v5e", 16, "v5e:4x4"),
    ("v6e", 256, "v6e:16x16"),
    ("v5p", 4, "v5p:2x2x1"),
    ("v5p", 8, "v5p:2x2x2"),
    ("v5p", 16, "v5p:2x2x4"),
    ("v5p", 64, "v5p:4x4x4"),
  ],
)
def test_the_slice_of_so_many_chips(chip, count, name):
  assert ahead.topology_of(chip, count) == name


def test_what_no_slice_has():
  with pytest.raises(errors.InputError, match="power of two"):
    ahead.topology_of("v5e", 6)
  for chip in ("H100", "H200"):
    with pytest.raises(errors.InputError, match=f"no such compiler.*{chip}"):
      ahead.topology_of(chip, 8)
  assert set(roofline.RATES) == {
    name for name, chip in memory.CHIPS.items() if chip.platform == "tpu"
  }


def test_without_libtpu_a_line_says_how_to_get_it(monkeypatch):
  monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.InputError) as e:
    ahead.devices("v5e", 4)
  assert "pip install 'progrpo_jax[aot]'" in str(e.value)
  assert f"libtpu=={ahead.LIBTPU}" in str(e.value)


@dataclasses.dataclass(frozen=True)
class Device:
  """A TPU that is nowhere."""

  id: int = 0
  platform: str = "tpu"
  process_index: int = 0


@pytest.mark.parametrize("attention, kernel", [("auto", 1), ("xla", 0)])
def test_rows_are_laid_out_as_the_attention_of_a_run_reads_them(
  small, attention, kernel
):
  c = small.config(f"model.attention={attention}")
  model = memory.model_of(c)
  one = np.array(Device(), dtype=object).reshape(1, 1, 1)
  mesh = jax.sharding.Mesh(one, sharding.AXES)
  prompts, new = c.train.prompts_per_step, c.sampling.max_new_tokens
  per_bundle, layout = derived.layout(c, mesh, kernel=bool(kernel))
  assert (per_bundle == 1) == kernel
  bundles = prompts * c.algo.num_generations // per_bundle
  held = layout.tokens // (c.data.max_prompt_length + per_bundle * new)
  assert programs.micro_batches(c, model, mesh, prompts) == -(
    -bundles // (layout.rows * held)
  )
  chunk = c.model.logits_chunk
  assert programs.head_chunks(c, model, mesh) == -(
    -layout.rows * held * per_bundle * new // chunk
  )
  # What is counted without a compiler has the same rows.
  assert memory._Stage(c, model, mesh, "tpu").layout == layout


def test_a_line_through_two_depths():
  by_depth = {2: counts.Cost({"a": 3.0}, 10.0, {"b": 1.0}, 7.0)}
  assert ahead._extend(by_depth, 28) is by_depth[2]
  by_depth[4] = counts.Cost({"a": 5.0}, 14.0, {"b": 1.0}, 7.0)
  full = ahead._extend(by_depth, 28)
  assert full == counts.Cost({"a": 29.0}, 62.0, {"b": 1.0}, 7.0)
  assert ahead._extend({2: 10, 4: 14}, 28) == 62


def test_the_time_of_a_token_by_hand(small):
  """Weights once, keys of prompts once, keys of responses once."""
  c = small.config("model.dtype=bfloat16")
  model = memory.model_of(c)
  mesh = sharding.abstract_mesh(1, 1, 1, 1)
  rates = roofline.Rates(flops=1e30, hbm=1.0, ici=1.0, clock=1.0)
  d, f, v = model.embed_dim, model.mlp_dim, model.vocab_size
  heads = model.num_heads + 2 * model.num_kv_heads
  h = model.head_dim
  layer = d * heads * h + heads * h + model.num_heads * h * d
  layer += 3 * d * f + 2 * d
  weights = model.num_layers * layer + d * v
  keys = 2 * model.num_layers * model.num_kv_heads * h
  prompts, group = programs.sampled_at_once(c), c.algo.num_generations
  tokens = prompts * (
    c.data.max_prompt_length + group * c.sampling.max_new_tokens
  )
  assert roofline.token(c, model, mesh, rates) == 2 * (weights + tokens * keys)
  # Weights are whole over fsdp, as decoding reads them; rows are shared.
  shared = sharding.abstract_mesh(2, 1, 2, 1)
  seconds = roofline.token(c, model, shared, rates)
  assert seconds == 2 * (weights + tokens / 2 * keys)
  seconds = roofline.token(c, model, shared, rates, split=True)
  assert seconds == weights + tokens * keys


def test_a_bound_is_what_takes_longest():
  cost = counts.Cost({"a": 8.0, "b": 2.0}, 30.0, {"c": 4.0}, 20.0)
  bound = roofline.bound(cost, roofline.Rates(10.0, 10.0, 1.0, 10.0))
  assert (bound.products, bound.hbm, bound.ici, bound.cycles) == (1, 3, 4, 2)
  assert (bound.overlapped, bound.apart) == (4, 7)


def test_training_is_three_times_the_work_of_scoring(small):
  mesh = sharding.abstract_mesh(1, 1, 1, 1)
  rates = roofline.RATES["v5e"]

  def seconds(c, trains):
    model = memory.model_of(c)
    return roofline.sequences(c, model, mesh, rates, trains=trains)

  c = small.config()
  assert seconds(c, True) == pytest.approx(3 * seconds(c, False))
  # Frozen weights have no gradient.
  adapted = small.config("model.lora.rank=1")
  assert seconds(adapted, True) < 2.5 * seconds(adapted, False)
