"""The policy: one decoder for sampler, scorer and update.

Flax Linen declares each weight once (shape, logical axes, initialiser) and
scans one layer over stacked weights. Other packages call the functions below
and never a Linen module: parameters are a plain dict, and caches are explicit
arguments and results.

`read` reads packed rows of prompts and responses (scoring and training).
`prefill` reads prompts and `decode` the responses after them, a token at a time
(sampling). All three run the same modules, so sampler and trainer compute the
same function.

Axis letters are those of the legend in `batch`.
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
  """Base of modules with weights.

  Attributes:
    dtype: compute type; weights are cast to it where they are used.
  """

  dtype: str

  def weight(self, name, shape, axes, init):
    """Declares a weight with its logical axes; returns it in `dtype`."""
    boxed = nn.with_logical_partitioning(init, axes)
    return self.param(name, boxed, shape).astype(self.dtype)


class _Products(_Weights):
  """Base of modules that multiply activations by weights.

  Attributes:
    config: model configuration.
  """

  config: ModelConfig

  def product(self, x, name, shape, axes, inputs=1):
    """Multiplies `x` by a weight, plus its LoRA adapters if it has any.

    Args:
      x: activations [..., product of the input sizes].
      name: name of the weight.
      shape: shape of the weight, input axes first.
      axes: logical axes of the weight.
      inputs: number of its input axes.

    Returns:
      [..., output axes of the weight].
    """
    ins, outs, lora = shape[:inputs], shape[inputs:], self.config.lora
    kernel = self.weight(name, shape, axes, nn.initializers.normal(0.02))
    out = layers.linear(x, kernel.reshape(-1, *outs))
    if lora is None or not lora.adapts(name):
      return out
    # Initialised as in PEFT: A uniform and B zero, so A B = 0 at the start
    # and the policy equals the base model.
    bound = math.prod(ins) ** -0.5
    a = self.weight(
      name + lora_lib.A,
      (*ins, lora.rank),
      (*axes[:inputs], None),
      lambda *args: jax.random.uniform(*args, minval=-bound, maxval=bound),
    )
    b = self.weight(
      name + lora_lib.B,
      (lora.rank, *outs),
      (None, *axes[inputs:]),
      nn.initializers.zeros,
    )
    low = layers.linear(x, a.reshape(-1, lora.rank))
    return out + lora.scale * layers.linear(low, b)


class Norm(_Weights):
  """RMSNorm over the last axis.

  Attributes:
    width: size of that axis.
    eps: epsilon under the root.
  """

  width: int
  eps: float

  @nn.compact
  def __call__(self, x):
    scale = self.weight("scale", (self.width,), (None,), nn.initializers.ones)
    return layers.rms_norm(x, scale, self.eps)


class Attention(_Products):
  """Grouped-query attention with rotary positions."""

  @nn.compact
  def __call__(
    self,
    x,
    angles,
    segments=None,
    own_mask=None,
    prefix=None,
    prefix_mask=None,
    past=None,
  ):
    """Attends to the sequence's own keys and to those of its prompt.

    Whole rows come with `segments` alone; columns that are decoded, with all
    the other arguments instead.

    Args:
      x: [N, R, T, D], normed residual stream.
      angles: [N, R, T, H / 2], rotary angles.
      segments: `attention.Segments` of the columns.
      own_mask: bool [T, S], cache columns that each query sees.
      prefix: (k, v) of the prompt, as for `attention.attend`.
      prefix_mask: bool [N, C], real prompt tokens.
      past: ((k, v, column), older) of the cache, as for `cache.write` and
        `attention.attend`.

    Returns:
      (out, own): attention output [N, R, T, D]; own keys and values
      [N, R, K, H, S] and [N, R, K, S, H], with S = T without `past`.
    """
    c = self.config
    d, q, k, h = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim

    # [N, R, T, D] -> [N, R, T, heads, H].
    def project(name, heads, axis):
      out = self.product(x, name, (d, heads, h), ("embed", axis, None))
      if c.qkv_bias:
        out += self.weight(
          f"{name}_bias", (heads, h), (axis, None), nn.initializers.zeros
        )
      return out

    # Projection, norm of each head (Qwen3), rotation by position.
    def project_rotated(name, heads, axis):
      out = project(name, heads, axis)
      if c.qk_norm:
        out = Norm(dtype=c.dtype, width=h, eps=c.norm_eps, name=f"{name}_norm")(
          out
        )
      amplitude = c.rope_scaling.amplitude if c.rope_scaling else 1.0
      return rope.rotate(out, angles, amplitude)

    query = project_rotated("q", q, "heads")
    keys = project_rotated("k", k, "kv_heads")
    values = project("v", k, "kv_heads")
    # [N, R, T, K, H] -> [N, R, K, H, T] and [N, R, K, T, H], the layout of
    # the cache.
    own = keys.transpose(0, 1, 3, 4, 2), values.swapaxes(2, 3)
    # Consecutive query heads share a key head: [.., Q, H] -> [.., K, M, H].
    batch = query.shape[:3]
    query = query.reshape(batch + (k, q // k, h))
    with jax.named_scope("attend"):
      if past is not None:
        past, older = past
        own = cache_lib.write(past, own)
        out = attention.attend(
          query, own, own_mask, prefix, prefix_mask, older=older
        )
      else:
        implementation = attention.choose(c, sharding.platform())[0]
        out = attention.causal(query, own, segments, implementation)
    out = self.product(
      out.reshape(batch + (q * h,)),
      "o",
      (q, h, d),
      ("heads", None, "embed"),
      inputs=2,
    )
    return out, own


class Mlp(_Products):
  """Gated MLP (SwiGLU)."""

  @nn.compact
  def __call__(self, x):
    """Maps [..., D] to [..., D]."""
    d, f = self.config.embed_dim, self.config.mlp_dim

    def product(name, shape, axes):
      return lambda x: self.product(x, name, shape, axes)

    return layers.gated_mlp(
      x,
      product("gate", (d, f), ("embed", "mlp")),
      product("up", (d, f), ("embed", "mlp")),
      product("down", (f, d), ("mlp", "embed")),
    )


class Layer(nn.Module):
  """One layer: attention and MLP, each behind a norm and a residual sum.

  Attributes:
    config: model configuration.
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x,
    angles,
    segments=None,
    own_mask=None,
    prefix=None,
    prefix_mask=None,
    past=None,
  ):
    """Returns (residual stream, own keys and values); see `Attention`."""
    c = self.config
    norm = functools.partial(
      Norm, dtype=c.dtype, width=c.embed_dim, eps=c.norm_eps
    )
    out, own = Attention(dtype=c.dtype, config=c, name="attention")(
      norm(name="attention_norm")(x),
      angles,
      segments=segments,
      own_mask=own_mask,
      prefix=prefix,
      prefix_mask=prefix_mask,
      past=past,
    )
    x = x + out
    with jax.named_scope("mlp"):
      x = x + Mlp(dtype=c.dtype, config=c, name="mlp")(norm(name="mlp_norm")(x))
    return x, own


class Embed(_Weights):
  """Token embedding.

  Attributes:
    config: model configuration.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, tokens):
    """Maps int32 tokens [...] to vectors [..., D]."""
    c = self.config
    table = self.weight(
      "tokens",
      (c.vocab_size, c.embed_dim),
      ("vocab", "embed"),
      nn.initializers.normal(0.02),
    )
    # Activations are split by rows from here on. Without this constraint the
    # partitioner may follow the table and split the width instead.
    return sharding.constrain_rows(table[tokens])


class Head(_Weights):
  """Output embedding of a model with untied embeddings.

  Attributes:
    config: model configuration.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self):
    """Declares the kernel [D, V]; `head` reads it from the parameters."""
    c = self.config
    self.weight(
      "kernel",
      (c.embed_dim, c.vocab_size),
      ("embed", "vocab"),
      nn.initializers.normal(0.02),
    )


class LogZ(_Weights):
  """FlowRL's partition head: estimates log Z from a prompt's hidden states.

  Three linear layers as wide as the model; GELU, LayerNorm and dropout after
  the first two (https://arxiv.org/abs/2509.15207, section 4).

  Attributes:
    config: model configuration.
    dropout: probability of zeroing an activation.
  """

  config: ModelConfig
  dropout: float = 0.1

  @nn.compact
  def __call__(self, x_ND, keys_N=None):
    """Returns log_z_N of mean states; `keys_N` as for `log_z`."""
    d = self.config.embed_dim
    normal, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
    x = x_ND.astype(jnp.float32)
    for i in range(2):
      x = x @ self.weight(f"linear_{i}", (d, d), ("embed", None), normal)
      x = jax.nn.gelu(x + self.weight(f"linear_{i}_bias", (d,), (None,), zeros))
      x = jax.nn.standardize(x, axis=-1, epsilon=self.config.norm_eps)
      x = x * self.weight(
        f"norm_{i}_scale", (d,), (None,), nn.initializers.ones
      )
      x = x + self.weight(f"norm_{i}_bias", (d,), (None,), zeros)
      if keys_N is not None:
        # A key per row: a row's dropout does not depend on its micro-batch.
        kept = jax.vmap(
          lambda key, i=i: jax.random.bernoulli(
            jax.random.fold_in(key, i), 1 - self.dropout, (d,)
          )
        )(keys_N)
        x = jnp.where(kept, x / (1 - self.dropout), 0.0)
    x = x @ self.weight("output", (d, 1), ("embed", None), normal)
    return x[:, 0] + self.weight("output_bias", (1,), (None,), zeros)


class Decoder(_Weights):
  """Embedding, layers and final norm; callers apply the output embedding.

  One layer is scanned over stacked weights, so the compiled program does not
  grow with depth.

  Attributes:
    config: model configuration.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, tokens, positions, segments):
    """Reads rows.

    Args:
      tokens: int32 [N, R, T].
      positions: int32 [N, R, T], rotary positions.
      segments: `attention.Segments` of the columns.

    Returns:
      (hidden, (k, v)): [N, R, T, D]; [L, N, R, K, H, T], [L, N, R, K, T, H].
    """
    c = self.config
    x = Embed(dtype=c.dtype, config=c, name="embed")(tokens)
    if not c.tie_embeddings:
      Head(dtype=c.dtype, config=c, name="head")()
    # Called only to declare its weights; `log_z` computes with them.
    if c.partition_head:
      LogZ(dtype="float32", config=c, name="log_z")(jnp.zeros((1, c.embed_dim)))
    angles = rope.angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
    block = Layer
    if c.remat != "none":
      policy = None  # of "layer": keeps nothing but the layer's inputs
      if c.remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
      block = nn.remat(Layer, prevent_cse=False, policy=policy)
    scanned = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=c.num_layers,
      in_axes=nn.broadcast,
      metadata_params={nn.PARTITION_NAME: None},
    )
    x, own = scanned(config=c, name="layers")(x, angles, segments)
    x = Norm(dtype=c.dtype, width=c.embed_dim, eps=c.norm_eps, name="norm")(x)
    return x, own


def _decoder(config: ModelConfig) -> Decoder:
  return Decoder(dtype=config.dtype, config=config)


def _init(config: ModelConfig, key):
  """Random parameters in boxes that hold their logical axes."""
  # Parameters do not depend on the attention kernel, and tracing a kernel
  # fails on machines without its platform.
  config = dataclasses.replace(config, attention="xla")
  tokens = jnp.zeros((1, 1, 1), jnp.int32)
  segments = attention.Segments(tokens[0])
  return _decoder(config).init(key, tokens, tokens, segments)["params"]


def _shapes(config: ModelConfig) -> Any:
  """Shapes of the parameters in their boxes; nothing is computed."""
  return jax.eval_shape(lambda: _init(config, jax.random.key(0)))


@functools.lru_cache(maxsize=64)
def abstract_params(config: ModelConfig) -> Any:
  """The parameter tree as `jax.ShapeDtypeStruct`s, float32."""
  return nn.meta.unbox(_shapes(config))


@functools.lru_cache(maxsize=64)
def shardings(config: ModelConfig, mesh) -> Any:
  """The sharding of each parameter on a mesh, as a tree of `NamedSharding`."""
  return jax.tree.map(
    lambda leaf, names: sharding.named(names, leaf.shape, mesh),
    abstract_params(config),
    _axes(config),
  )


def sharded_params(config: ModelConfig, mesh, dtype: str = "float32") -> Any:
  """Shapes of the parameters on a mesh, with their shardings.

  Args:
    config: model configuration.
    mesh: mesh that would hold them; its devices need not exist.
    dtype: type of all parameters.

  Returns:
    Nested dict of `jax.ShapeDtypeStruct`.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s),
    abstract_params(config),
    shardings(config, mesh),
  )


@functools.lru_cache(maxsize=64)
def decode_shardings(config: ModelConfig, mesh) -> dict:
  """The sharding of each parameter from `unroll`, whole over `fsdp`."""
  plain = _plain(config)
  shapes = jax.eval_shape(
    functools.partial(unroll, plain), abstract_params(plain)
  )
  axes = _axes(plain)
  of_layer = jax.tree.map(
    lambda names: names[1:],
    axes["layers"],
    is_leaf=lambda x: isinstance(x, tuple),
  )
  return jax.tree.map(
    lambda leaf, names: sharding.named(
      names, leaf.shape, mesh, sharding.DECODING
    ),
    shapes,
    {**axes, "layers": (of_layer,) * config.num_layers},
  )


def _axes(config: ModelConfig) -> Any:
  """Logical axes of each parameter, as a tree of tuples of names."""
  return jax.tree.map(
    lambda box: box.names,
    _shapes(config),
    is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata),
  )


def _plain(config: ModelConfig) -> ModelConfig:
  """The model that decoding runs: without adapters and partition head."""
  return dataclasses.replace(config, lora=None, partition_head=False)


def init(config: ModelConfig, key, mesh) -> Any:
  """Random float32 parameters, each created in its sharding.

  Args:
    config: model configuration.
    key: PRNG key of the initialisers.
    mesh: mesh that holds the parameters.

  Returns:
    Nested dict of arrays.
  """
  make = jax.jit(
    lambda k: nn.meta.unbox(_init(config, k)),
    out_shardings=shardings(config, mesh),
  )
  return make(key)


def with_partition_head(
  config: ModelConfig, params, key, mesh
) -> tuple[ModelConfig, Any]:
  """Adds a random partition head; returns the new (config, params)."""
  config = dataclasses.replace(config, partition_head=True)
  make = jax.jit(
    lambda k: nn.meta.unbox(_init(config, k))["log_z"],
    out_shardings=shardings(config, mesh)["log_z"],
  )
  return config, {**params, "log_z": make(key)}


def without_partition_head(
  config: ModelConfig, params
) -> tuple[ModelConfig, Any]:
  """Removes the partition head, if any; returns the new (config, params)."""
  config = dataclasses.replace(config, partition_head=False)
  return config, {k: v for k, v in params.items() if k != "log_z"}


def with_lora(
  config: ModelConfig, lora: config_lib.LoRA, params, key, mesh
) -> tuple[ModelConfig, Any]:
  """Adds float32 adapters; returns the new (config, params).

  New adapters are zero products, so the policy stays the same function.

  Args:
    config: model configuration without adapters.
    lora: adapter configuration.
    params: parameters of the model, kept as they are.
    key: PRNG key of the adapters' initialisers.
    mesh: mesh that holds the parameters.
  """
  config = dataclasses.replace(config, lora=lora)

  def adapters(tree):
    return lora_lib.split(config, {"layers": tree["layers"]})[0]

  make = jax.jit(
    lambda k: adapters(nn.meta.unbox(_init(config, k))),
    out_shardings=adapters(shardings(config, mesh)),
  )
  return config, lora_lib.join(make(key), params)


def merged(config: ModelConfig, params, mesh) -> tuple[ModelConfig, Any]:
  """Folds adapters into their weights; returns the new (config, params).

  The frozen weights in `params` are donated: do not use them afterwards.
  """
  if config.lora is None:
    return config, params
  plain = dataclasses.replace(config, lora=None)
  merge = jax.jit(
    lambda frozen, trained: lora_lib.merge(
      config, lora_lib.join(trained, frozen)
    ),
    donate_argnums=0,
    out_shardings=shardings(plain, mesh),
  )
  trained, frozen = lora_lib.split(config, params)
  return plain, merge(frozen, trained)


def log_z(config: ModelConfig, params, mean_ND, keys_N=None) -> jax.Array:
  """Log of each prompt's partition function, estimated by the partition head.

  Args:
    config: model configuration.
    params: parameters with a partition head.
    mean_ND: mean of each prompt's last hidden states.
    keys_N: PRNG key of each row's dropout; None turns dropout off.

  Returns:
    log_z_N, float32.
  """
  return LogZ(dtype="float32", config=config).apply(
    {"params": params["log_z"]}, mean_ND, keys_N
  )


def head(params) -> jax.Array:
  """Output embedding [D, V]; the transposed token embedding where tied."""
  if "head" in params:
    return params["head"]["kernel"]
  return params["embed"]["tokens"].T


def prefill(
  config: ModelConfig, params, tokens_NT, mask_NT
) -> tuple[jax.Array, cache_lib.Prefix]:
  """Reads prompts.

  Args:
    config: model configuration.
    params: parameters.
    tokens_NT: int32 prompt tokens, padded on either side.
    mask_NT: bool, real tokens.

  Returns:
    (hidden_NTD, prefix): hidden states (meaningless at padding), and the
    prompts' keys and values for `decode`.
  """
  # Positions count real tokens, so padding does not shift a prompt. The
  # decoder reads the prompt as one response [N, 1, T].
  positions = jnp.maximum(jnp.cumsum(mask_NT, axis=1) - 1, 0)
  hidden, (k, v) = _decoder(config).apply(
    {"params": params},
    tokens_NT[:, None],
    positions[:, None],
    attention.Segments(mask_NT.astype(jnp.int32), packed=False),
  )
  prefix = cache_lib.Prefix(k=k[:, :, 0], v=v[:, :, 0], mask_NC=mask_NT)
  return hidden[:, 0], prefix


def read(
  config: ModelConfig,
  params,
  tokens_EW,
  position_EW,
  segments: attention.Segments,
) -> jax.Array:
  """Reads packed rows, prompts and responses in one pass.

  Args:
    config: model configuration.
    params: parameters.
    tokens_EW: int32 tokens.
    position_EW: int32, rotary position of each.
    segments: bundle and response of each token.

  Returns:
    hidden_EWD, hidden states; meaningless at padding.
  """
  hidden, _ = _decoder(config).apply(
    {"params": params}, tokens_EW[:, None], position_EW[:, None], segments
  )
  return hidden[:, 0]


def unroll(config: ModelConfig, params) -> dict:
  """Parameters for `decode`: adapters merged, cast, one tree per layer.

  Call it once, outside the loop over tokens: inside the loop, slicing a layer
  out of stacked weights would copy the whole model for every token.
  """
  _, params = without_partition_head(config, params)
  params = lora_lib.merge(config, params)
  params = jax.tree.map(lambda x: x.astype(config.dtype), params)
  layers_ = tuple(
    jax.tree.map(lambda x, i=i: x[i], params["layers"])
    for i in range(config.num_layers)
  )
  return {**params, "layers": layers_}


def for_decoding(config: ModelConfig, params, mesh) -> dict:
  """Lays parameters out as decoding reads them: `unroll`, whole over `fsdp`.

  The devices exchange the weights here, in the compute type, and not again for
  any token.

  Args:
    config: model configuration.
    params: parameters of training.
    mesh: mesh that holds them.
  """
  return _unroller(config, mesh)(params)


def for_prompts(config: ModelConfig, params, mesh) -> dict:
  """Returns parameters as `prefill` reads them on a mesh.

  Those of training themselves, if they are on this mesh; otherwise a copy in
  the compute type, split over it as training would split them.

  Args:
    config: model configuration.
    params: parameters of training.
    mesh: mesh of the same devices in the same order.
  """
  place = jax.tree.leaves(params)[0].sharding
  # What was never put on a mesh lies whole on one device, as this mesh does.
  if not isinstance(place, jax.NamedSharding) or place.mesh == mesh:
    return params
  return _caster(config, mesh)(params)


@functools.lru_cache(maxsize=64)
def _caster(config: ModelConfig, mesh):
  """A compiled cast to the compute type; one for each model and mesh."""
  return jax.jit(
    functools.partial(jax.tree.map, lambda x: x.astype(config.dtype)),
    out_shardings=shardings(config, mesh),
  )


@functools.lru_cache(maxsize=64)
def _unroller(config: ModelConfig, mesh):
  """`unroll` as a compiled function; one is kept for each model and mesh."""
  return jax.jit(
    functools.partial(unroll, config),
    out_shardings=decode_shardings(config, mesh),
  )


def decode(
  config: ModelConfig,
  unrolled,
  tokens_NRT,
  prefix: cache_lib.Prefix,
  cache: cache_lib.Cache,
  older: cache_lib.Cache | None = None,
) -> tuple[jax.Array, cache_lib.Cache]:
  """Reads the next columns of R responses after each of N prompts.

  Runs the modules that `read` scans, as a Python loop over layers: each
  layer then has its own cache arrays.

  Args:
    config: model configuration.
    unrolled: parameters from `unroll`.
    tokens_NRT: int32, the next column or columns of the responses.
    prefix: keys and values of the prompts, from `prefill`.
    cache: keys and values of the columns before these.
    older: keys and values of the columns before those of `cache`, which are
      only read, or None.

  Returns:
    (hidden_NRTD, cache): hidden states, and the cache with these columns
    written.
  """
  c = _plain(config)  # `unroll` merged the adapters
  columns = cache.length + jnp.arange(tokens_NRT.shape[2])
  # bool [T, S]: each query sees the cache up to its own column.
  seen = jnp.arange(cache.size) <= columns[:, None]
  if older is not None:
    columns = older.length + columns
    older_seen = jnp.arange(older.size) < older.length
  positions = _positions(prefix, tokens_NRT, columns)
  angles = rope.angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
  x = Embed(dtype=c.dtype, config=c).apply(
    {"params": unrolled["embed"]}, tokens_NRT
  )
  layers_kv = []
  for i, weights in enumerate(unrolled["layers"]):
    x, own = Layer(c).apply(
      {"params": weights},
      x,
      angles,
      own_mask=seen,
      prefix=(prefix.k[i], prefix.v[i]),
      prefix_mask=prefix.mask_NC,
      past=(
        (cache.k[i], cache.v[i], cache.length),
        None if older is None else (older.k[i], older.v[i], older_seen),
      ),
    )
    layers_kv.append(own)
  x = Norm(dtype=c.dtype, width=c.embed_dim, eps=c.norm_eps).apply(
    {"params": unrolled["norm"]}, x
  )
  k, v = zip(*layers_kv, strict=True)
  return x, cache.replace(k=k, v=v, length=cache.length + tokens_NRT.shape[2])


def _positions(prefix: cache_lib.Prefix, tokens_NRT, columns) -> jax.Array:
  """Positions [N, R, T] of response columns, counted after the real prompt."""
  prompt_length = jnp.sum(prefix.mask_NC, axis=1)
  return jnp.broadcast_to(
    prompt_length[:, None, None] + columns, tokens_NRT.shape
  )


def logits(config: ModelConfig, params, tokens_BT, mask_BT) -> jax.Array:
  """Float32 logits [B, T, V] of whole sequences, for tests and notebooks.

  All logits are held at once; training uses `ops.token_stats` instead.

  Args:
    config: model configuration.
    params: parameters.
    tokens_BT: int32 tokens, padded on either side.
    mask_BT: bool, real tokens.
  """
  hidden, _ = prefill(config, params, tokens_BT, mask_BT)
  return ops.matmul_logits(hidden, head(params))
