"""The kernels against the reference; what each machine lacks is emulated.

On a CPU the TPU kernel runs in Pallas' interpreter and cuDNN's part is taken
by XLA; that the real calls take these shapes is seen from the programs lowered
for their platforms.
"""

import dataclasses
import functools
import math
import re

import jax
from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.devices import sharding
from progrpo_jax.models import (
  attention,
  fused_attention,
  parameters,
  transformer,
)
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib

# Two blocks of queries and keys for the TPU kernel, the second filled partly.
N, R, K, M, H = 4, 2, 2, 2, 8
T = 250
EMULATED = {
  "splash": functools.partial(fused_attention.splash, interpret=True),
  "cudnn": functools.partial(fused_attention.cudnn, implementation="xla"),
}
KERNELS = EMULATED | {
  "splash on a tpu": fused_attention.splash,
  "cudnn on a gpu": fused_attention.cudnn,
}


def padded(length):
  """Rows padded nowhere, left, and on either side down to one token."""
  columns = np.arange(length)
  return np.stack(
    [columns >= 0, columns >= length // 3, columns == length - 1, columns == 0]
  )


def segments(packed):
  """Numbers of the columns' bundles; 0 is padding."""
  if not packed:
    return padded(T).astype(np.int32)
  lengths = [[250], [100, 30, 120], [1] * 250, [128, 60]]
  return np.stack(
    [
      np.pad(np.repeat(np.arange(1, len(x) + 1), x), (0, T - sum(x)))
      for x in lengths
    ]
  ).astype(np.int32)


def attend(name, q, own, ids):
  """Causal attention by a kernel, or by the reference."""
  if name == "xla":
    return attention.causal(q, own, attention.Segments(ids))
  return KERNELS[name](q, own, ids > 0 if "cudnn" in name else ids)


def case(dtype="float32"):
  """(q, own), as the layers hand them over."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), dtype)

  return (
    normal(N, R, T, K, M, H),
    (normal(N, R, K, H, T), normal(N, R, K, T, H)),
  )


@functools.cache
def run(name):
  """Values and gradients: a function of (q, own, ids, direction)."""

  def total(q, own, ids, direction):
    out = attend(name, q, own, ids)
    return jnp.sum(out.astype(jnp.float32) * direction), out

  return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))


def results(name, packed, args):
  """As `run`; values only of queries that are not padding."""
  ids = segments(packed)
  direction = np.random.default_rng(1).normal(size=args[0].shape)
  direction *= (ids > 0)[:, None, :, None, None, None]
  (_, out), gradients = run(name)(*args, ids, direction)
  assert out.dtype == args[0].dtype
  out = jnp.where(direction == 0, 0, out)
  return jax.tree.map(lambda x: np.asarray(x, np.float32), (out, gradients))


def worst(found, expected):
  """Largest difference of each array, relative to its largest value."""
  assert all(np.abs(x).max() > 0.5 for x in jax.tree.leaves(expected))
  return [
    np.abs(a - b).max() / np.abs(b).max()
    for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    )
  ]


# cuDNN's kernel reads single sequences only.
READ = [("splash", True), ("splash", False), ("cudnn", False)]


@pytest.mark.parametrize("name, packed", READ)
def test_kernel_equals_the_reference(name, packed):
  args = case()
  assert (
    max(worst(results(name, packed, args), results("xla", packed, args))) < 3e-6
  )


def check_bfloat16(name, packed):
  """Asserts that it is as close to float32 as the reference in bfloat16.

  The reference normalises in float32 and may by chance be nearer than a unit
  of bfloat16, 2^-8 of the value; no kernel is asked for that.
  """
  args = case("bfloat16")
  exact = results(
    "xla", packed, jax.tree.map(lambda x: x.astype(jnp.float32), args)
  )
  ours, theirs = (worst(results(n, packed, args), exact) for n in (name, "xla"))
  assert max(ours) < 0.02
  assert max(a / max(b, 2**-8) for a, b in zip(ours, theirs)) < 2


@pytest.mark.parametrize("name, packed", READ)
def test_kernel_in_bfloat16(name, packed):
  check_bfloat16(name, packed)


@pytest.mark.parametrize("name, packed", READ)
def test_kernel_where_it_belongs(name, packed):
  (name,) = [x for x in KERNELS if x.startswith(f"{name} on")]
  platform = name.split()[-1]
  if jax.default_backend() != platform:
    pytest.skip(f"needs a {platform}")
  check_bfloat16(name, packed)


@pytest.mark.parametrize("name, packed", READ)
def test_other_segments_have_no_influence(name, packed):
  q, (k, v) = case()
  # The second row: its first bundle, or its padding.
  first = (segments(packed)[1] == segments(packed)[1, 0])[:, None]
  rubbish = (
    jnp.where(first.T, k.at[1].set(1e3), k),
    jnp.where(first, v.at[1].set(-1e3), v),
  )

  def rest(own):
    out = results(name, packed, (q, own))[0][1]
    return out[:, ~first[:, 0]]

  np.testing.assert_array_equal(rest(rubbish), rest((k, v)))
  changed = rest((k, v.at[1, :, :, -1].add(100.0)))
  assert np.abs(changed - rest((k, v))).max() > 0.1


@pytest.mark.parametrize("name", EMULATED)
def test_query_that_sees_nothing_is_finite_and_so_is_its_gradient(name):
  args = case()
  out = run(name)(*args, np.zeros((N, T), np.int32), np.ones(args[0].shape))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


@pytest.mark.parametrize(
  "length, block",
  [
    (1, 128),
    (128, 128),
    (129, 256),
    (300, 128),
    (640, 128),
    (700, 256),
    (1023, 512),
    (1024, 512),
    (1100, 256),
    (4097, 512),
    (32767, 512),
  ],
)
def test_blocks_of_the_tpu_kernel_waste_little(length, block):
  assert fused_attention._block(length) == block
  assert length % block == 0 or block - length % block < 128 + length / 8


def lowered(kernel, platform, dtype):
  """The program of values and gradients, and its largest array's elements.

  In the shapes of training: bfloat16, seven query heads of one key head.
  """

  def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)

  def total(q, own, columns):
    return jnp.sum(kernel(q, own, columns).astype(jnp.float32) ** 2)

  text = (
    jax.jit(jax.value_and_grad(total, (0, 1)))
    .trace(
      shape(4, 1, 1530, 2, 7, 64),
      (shape(4, 1, 2, 64, 1530), shape(4, 1, 2, 1530, 64)),
      jax.ShapeDtypeStruct((4, 1530), dtype),
    )
    .lower(lowering_platforms=(platform,))
    .as_text()
  )
  sizes = [
    math.prod(map(int, dims.split("x")[:-1]))
    for dims in re.findall(r"tensor<((?:\d+x)+)\w+>", text)
  ]
  return text, max(sizes)


def test_program_for_a_tpu():
  text, largest = lowered(fused_attention.splash, "tpu", jnp.int32)
  for kernel in ("fwd", "dkv"):
    assert f"splash_mha_{kernel}_segmented" in text
  # One kernel for all gradients.
  assert "splash_mha_dq" not in text
  # Partial sums of the queries' gradients, one for each block of keys.
  assert largest <= 3 * 4 * 14 * 1536 * 128


def test_program_for_a_gpu(monkeypatch):
  # The only question that is put to the machine when a program is lowered.
  monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91000)
  text, largest = lowered(fused_attention.cudnn, "cuda", bool)
  calls = [x for x in text.splitlines() if "custom_call @__cudnn" in x]
  assert ["Backward" in x for x in calls] == [False, True]
  for call in calls:
    assert r"mask_type\22: \22CAUSAL\22" in call
    assert "4x1536x14x64xbf16" in call and "4x1536x2x64xbf16" in call
  assert largest <= 4 * 14 * 1536 * 64


def test_model_reads_by_the_kernel_and_decodes_by_the_reference(
  random_params, monkeypatch
):
  calls = []
  monkeypatch.setattr(sharding, "platform", lambda: "tpu")
  monkeypatch.setattr(
    fused_attention,
    "splash",
    lambda *args: calls.append(args) or EMULATED["splash"](*args),
  )
  config = config_lib.ModelConfig.tiny(
    vocab_size=40, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
  )
  params = random_params(config)
  rng = np.random.default_rng(1)
  prompt, mask = rng.integers(0, 40, (N, 6)), padded(6)
  bundle = np.array([[1, 1, 1, 2, 2, 0]] * N)
  position = np.array([[0, 1, 2, 0, 1, 0]] * N)

  def read(params, config, response=None):
    segments = attention.Segments(bundle, response)
    packed = transformer.read(config, params, prompt, position, segments)
    packed = jnp.where(bundle[..., None] > 0, packed, 0)
    hidden, _ = transformer.prefill(config, params, prompt, mask)
    hidden = jnp.where(mask[..., None], hidden, 0)
    return jnp.sum(jnp.sin(packed)) + jnp.sum(jnp.sin(hidden)), (packed, hidden)

  def program(kernel):
    return jax.jit(
      jax.value_and_grad(
        functools.partial(
          read, config=dataclasses.replace(config, attention=kernel)
        ),
        has_aux=True,
      )
    )

  expected = program("xla")(params)
  assert not calls
  found = program("auto")(params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    found,
    expected,
  )
  # Of packed rows and of prompts. Responses that share a prompt, and `decode`,
  # do without: only their prompts are left.
  both = len(calls)
  calls.clear()
  jax.eval_shape(
    functools.partial(read, config=config, response=0 * bundle), params
  )
  assert 0 < len(calls) < both
  calls.clear()

  def decode(params):
    _, prefix = transformer.prefill(config, params, prompt, mask)
    return transformer.decode(
      config,
      parameters.unroll(config, params),
      prompt[:, None, :1],
      prefix,
      cache_lib.empty(config, N, 1, 4),
    )

  jax.eval_shape(decode, params)
  assert 0 < len(calls) < both


def test_model_refuses_what_cannot_run():
  config = config_lib.ModelConfig.tiny(attention="splash")
  tokens = np.zeros((1, 2), np.int32)
  with pytest.raises(ValueError, match="'splash'.*tpu.*cpu"):
    jax.eval_shape(
      functools.partial(transformer.prefill, config),
      parameters.abstract_params(config),
      tokens,
      tokens > 0,
    )
