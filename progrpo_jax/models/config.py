"""One description of every decoder that the policy can be."""

import dataclasses
from typing import Any

# Fields of a Hugging Face config that change the arithmetic in ways that this
# decoder does not implement; each is refused unless it has the value named.
_NEUTRAL = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "rope_scaling": (None,),
    "attention_dropout": (0, 0.0, None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, 1.0, None),
}

# A field of our own, in the config.json of a run's workdir.
_PARTITION_HEAD = "progrpo_partition_head"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and arithmetic of a decoder of the Qwen2 architecture.

  Attributes:
    vocab_size: V, rows of the embedding (padding rows included).
    num_layers: L.
    embed_dim: D, width of the residual stream.
    num_heads: N, query heads.
    num_kv_heads: K, key and value heads; divides N.
    head_dim: H.
    mlp_dim: F, width of the gated MLP.
    rope_theta: base of the rotary frequencies.
    norm_eps: epsilon of RMSNorm.
    qkv_bias: whether q, k and v have biases (Qwen2: yes).
    tie_embeddings: whether the head is the transposed embedding.
    max_positions: longest sequence that the model was made for.
    dtype: compute type, "float32" or "bfloat16"; masters stay as stored.
    remat: "none" or "layer" (recompute each layer in the backward pass).
    partition_head: whether FlowRL's estimate of log Z is trained beside the
      policy; it is no part of what is exported.
  """

  vocab_size: int
  num_layers: int
  embed_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  rope_theta: float = 1e6
  norm_eps: float = 1e-6
  qkv_bias: bool = True
  tie_embeddings: bool = True
  max_positions: int = 32768
  dtype: str = "float32"
  remat: str = "none"
  partition_head: bool = False

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
          f"{self.num_kv_heads}")
    if self.head_dim % 2:
      raise ValueError(f"head_dim {self.head_dim} must be even for RoPE")
    if self.dtype not in ("float32", "bfloat16"):
      raise ValueError(
          f"dtype {self.dtype!r} must be 'float32' or 'bfloat16'")
    if self.remat not in ("none", "layer"):
      raise ValueError(f"remat {self.remat!r} must be 'none' or 'layer'")

  @property
  def num_params(self) -> int:
    """Number of the policy's parameters, tied embeddings counted once."""
    d, h, f = self.embed_dim, self.head_dim, self.mlp_dim
    heads = self.num_heads + 2 * self.num_kv_heads
    attention = d * h * (heads + self.num_heads)
    bias = h * heads if self.qkv_bias else 0
    layer = attention + bias + 3 * d * f + 2 * d
    embeddings = self.vocab_size * d * (1 if self.tie_embeddings else 2)
    return self.num_layers * layer + embeddings + d

  @classmethod
  def tiny(cls, vocab_size: int = 64, **changes) -> "ModelConfig":
    """The laptop policy: three layers of width 64."""
    base = cls(
        vocab_size=vocab_size, num_layers=3, embed_dim=64, num_heads=4,
        num_kv_heads=2, head_dim=16, mlp_dim=192, rope_theta=1e4,
        max_positions=1024)
    return dataclasses.replace(base, **changes)

  @classmethod
  def from_hf(cls, hf: dict[str, Any], **changes) -> "ModelConfig":
    """Reads the dict of a Hugging Face `config.json`.

    Raises:
      ValueError: the architecture or a field is not implemented; the message
        names it.
    """
    kind = hf.get("model_type")
    if kind != "qwen2":
      raise ValueError(
          f"model_type {kind!r} is not supported; supported: 'qwen2'")
    for name, allowed in _NEUTRAL.items():
      if hf.get(name, allowed[0]) not in allowed:
        raise ValueError(
            f"config field {name}={hf[name]!r} changes the arithmetic in a "
            f"way that is not implemented; supported: {allowed[0]!r}")
    # Transformers 5 writes RoPE under `rope_parameters`, earlier ones at the
    # top level.
    rope = hf.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
      raise ValueError(
          f"rope_type {rope['rope_type']!r} is not supported; "
          "supported: 'default'")
    missing = [k for k in (
        "vocab_size", "num_hidden_layers", "hidden_size",
        "num_attention_heads", "intermediate_size") if k not in hf]
    if missing:
      raise ValueError(f"config.json lacks {', '.join(missing)}")
    heads = hf["num_attention_heads"]
    fields = dict(
        vocab_size=hf["vocab_size"],
        num_layers=hf["num_hidden_layers"],
        embed_dim=hf["hidden_size"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads", heads),
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
        mlp_dim=hf["intermediate_size"],
        rope_theta=float(
            rope.get("rope_theta", hf.get("rope_theta", 10000.0))),
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        qkv_bias=True,
        tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        max_positions=hf.get("max_position_embeddings", 32768),
        partition_head=bool(hf.get(_PARTITION_HEAD, False)),
    )
    return cls(**(fields | changes))

  def to_hf(self) -> dict[str, Any]:
    """The dict that `from_hf` reads and that transformers loads.

    Raises:
      ValueError: the model has no such form.
    """
    if not self.qkv_bias:
      raise ValueError("Qwen2 has no form with qkv_bias=False")
    own = {_PARTITION_HEAD: True} if self.partition_head else {}
    return own | dict(
        architectures=["Qwen2ForCausalLM"],
        model_type="qwen2",
        vocab_size=self.vocab_size,
        num_hidden_layers=self.num_layers,
        hidden_size=self.embed_dim,
        num_attention_heads=self.num_heads,
        num_key_value_heads=self.num_kv_heads,
        head_dim=self.head_dim,
        intermediate_size=self.mlp_dim,
        rope_theta=self.rope_theta,
        rms_norm_eps=self.norm_eps,
        tie_word_embeddings=self.tie_embeddings,
        max_position_embeddings=self.max_positions,
        hidden_act="silu",
        attention_dropout=0.0,
        use_sliding_window=False,
        torch_dtype="float32",
    )
