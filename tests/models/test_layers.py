"""Norm and MLP, against plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax.models import layers


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rms_norm_by_hand():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  scale = jnp.array([1.0, 2.0])
  root = np.sqrt(12.5)
  np.testing.assert_allclose(
    layers.rms_norm(x, scale, 0.0)[0], [3 / root, 8 / root], rtol=1e-6
  )
  np.testing.assert_allclose(
    layers.rms_norm(x, scale, 1e-6)[1], [0.0, 0.0], atol=0
  )
  np.testing.assert_allclose(
    layers.rms_norm(x, scale, 3.5)[0], [0.75, 2.0], rtol=1e-6
  )


def test_rms_norm_ignores_the_size_of_its_input():
  x = normal(4, 16)
  np.testing.assert_allclose(
    layers.rms_norm(1000 * x, jnp.ones(16), 0.0),
    layers.rms_norm(x, jnp.ones(16), 0.0),
    rtol=1e-5,
  )


def test_rms_norm_of_bfloat16_is_computed_in_float32():
  x = jnp.asarray(normal(4, 512) + 100, jnp.bfloat16)
  out = layers.rms_norm(x, jnp.ones(512, jnp.bfloat16), 1e-6)
  exact = np.asarray(x, np.float64)
  exact /= np.sqrt(np.mean(exact**2, axis=-1, keepdims=True))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-8)


def products(*kernels):
  return [functools.partial(layers.linear, kernel=k) for k in kernels]


def test_gated_mlp_equals_its_formula():
  x, gate, up, down = (
    normal(*shape, seed=i)
    for i, shape in enumerate([(2, 3, 4), (4, 6), (4, 6), (6, 4)])
  )
  wide = x @ gate
  np.testing.assert_allclose(
    layers.gated_mlp(x, *products(gate, up, down)),
    (wide / (1 + np.exp(-wide)) * (x @ up)) @ down,
    atol=1e-5,
  )


def test_gated_mlp_by_hand():
  one = jnp.ones((1, 1))
  out = layers.gated_mlp(one, *products(2 * one, 3 * one, 5 * one))
  np.testing.assert_allclose(out, 30 * jax.nn.sigmoid(2.0), rtol=1e-6)
