"""The decoder's modules: each weight is declared here, once.

A weight has a shape, logical axes and an initialiser. What the modules compute
with it is in `layers`, `rope` and `attention`. Only `parameters` and
`transformer` use the modules; all others call the functions of those two.

Axis letters are those of the legend in `batch`.
"""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from progrpo_jax.devices import sharding
from progrpo_jax.models import attention, layers, rope
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import lora as lora_lib


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

  config: config_lib.ModelConfig

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

  config: config_lib.ModelConfig

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

  config: config_lib.ModelConfig

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

  config: config_lib.ModelConfig

  @nn.compact
  def __call__(self):
    """Declares the kernel [D, V], which `transformer.head` reads."""
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

  config: config_lib.ModelConfig
  dropout: float = 0.1

  @nn.compact
  def __call__(self, x_ND, keys_N=None):
    """Returns log_z_N of mean states; `keys_N` as for `transformer.log_z`."""
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

  config: config_lib.ModelConfig

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
    # Called only to declare its weights, which `transformer.log_z` reads.
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


def decoder(config: config_lib.ModelConfig) -> Decoder:
  """The decoder of a model, in its compute type."""
  return Decoder(dtype=config.dtype, config=config)
