"""Rotary positions, by hand and beside transformers' own functions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.models import rope

# As the published config.json files carry them.
LLAMA_3_1 = {
  "factor": 8.0,
  "high_freq_factor": 4.0,
  "low_freq_factor": 1.0,
  "original_max_position_embeddings": 8192,
  "rope_type": "llama3",
}
QWEN_YARN = {
  "factor": 4.0,
  "original_max_position_embeddings": 32768,
  "type": "yarn",
}


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_angles_by_hand():
  np.testing.assert_allclose(
    rope.angles(jnp.array([0, 3]), 4, 100.0), [[0, 0], [3, 0.3]], rtol=1e-6
  )
  assert rope.angles(jnp.array([[1, 2, 3]]), 8, 1e4).shape == (1, 3, 4)


def test_quarter_turn_by_hand():
  # A head of four: the pairs are (first, third) and (second, fourth).
  x = jnp.array([[[1.0, 2.0, 3.0, 4.0]]])
  turned = rope.rotate(x, jnp.array([[np.pi / 2, np.pi]]))
  np.testing.assert_allclose(turned[0, 0], [-3, -2, 1, -4], atol=1e-6)


@pytest.mark.parametrize("heads", [(3,), (3, 2)])
def test_rotation_is_a_product_of_complex_numbers(heads):
  x = normal(2, 5, *heads, 8)
  angles = rope.angles(
    jnp.array([[0, 1, 2, 3, 4], [7, 8, 9, 50, 1000]]), 8, 1e4
  )
  wide = np.asarray(angles, np.float64).reshape(
    (2, 5) + (1,) * len(heads) + (4,)
  )
  exact = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * wide)
  np.testing.assert_allclose(
    rope.rotate(x, angles),
    np.concatenate([exact.real, exact.imag], -1),
    atol=1e-5,
  )


def test_products_of_rotated_heads_depend_on_distance_alone():
  q, k = normal(1, 1, 16), normal(1, 1, 16, seed=1)

  def product(m, n):
    a, b = (
      rope.rotate(x, rope.angles(jnp.array([i]), 16, 1e4))
      for x, i in ((q, m), (k, n))
    )
    return float(jnp.sum(a * b))

  assert product(5, 2) == pytest.approx(product(105, 102), abs=1e-4)
  assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-2)


def test_rotation_keeps_the_type_and_turns_in_float32():
  x = jnp.asarray(normal(1, 2, 3, 8), jnp.bfloat16)
  angles = rope.angles(jnp.array([[1000, 1001]]), 8, 1e4)
  out = rope.rotate(x, angles)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    out, rope.rotate(x.astype(jnp.float32), angles).astype(jnp.bfloat16)
  )


def test_amplitude_scales_the_rotation():
  x, angles = normal(1, 2, 3, 8), jnp.ones((1, 2, 4))
  np.testing.assert_allclose(
    rope.rotate(x, angles, 1.5), 1.5 * rope.rotate(x, angles), atol=1e-6
  )


def test_linear_scaling_divides_positions():
  scaling = rope.Scaling.from_hf({"type": "linear", "factor": 4.0}, 64)
  np.testing.assert_allclose(
    rope.angles(jnp.array([8]), 16, 1e4, scaling),
    rope.angles(jnp.array([2]), 16, 1e4),
    rtol=1e-6,
  )


def test_llama3_scaling_by_hand():
  # Original length 80 pi; frequencies 1, 0.1, 0.01, 0.001 turn 40, 4, 0.4 and
  # 0.04 times over it. With bounds 1 and 7: kept, half way, divided, divided.
  scaling = rope.Scaling(
    "llama3",
    8.0,
    original_max_position_embeddings=80 * math.pi,
    low_freq_factor=1.0,
    high_freq_factor=7.0,
  )
  np.testing.assert_allclose(
    rope.angles(jnp.array([1]), 8, 1e4, scaling)[0],
    [1.0, 0.1 * (0.5 + 0.5 / 8), 0.01 / 8, 0.001 / 8],
    rtol=1e-5,
  )


def test_yarn_by_hand():
  # Frequencies 1, 0.1, 0.01, 0.001. Dimension of n turns over 2000 pi:
  # 4 log(1000 / n) / log(10^4); 32 turns: 1.49, floor 1; one turn: 3.
  scaling = rope.Scaling(
    "yarn", 4.0, original_max_position_embeddings=2000 * math.pi
  )
  np.testing.assert_allclose(
    rope.angles(jnp.array([1]), 8, 1e4, scaling)[0],
    [1.0, 0.1, 0.01 * (0.5 + 0.5 / 4), 0.001 / 4],
    rtol=1e-5,
  )
  assert scaling.amplitude == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
  ("options", "amplitude"),
  [
    (dict(attention_factor=0.7), 0.7),
    (
      dict(mscale=0.707, mscale_all_dim=1.0),
      (0.0707 * math.log(40) + 1) / (0.1 * math.log(40) + 1),
    ),
    (dict(mscale=0.707), 0.1 * math.log(40) + 1),
    # The authors' code multiplies what the factor gives by it.
    (dict(attn_factor=0.5), 0.5 * (0.1 * math.log(40) + 1)),
    (dict(attn_factor=1 / (0.1 * math.log(40) + 1)), 1.0),
    (dict(attn_factor=0.5, attention_factor=0.7), 0.7),
    (dict(finetuned=True, extrapolation_factor=1), 0.1 * math.log(40) + 1),
  ],
)
def test_yarns_amplitude(options, amplitude):
  scaling = rope.Scaling.from_hf(
    {"rope_type": "yarn", "factor": 40.0, **options}, 4096
  )
  assert scaling.amplitude == pytest.approx(amplitude)


@pytest.mark.parametrize(
  "fields",
  [
    LLAMA_3_1,
    dict(LLAMA_3_1, factor=32.0),
    QWEN_YARN,
    dict(QWEN_YARN, beta_fast=16, beta_slow=2, truncate=False),
    dict(QWEN_YARN, factor=40.0, mscale=1.0, mscale_all_dim=0.8),
    dict(QWEN_YARN, original_max_position_embeddings=64),
    {"rope_type": "linear", "factor": 2.5},
  ],
)
@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
def test_frequencies_are_those_of_transformers(fields, theta):
  import transformers
  from transformers import modeling_rope_utils

  kind = fields.get("rope_type", fields.get("type"))
  theirs = transformers.LlamaConfig(
    hidden_size=256,
    num_attention_heads=2,
    max_position_embeddings=131072,
    rope_parameters=dict(fields, rope_type=kind, rope_theta=theta),
  )
  frequency, amplitude = modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind](
    theirs, "cpu"
  )
  scaling = rope.Scaling.from_hf(fields, 131072)
  np.testing.assert_allclose(
    rope.angles(jnp.array([1]), 128, theta, scaling)[0], frequency, rtol=2e-6
  )
  assert scaling.amplitude == pytest.approx(amplitude)
  plain = rope.angles(jnp.array([1]), 128, theta)[0]
  assert np.abs(np.asarray(plain) / frequency.numpy() - 1).max() > 0.5


@pytest.mark.parametrize(
  "fields",
  [
    LLAMA_3_1,
    QWEN_YARN,
    dict(QWEN_YARN, attn_factor=0.8782488562869419),
    {"type": "linear", "factor": 2},
  ],
)
def test_to_hf_and_back(fields):
  scaling = rope.Scaling.from_hf(fields, 1024)
  assert rope.Scaling.from_hf(scaling.to_hf(), 1024) == scaling


def test_transformers_computes_an_exports_attn_factor():
  """It does not read the field, and so finds its effect in another one."""
  import transformers
  from transformers import modeling_rope_utils

  fields = dict(QWEN_YARN, attn_factor=0.5)
  exported = rope.Scaling.from_hf(fields, 131072).to_hf()
  ours = 0.5 * (0.1 * math.log(4) + 1)

  def theirs(fields):
    config = transformers.LlamaConfig(
      max_position_embeddings=131072,
      rope_parameters=dict(fields, rope_type="yarn", rope_theta=1e4),
    )
    return modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")[1]

  assert theirs(exported) == pytest.approx(ours)
  assert theirs(fields) == pytest.approx(2 * ours)


def test_lengths_may_come_from_the_model():
  scaling = rope.Scaling.from_hf(
    {"type": "yarn", "original_max_position_embeddings": 512}, 2048
  )
  assert scaling.factor == 4.0
  scaling = rope.Scaling.from_hf({"type": "yarn", "factor": 2.0}, 2048)
  assert scaling.original_max_position_embeddings == 2048


@pytest.mark.parametrize("fields", [{}, {"rope_type": "default"}])
def test_no_scaling(fields):
  assert rope.Scaling.from_hf(fields, 64) is None


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"type": "dynamic", "factor": 2.0}, "'dynamic'.*length of the whole"),
    ({"rope_type": "longrope", "factor": 2.0}, "'longrope'.*length of the"),
    ({"rope_type": "ntk"}, "'ntk' is not supported: known"),
    ({"rope_type": "linear"}, "'linear' lacks factor"),
    ({"rope_type": "llama3", "factor": 8.0}, "lacks high_freq_factor, low_fr"),
    ({"type": "yarn", "factor": 4.0, "temper": True}, "'temper' = True"),
    ({"type": "yarn", "extrapolation_factor": 0.5}, "extrapolation_factor"),
    ({"type": "yarn", "attn_factor": 0}, "attn_factor=0"),
    ({"type": "linear", "factor": 4.0, "attn_factor": 2.0}, "'attn_factor'"),
    ({"type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.5}, "partial"),
  ],
)
def test_what_is_not_known_is_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    rope.Scaling.from_hf(fields, 64)
