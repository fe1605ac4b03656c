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
from progrpo_jax.models import attention, fused_attention, transformer
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib

# Two blocks of queries and three of keys for the TPU kernel, filled partly.
N, R, K, M, H = 4, 2, 2, 2, 8
T, P = 250, 70
EMULATED = {
  "splash": functools.partial(fused_attention.splash, interpret=True),
  "cudnn": functools.partial(fused_attention.cudnn, implementation="xla"),
}
ATTEND = EMULATED | {
  "xla": attention.causal,
  "splash on a tpu": fused_attention.splash,
  "cudnn on a gpu": fused_attention.cudnn,
}


def padded(length):
  """Rows padded nowhere, left, and on either side down to one token."""
  columns = np.arange(length)
  return np.stack(
    [columns >= 0, columns >= length // 3, columns == length - 1, columns == 0]
  )


def case(dtype="float32"):
  """(q, own, prefix), as the layers hand them over."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), dtype)

  return (
    normal(N, R, T, K, M, H),
    (normal(N, R, K, H, T), normal(N, R, K, T, H)),
    (normal(N, K, H, P), normal(N, K, P, H)),
  )


@functools.cache
def run(name, prompts):
  """Values and gradients of prompts, or of responses after them.

  Args:
    name: in `ATTEND`.
    prompts: whether these are prompts.

  Returns:
    Function of (q, own, prefix, mask, direction).
  """
  attend = ATTEND[name]

  def total(q, own, prefix, mask, direction):
    out = (
      attend(q, own, mask) if prompts else attend(q, own, None, prefix, mask)
    )
    return jnp.sum(out.astype(jnp.float32) * direction), out

  return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))


def results(name, prompts, args):
  """As `run`; values only of queries whose own key is real."""
  mask = padded(T if prompts else P)
  direction = np.random.default_rng(1).normal(size=args[0].shape)
  if prompts:
    direction *= mask[:, None, :, None, None, None]
  (_, out), gradients = run(name, prompts)(*args, mask, direction)
  assert out.dtype == args[0].dtype
  out = jnp.where(direction == 0, 0, out)
  return jax.tree.map(
    lambda x: np.asarray(x, np.float32),
    (out, gradients[:2] if prompts else gradients),
  )


def worst(found, expected):
  """Largest difference of each array, relative to its largest value."""
  assert all(np.abs(x).max() > 0.5 for x in jax.tree.leaves(expected))
  return [
    np.abs(a - b).max() / np.abs(b).max()
    for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    )
  ]


@pytest.mark.parametrize("prompts", [True, False])
@pytest.mark.parametrize("name", EMULATED)
def test_kernel_equals_the_reference(name, prompts):
  args = case()
  assert (
    max(worst(results(name, prompts, args), results("xla", prompts, args)))
    < 3e-6
  )


def check_bfloat16(name, prompts):
  """Asserts that it is as close to float32 as the reference in bfloat16.

  The reference normalises in float32 and may by chance be nearer than a unit
  of bfloat16, 2^-8 of the value; no kernel is asked for that.
  """
  args = case("bfloat16")
  exact = results(
    "xla", prompts, jax.tree.map(lambda x: x.astype(jnp.float32), args)
  )
  ours, theirs = (
    worst(results(n, prompts, args), exact) for n in (name, "xla")
  )
  assert max(ours) < 0.02
  assert max(a / max(b, 2**-8) for a, b in zip(ours, theirs)) < 2


@pytest.mark.parametrize("name", EMULATED)
def test_kernel_in_bfloat16(name):
  check_bfloat16(name, prompts=False)


@pytest.mark.parametrize("prompts", [True, False])
@pytest.mark.parametrize("name", sorted(set(ATTEND) - {"xla", *EMULATED}))
def test_kernel_where_it_belongs(name, prompts):
  platform = name.split()[-1]
  if jax.default_backend() != platform:
    pytest.skip(f"needs a {platform}")
  check_bfloat16(name, prompts)


@pytest.mark.parametrize("name", EMULATED)
def test_masked_keys_have_no_influence(name):
  q, own, prefix = case()
  hidden = ~padded(P)[:, None, :, None]
  rubbish = (
    jnp.where(hidden.swapaxes(2, 3), 1e4, prefix[0]),
    jnp.where(hidden, -1e4, prefix[1]),
  )
  expected = results(name, False, (q, own, prefix))
  jax.tree.map(
    np.testing.assert_array_equal,
    results(name, False, (q, own, rubbish)),
    expected,
  )
  # The last row's one token is the first of its prompt.
  other = prefix[0], prefix[1].at[3, :, 0].add(1.0)
  changed = results(name, False, (q, own, other))
  assert np.abs(changed[0] - expected[0]).max(axis=(1, 2, 3, 4, 5))[3] > 0.1


@pytest.mark.parametrize("name", EMULATED)
def test_query_that_sees_nothing_is_finite_and_so_is_its_gradient(name):
  args = case()
  nothing = np.zeros((N, T), bool)
  out = run(name, True)(*args, nothing, np.ones(args[0].shape))
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


def lowered(kernel, platform):
  """The program of values and gradients, and its largest array's elements.

  In the shapes of training: bfloat16, 1024 tokens of which the last is not
  read, seven query heads of one key head.
  """

  def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)

  def total(q, own, prefix, mask):
    out = kernel(q, own, None, prefix, mask)
    return jnp.sum(out.astype(jnp.float32) ** 2)

  text = (
    jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    .trace(
      shape(2, 2, 1023, 2, 7, 64),
      (shape(2, 2, 2, 64, 1023), shape(2, 2, 2, 1023, 64)),
      (shape(2, 2, 64, 512), shape(2, 2, 512, 64)),
      jax.ShapeDtypeStruct((2, 512), bool),
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
  text, largest = lowered(fused_attention.splash, "tpu")
  for kernel in ("fwd", "dq", "dkv"):
    assert f"splash_mha_{kernel}_segmented" in text
  # Queries, and a number a query in as many columns as a register has.
  assert largest <= 4 * 14 * 1024 * 128


def test_program_for_a_gpu(monkeypatch):
  # The only question that is put to the machine when a program is lowered.
  monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91000)
  text, largest = lowered(fused_attention.cudnn, "cuda")
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
  tokens = rng.integers(0, 40, (N, R, 5))

  def read(params, config):
    hidden, prefix = transformer.prefill(config, params, prompt, mask)
    after = transformer.extend(config, params, tokens, prefix)
    hidden = jnp.where(mask[..., None], hidden, 0)
    return jnp.sum(jnp.sin(after)) + jnp.sum(jnp.sin(hidden)), (hidden, after)

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
  # Of prompts and of responses; `decode` adds the prefill's alone.
  assert {args[3] is None for args in calls} == {True, False}
  calls.clear()

  def decode(params):
    _, prefix = transformer.prefill(config, params, prompt, mask)
    return transformer.decode(
      config,
      transformer.unroll(config, params),
      tokens[..., :1],
      prefix,
      cache_lib.empty(config, N, R, 4),
    )

  jax.eval_shape(decode, params)
  assert {args[3] is None for args in calls} == {True}


def test_model_refuses_what_cannot_run():
  config = config_lib.ModelConfig.tiny(attention="splash")
  tokens = np.zeros((1, 2), np.int32)
  with pytest.raises(ValueError, match="'splash'.*tpu.*cpu"):
    jax.eval_shape(
      functools.partial(transformer.prefill, config),
      transformer.abstract_params(config),
      tokens,
      tokens > 0,
    )
