"""Norm, rotary embedding and MLP, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.models import layers


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rms_norm_by_hand():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  scale = jnp.array([1.0, 2.0])
  root = np.sqrt(12.5)
  np.testing.assert_allclose(
      layers.rms_norm(x, scale, 0.0)[0], [3 / root, 8 / root], rtol=1e-6)
  np.testing.assert_allclose(
      layers.rms_norm(x, scale, 1e-6)[1], [0.0, 0.0], atol=0)
  np.testing.assert_allclose(
      layers.rms_norm(x, scale, 3.5)[0], [0.75, 2.0], rtol=1e-6)


def test_rms_norm_ignores_the_size_of_its_input():
  x = normal(4, 16)
  np.testing.assert_allclose(
      layers.rms_norm(1000 * x, jnp.ones(16), 0.0),
      layers.rms_norm(x, jnp.ones(16), 0.0), rtol=1e-5)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
  x = jnp.asarray(normal(4, 512) + 100, jnp.bfloat16)
  out = layers.rms_norm(x, jnp.ones(512, jnp.bfloat16), 1e-6)
  exact = np.asarray(x, np.float64)
  exact /= np.sqrt(np.mean(exact ** 2, axis=-1, keepdims=True))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2 ** -8)


def test_rope_angles_by_hand():
  np.testing.assert_allclose(
      layers.rope_angles(jnp.array([0, 3]), 4, 100.0),
      [[0, 0], [3, 0.3]], rtol=1e-6)
  assert layers.rope_angles(jnp.array([[1, 2, 3]]), 8, 1e4).shape == (1, 3, 4)


def test_quarter_turn_by_hand():
  # A head of four: the pairs are (first, third) and (second, fourth).
  x = jnp.array([[[1.0, 2.0, 3.0, 4.0]]])
  turned = layers.rotate(x, jnp.array([[np.pi / 2, np.pi]]))
  np.testing.assert_allclose(turned[0, 0], [-3, -2, 1, -4], atol=1e-6)


@pytest.mark.parametrize("heads", [(3,), (3, 2)])
def test_rotation_is_a_product_of_complex_numbers(heads):
  x = normal(2, 5, *heads, 8)
  angles = layers.rope_angles(
      jnp.array([[0, 1, 2, 3, 4], [7, 8, 9, 50, 1000]]), 8, 1e4)
  wide = np.asarray(angles, np.float64).reshape(
      (2, 5) + (1,) * len(heads) + (4,))
  exact = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * wide)
  np.testing.assert_allclose(
      layers.rotate(x, angles),
      np.concatenate([exact.real, exact.imag], -1), atol=1e-5)


def test_products_of_rotated_heads_depend_on_distance_alone():
  q, k = normal(1, 1, 16), normal(1, 1, 16, seed=1)

  def product(m, n):
    a, b = (
        layers.rotate(x, layers.rope_angles(jnp.array([i]), 16, 1e4))
        for x, i in ((q, m), (k, n)))
    return float(jnp.sum(a * b))

  assert product(5, 2) == pytest.approx(product(105, 102), abs=1e-4)
  assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-2)


def test_rotation_keeps_the_type_and_turns_in_float32():
  x = jnp.asarray(normal(1, 2, 3, 8), jnp.bfloat16)
  angles = layers.rope_angles(jnp.array([[1000, 1001]]), 8, 1e4)
  out = layers.rotate(x, angles)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
      out, layers.rotate(x.astype(jnp.float32), angles).astype(jnp.bfloat16))


def test_gated_mlp_equals_its_formula():
  x, gate, up, down = (
      normal(*shape, seed=i)
      for i, shape in enumerate([(2, 3, 4), (4, 6), (4, 6), (6, 4)]))
  wide = x @ gate
  np.testing.assert_allclose(
      layers.gated_mlp(x, gate, up, down),
      (wide / (1 + np.exp(-wide)) * (x @ up)) @ down, atol=1e-5)


def test_gated_mlp_by_hand():
  one = jnp.ones((1, 1))
  out = layers.gated_mlp(one, 2 * one, 3 * one, 5 * one)
  np.testing.assert_allclose(out, 30 * jax.nn.sigmoid(2.0), rtol=1e-6)
