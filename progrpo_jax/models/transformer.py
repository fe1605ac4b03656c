"""The policy: one decoder for sampler, scorer and update.

Linen declares each weight once (shape, logical axes, initialiser) and scans
one layer over stacked weights. Outside this package only the functions below
are seen; parameters are a plain dict, the cache goes in and comes out.

`prefill` reads prompts; `extend` reads whole responses after them, when
scoring and training; `decode` reads them one token at a time, when sampling.
All three run the same modules, so sampler and trainer cannot drift apart.
"""

import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.devices import sharding
from progrpo_jax.models import attention, layers, rope
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import lora as lora_lib

ModelConfig = config_lib.ModelConfig


class _Weights(nn.Module):
  """Weights named together: {name: (shape, logical axes, initialiser)}."""

  dtype: str

  def weight(self, name, shape, axes, init):
    boxed = nn.with_logical_partitioning(init, axes)
    return self.param(name, boxed, shape).astype(self.dtype)


class _Products(_Weights):
  """Weights that activations are multiplied by."""

  config: ModelConfig

  def product(self, x, name, shape, axes, inputs=1):
    """Product of `x` with a weight and, where it is adapted, its adapters.

    The first `inputs` axes of the weight are the last axis of `x`.
    """
    ins, outs, lora = shape[:inputs], shape[inputs:], self.config.lora
    kernel = self.weight(name, shape, axes, nn.initializers.normal(0.02))
    out = layers.linear(x, kernel.reshape(-1, *outs))
    if lora is None or not lora.adapts(name):
      return out
    # As PEFT begins: A uniform, B zero, so that the policy is the base's.
    bound = math.prod(ins) ** -0.5
    a = self.weight(
        name + lora_lib.A, (*ins, lora.rank), (*axes[:inputs], None),
        lambda *args: jax.random.uniform(*args, minval=-bound, maxval=bound))
    b = self.weight(
        name + lora_lib.B, (lora.rank, *outs), (None, *axes[inputs:]),
        nn.initializers.zeros)
    low = layers.linear(x, a.reshape(-1, lora.rank))
    return out + lora.scale * layers.linear(low, b)


class Norm(_Weights):
  """Scale of an RMSNorm."""

  width: int
  eps: float

  @nn.compact
  def __call__(self, x):
    scale = self.weight("scale", (self.width,), (None,), nn.initializers.ones)
    return layers.rms_norm(x, scale, self.eps)


class Attention(_Products):
  """Grouped-query attention with rotary positions.

  `own_mask` says which own keys are real, or None for all; with a `past`, it
  says which columns of the cache each query sees.
  """

  @nn.compact
  def __call__(self, x, angles, own_mask, prefix, prefix_mask, past):
    c = self.config
    d, n, k, h = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim

    def project(name, heads, axis):
      out = self.product(x, name, (d, heads, h), ("embed", axis, None))
      if c.qkv_bias:
        out += self.weight(
            f"{name}_bias", (heads, h), (axis, None), nn.initializers.zeros)
      return out

    def turn(name, heads, axis):
      out = project(name, heads, axis)
      if c.qk_norm:
        out = Norm(
            dtype=c.dtype, width=h, eps=c.norm_eps, name=f"{name}_norm")(out)
      amplitude = c.rope_scaling.amplitude if c.rope_scaling else 1.0
      return rope.rotate(out, angles, amplitude)

    q = turn("q", n, "heads")
    own = turn("k", k, "kv_heads"), project("v", k, "kv_heads")
    # [N, R, T, K, H] to the order in which attention multiplies them.
    own = own[0].transpose(0, 1, 3, 4, 2), own[1].swapaxes(2, 3)
    if past is not None:
      own = cache_lib.write(past, own)
      attend = attention.attend
    else:
      attend = functools.partial(
          attention.causal,
          implementation=attention.choose(c, sharding.platform())[0])
    with jax.named_scope("attend"):
      out = attend(
          q.reshape(q.shape[:3] + (k, n // k, h)), own, own_mask, prefix,
          prefix_mask)
    out = self.product(
        out.reshape(q.shape[:3] + (n * h,)), "o", (n, h, d),
        ("heads", None, "embed"), inputs=2)
    return out, own


class Mlp(_Products):
  """Gated MLP."""

  @nn.compact
  def __call__(self, x):
    d, f = self.config.embed_dim, self.config.mlp_dim

    def product(name, shape, axes):
      return lambda x: self.product(x, name, shape, axes)

    return layers.gated_mlp(
        x, product("gate", (d, f), ("embed", "mlp")),
        product("up", (d, f), ("embed", "mlp")),
        product("down", (f, d), ("mlp", "embed")))


class Layer(nn.Module):
  """One layer: the residual stream goes through, keys and values come out."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x, prefix, angles, own_mask, prefix_mask, past=None):
    c = self.config
    norm = functools.partial(
        Norm, dtype=c.dtype, width=c.embed_dim, eps=c.norm_eps)
    out, own = Attention(dtype=c.dtype, config=c, name="attention")(
        norm(name="attention_norm")(x), angles, own_mask, prefix, prefix_mask,
        past)
    x = x + out
    with jax.named_scope("mlp"):
      x = x + Mlp(dtype=c.dtype, config=c, name="mlp")(
          norm(name="mlp_norm")(x))
    return x, own


class Embed(_Weights):
  """Token embedding."""

  config: ModelConfig

  @nn.compact
  def __call__(self, tokens):
    c = self.config
    table = self.weight(
        "tokens", (c.vocab_size, c.embed_dim), ("vocab", "embed"),
        nn.initializers.normal(0.02))
    # Rows stay split as a batch from here on; without this the partitioner
    # may follow the table and split the width instead.
    return sharding.constrain_rows(table[tokens])


class Head(_Weights):
  """Output embedding of a model whose embeddings are not tied."""

  config: ModelConfig

  @nn.compact
  def __call__(self):
    c = self.config
    self.weight(
        "kernel", (c.embed_dim, c.vocab_size), ("embed", "vocab"),
        nn.initializers.normal(0.02))


class LogZ(_Weights):
  """FlowRL's head: an estimate of log Z from the states of a prompt.

  Three linear layers as wide as the model; GELU, LayerNorm and dropout after
  the first two (https://arxiv.org/abs/2509.15207, section 4).
  """

  config: ModelConfig
  dropout: float = 0.1

  @nn.compact
  def __call__(self, x_ND, keys_N=None):
    d = self.config.embed_dim
    normal, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
    x = x_ND.astype(jnp.float32)
    for i in range(2):
      x = x @ self.weight(
          f"linear_{i}", (d, d), ("embed", None), normal)
      x = jax.nn.gelu(x + self.weight(f"linear_{i}_bias", (d,), (None,), zeros))
      x = jax.nn.standardize(x, axis=-1, epsilon=self.config.norm_eps)
      x = x * self.weight(
          f"norm_{i}_scale", (d,), (None,), nn.initializers.ones)
      x = x + self.weight(f"norm_{i}_bias", (d,), (None,), zeros)
      if keys_N is not None:
        kept = jax.vmap(lambda key, i=i: jax.random.bernoulli(
            jax.random.fold_in(key, i), 1 - self.dropout, (d,)))(keys_N)
        x = jnp.where(kept, x / (1 - self.dropout), 0.0)
    x = x @ self.weight("output", (d, 1), ("embed", None), normal)
    return x[:, 0] + self.weight("output_bias", (1,), (None,), zeros)


class Decoder(_Weights):
  """Embedding, layers and the last norm; the head is applied elsewhere.

  The layers are one layer scanned over stacked weights: what is compiled does
  not grow with depth.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, tokens, positions, own_mask, prefix):
    c = self.config
    x = Embed(dtype=c.dtype, config=c, name="embed")(tokens)
    if not c.tie_embeddings:
      Head(dtype=c.dtype, config=c, name="head")()
    if c.partition_head:  # declared here, called by `log_z`
      LogZ(dtype="float32", config=c, name="log_z")(
          jnp.zeros((1, c.embed_dim)))
    angles = rope.angles(
        positions, c.head_dim, c.rope_theta, c.rope_scaling)
    block = Layer
    if c.remat != "none":
      policy = None
      if c.remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
      block = nn.remat(Layer, prevent_cse=False, policy=policy)
    scanned = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True},
        length=c.num_layers,
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        metadata_params={nn.PARTITION_NAME: None})
    pair = None if prefix is None else (prefix.k, prefix.v)
    mask = None if prefix is None else prefix.mask_NP
    x, own = scanned(config=c, name="layers")(x, pair, angles, own_mask, mask)
    x = Norm(
        dtype=c.dtype, width=c.embed_dim, eps=c.norm_eps, name="norm")(x)
    return x, own


def _decoder(config: ModelConfig) -> Decoder:
  return Decoder(dtype=config.dtype, config=config)


def _init(config: ModelConfig, key):
  """Boxed parameters (with logical axes), traced or real."""
  # No parameter depends on the kernel, and not every machine can trace it.
  config = dataclasses.replace(config, attention="xla")
  tokens = jnp.zeros((1, 1, 1), jnp.int32)
  return _decoder(config).init(key, tokens, tokens, None, None)["params"]


@functools.lru_cache(maxsize=64)
def abstract_params(config: ModelConfig) -> Any:
  """The parameter tree as `jax.ShapeDtypeStruct`s, float32."""
  return nn.meta.unbox(
      jax.eval_shape(functools.partial(_init, config), jax.random.key(0)))


@functools.lru_cache(maxsize=64)
def shardings(config: ModelConfig, mesh) -> Any:
  """A tree of `NamedSharding`s like the parameters'."""
  boxed = jax.eval_shape(functools.partial(_init, config), jax.random.key(0))
  axes = jax.tree.map(
      lambda box: box.names, boxed,
      is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))
  return jax.tree.map(
      lambda leaf, names: sharding.named(names, leaf.shape, mesh),
      nn.meta.unbox(boxed), axes)


def init(config: ModelConfig, key, mesh) -> Any:
  """Random float32 parameters, each born in its sharding."""
  make = jax.jit(
      lambda k: nn.meta.unbox(_init(config, k)),
      out_shardings=shardings(config, mesh))
  return make(key)


def with_partition_head(
    config: ModelConfig, params, key, mesh,
) -> tuple[ModelConfig, Any]:
  """The same policy with a new, random partition head."""
  config = dataclasses.replace(config, partition_head=True)
  make = jax.jit(
      lambda k: nn.meta.unbox(_init(config, k))["log_z"],
      out_shardings=shardings(config, mesh)["log_z"])
  return config, {**params, "log_z": make(key)}


def without_partition_head(
    config: ModelConfig, params) -> tuple[ModelConfig, Any]:
  """The policy alone."""
  config = dataclasses.replace(config, partition_head=False)
  return config, {k: v for k, v in params.items() if k != "log_z"}


def with_lora(
    config: ModelConfig, lora: config_lib.LoRA, params, key, mesh,
) -> tuple[ModelConfig, Any]:
  """The same policy with new adapters in float32, which change nothing yet."""
  config = dataclasses.replace(config, lora=lora)

  def pick(tree):
    return lora_lib.split(config, {"layers": tree["layers"]})[0]

  make = jax.jit(
      lambda k: pick(nn.meta.unbox(_init(config, k))),
      out_shardings=pick(shardings(config, mesh)))
  return config, lora_lib.join(make(key), params)


def merged(config: ModelConfig, params, mesh) -> tuple[ModelConfig, Any]:
  """The same policy as a model without adapters; takes the weights over."""
  if config.lora is None:
    return config, params
  plain = dataclasses.replace(config, lora=None)
  merge = jax.jit(
      lambda frozen, trained: lora_lib.merge(
          config, lora_lib.join(trained, frozen)),
      donate_argnums=0, out_shardings=shardings(plain, mesh))
  trained, frozen = lora_lib.split(config, params)
  return plain, merge(frozen, trained)


def log_z(
    config: ModelConfig, params, hidden_NPD, mask_NP, keys_N=None,
) -> jax.Array:
  """Log of the partition function of each prompt, as the head estimates it.

  Args:
    config: of the model.
    params: its parameters, with a partition head.
    hidden_NPD: last hidden states of the prompts.
    mask_NP: bool, real tokens; the head reads the mean over them.
    keys_N: PRNG keys of each row, for dropout; None for none.

  Returns:
    log_z_N, float32.
  """
  mean_ND = ops.masked_mean(hidden_NPD, mask_NP[..., None], axis=1)
  return LogZ(dtype="float32", config=config).apply(
      {"params": params["log_z"]}, mean_ND, keys_N)


def head(params) -> jax.Array:
  """Output embedding [D, V]."""
  if "head" in params:
    return params["head"]["kernel"]
  return params["embed"]["tokens"].T


def prefill(
    config: ModelConfig, params, tokens_NP, mask_NP,
) -> tuple[jax.Array, cache_lib.Prefix]:
  """Reads prompts.

  Args:
    config: of the model.
    params: its parameters.
    tokens_NP: int32, padded on either side.
    mask_NP: bool, real tokens.

  Returns:
    (hidden_NPD, prefix): hidden states (to be ignored at padding), and the
    keys for `extend`.
  """
  positions = jnp.maximum(jnp.cumsum(mask_NP, axis=1) - 1, 0)
  hidden, (k, v) = _decoder(config).apply(
      {"params": params}, tokens_NP[:, None], positions[:, None], mask_NP,
      None)
  prefix = cache_lib.Prefix(k=k[:, :, 0], v=v[:, :, 0], mask_NP=mask_NP)
  return hidden[:, 0], prefix


def extend(
    config: ModelConfig, params, tokens_NRT, prefix: cache_lib.Prefix,
) -> jax.Array:
  """Reads R responses after each of N prompts, all columns at once.

  Args:
    config: of the model.
    params: its parameters.
    tokens_NRT: int32; padding may only follow real tokens.
    prefix: from `prefill`.

  Returns:
    hidden_NRTD.
  """
  columns = jnp.arange(tokens_NRT.shape[2])
  hidden, _ = _decoder(config).apply(
      {"params": params}, tokens_NRT, _positions(prefix, tokens_NRT, columns),
      None, prefix)
  return hidden


def unroll(config: ModelConfig, params) -> dict:
  """Parameters as `decode` reads them: a tree a layer, in the compute type.

  Merged, cast and cut once, outside the loop over tokens. Inside it, cutting
  a layer out of stacked weights would copy the whole model for every token.
  """
  params = lora_lib.merge(config, params)
  params = jax.tree.map(lambda x: x.astype(config.dtype), params)
  layers_ = tuple(
      jax.tree.map(lambda x, i=i: x[i], params["layers"])
      for i in range(config.num_layers))
  return {**params, "layers": layers_}


def decode(
    config: ModelConfig, unrolled, tokens_NRT, prefix: cache_lib.Prefix,
    cache: cache_lib.Cache,
) -> tuple[jax.Array, cache_lib.Cache]:
  """Reads the next columns of R responses after each of N prompts.

  The modules are those that `extend` scans; here each layer has its own
  weights and cache, which is written in place and read where it lies.

  Args:
    config: of the model.
    unrolled: from `unroll`.
    tokens_NRT: int32, the next column or columns.
    prefix: from `prefill`.
    cache: with the columns before these.

  Returns:
    (hidden_NRTD, cache with these columns written).
  """
  c = dataclasses.replace(config, lora=None)  # `unroll` has merged it
  columns = cache.length + jnp.arange(tokens_NRT.shape[2])
  positions = _positions(prefix, tokens_NRT, columns)
  angles = rope.angles(
      positions, c.head_dim, c.rope_theta, c.rope_scaling)
  seen = jnp.arange(cache.size) <= columns[:, None]
  x = Embed(dtype=c.dtype, config=c).apply(
      {"params": unrolled["embed"]}, tokens_NRT)
  written = []
  for i, weights in enumerate(unrolled["layers"]):
    x, own = Layer(c).apply(
        {"params": weights}, x, (prefix.k[i], prefix.v[i]), angles, seen,
        prefix.mask_NP, (cache.k[i], cache.v[i], cache.length))
    written.append(own)
  x = Norm(dtype=c.dtype, width=c.embed_dim, eps=c.norm_eps).apply(
      {"params": unrolled["norm"]}, x)
  k, v = zip(*written, strict=True)
  return x, cache.replace(
      k=k, v=v, length=cache.length + tokens_NRT.shape[2])


def _positions(prefix: cache_lib.Prefix, tokens_NRT, columns) -> jax.Array:
  """Positions of response columns: they follow the real prompt tokens."""
  prompt = jnp.sum(prefix.mask_NP, axis=1)
  return jnp.broadcast_to(
      prompt[:, None, None] + columns, tokens_NRT.shape)


def logits(config: ModelConfig, params, tokens_BT, mask_BT) -> jax.Array:
  """Logits [B, T, V], float32; for tests and notebooks: it holds them all.

  Padding may stand on either side; `mask_BT` says what is real.
  """
  hidden, _ = prefill(config, params, tokens_BT, mask_BT)
  return ops.matmul_logits(hidden, head(params))
