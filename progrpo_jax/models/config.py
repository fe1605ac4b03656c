"""One description of every decoder that the policy can be.

Qwen2 and Qwen2.5, Qwen3 and Llama are one decoder with three switches. What a
checkpoint's configuration asks for beyond them is refused by name: a field
that nobody has read here might change the arithmetic.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from progrpo_jax.models import fields as fields_lib
from progrpo_jax.models import rope as rope_lib


@dataclasses.dataclass(frozen=True)
class Family:
  """What tells one architecture from another.

  Attributes:
    architecture: class of transformers that loads it.
    qkv_bias: whether q, k and v have biases.
    qk_norm: whether each head of q and k is normed before its rotation.
    head_dim: width of a head where a config does not say; None is the width
      of the model over its heads.
    fields: config fields that say so to transformers.
  """

  architecture: str
  qkv_bias: bool = False
  qk_norm: bool = False
  head_dim: int | None = None
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


FAMILIES = {
    "qwen2": Family(
        "Qwen2ForCausalLM", qkv_bias=True,
        fields={"use_sliding_window": False}),
    "qwen3": Family(
        "Qwen3ForCausalLM", qk_norm=True, head_dim=128,
        fields={"attention_bias": False, "use_sliding_window": False}),
    "llama": Family(
        "LlamaForCausalLM",
        fields={"attention_bias": False, "mlp_bias": False}),
}

# Fields of a Hugging Face config that change the arithmetic in ways that this
# decoder does not implement; each is refused unless it has a value named.
_NEUTRAL = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, 0.0, None),
    "partial_rotary_factor": (1, 1.0, None),
}

# Fields that are read, or that say nothing of the arithmetic. Any other one
# is refused, unless it is switched off (None or False).
_READ = {
    "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "rope_theta",
    "rope_scaling", "rope_parameters", "rms_norm_eps", "tie_word_embeddings",
    "max_position_embeddings", "model_type", "layer_types"}
_SILENT = {
    # Of the weights' beginning, their storage, and what wrote the file.
    "architectures", "initializer_range", "torch_dtype", "dtype",
    "transformers_version", "name_or_path", "unsloth_version",
    "unsloth_fixed", "use_cache", "auto_map", "finetuning_task",
    # Where sliding windows would be, if they were used.
    "sliding_window", "max_window_layers",
    # How the arithmetic is cut up, not what it is.
    "pretraining_tp", "chunk_size_feed_forward",
    # Special tokens; the tokenizer's own files are read for them.
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
    # What transformers 4 wrote into every config for every task.
    "return_dict", "id2label", "label2id", "problem_type", "pruned_heads",
    "task_specific_params", "tokenizer_class", "prefix", "is_decoder",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "bad_words_ids",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "num_return_sequences", "suppress_tokens", "begin_suppress_tokens",
    "exponential_decay_length_penalty", "tf_legacy_loss"}

# Fields of our own in the config.json of a run's workdir begin with this.
_OWN = "progrpo_"
_PARTITION_HEAD = _OWN + "partition_head"
_LORA = _OWN + "lora"

# Weights that LoRA can adapt, by the names of Hugging Face.
PROJECTIONS = {
    "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}

# No model is deeper or wider; beyond, shapes would overflow.
_DEEPEST, _WIDEST = 10_000, 1 << 24

ATTENTION = ("auto", "xla", "splash", "cudnn")
REMAT = ("none", "dots", "layer")


@dataclasses.dataclass(frozen=True)
class LoRA:
  """Low-rank adapters (https://arxiv.org/abs/2106.09685).

  Attributes:
    rank: r, at least 1.
    alpha: the product of the factors is multiplied by alpha / rank.
    targets: adapted weights, keys of `PROJECTIONS`.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...] = tuple(PROJECTIONS)

  def __post_init__(self):
    unknown = sorted(set(self.targets) - set(PROJECTIONS))
    if unknown or not self.targets:
      raise ValueError(
          f"LoRA targets {list(self.targets)}: known are "
          f"{', '.join(PROJECTIONS)}")
    if self.rank < 1:
      raise ValueError(f"LoRA rank {self.rank} must be at least 1")

  @property
  def scale(self) -> float:
    """What the product of the factors is multiplied by."""
    return self.alpha / self.rank

  def adapts(self, name: str) -> bool:
    """Whether it adapts a weight, by its name in the parameters."""
    return any(PROJECTIONS[t] == name for t in self.targets)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and arithmetic of a decoder.

  Attributes:
    vocab_size: V, rows of the embedding (padding rows included).
    num_layers: L.
    embed_dim: D, width of the residual stream.
    num_heads: N, query heads.
    num_kv_heads: K, key and value heads; divides N.
    head_dim: H.
    mlp_dim: F, width of the gated MLP.
    family: a key of `FAMILIES`.
    rope_theta: base of the rotary frequencies.
    rope_scaling: how they are stretched, or None.
    norm_eps: epsilon of RMSNorm.
    tie_embeddings: whether the head is the transposed embedding.
    max_positions: longest sequence that the model was made for.
    dtype: compute type, "float32" or "bfloat16"; masters stay as stored.
    remat: what the backward pass recomputes: "none"; "dots" (everything but
      products with weights); "layer" (each layer).
    attention: "auto" (by platform), "xla", "splash" (TPU) or "cudnn" (GPU).
    lora: adapters that train in the place of the weights, or None.
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
  family: str = "qwen2"
  rope_theta: float = 1e6
  rope_scaling: rope_lib.Scaling | None = None
  norm_eps: float = 1e-6
  tie_embeddings: bool = True
  max_positions: int = 32768
  dtype: str = "float32"
  remat: str = "none"
  attention: str = "auto"
  lora: LoRA | None = None
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
    for name, known in (
        ("remat", REMAT), ("attention", ATTENTION), ("family", FAMILIES)):
      if getattr(self, name) not in known:
        raise ValueError(
            f"{name} {getattr(self, name)!r}: known are "
            f"{', '.join(map(repr, known))}")

  @property
  def qkv_bias(self) -> bool:
    """Whether q, k and v have biases."""
    return FAMILIES[self.family].qkv_bias

  @property
  def qk_norm(self) -> bool:
    """Whether each head of q and k is normed before its rotation."""
    return FAMILIES[self.family].qk_norm

  @property
  def num_params(self) -> int:
    """Number of the policy's parameters, tied embeddings counted once."""
    d, h, f = self.embed_dim, self.head_dim, self.mlp_dim
    heads = self.num_heads + 2 * self.num_kv_heads
    attention = d * h * (heads + self.num_heads)
    bias = h * heads if self.qkv_bias else 0
    norms = 2 * d + (2 * h if self.qk_norm else 0)
    layer = attention + bias + 3 * d * f + norms
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
    read = fields_lib.Fields(hf)
    family = hf.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
      raise ValueError(
          f"model_type {family!r} is not supported; supported: "
          f"{', '.join(map(repr, FAMILIES))}")
    _refuse_unknown(hf)
    missing = [k for k in (
        "vocab_size", "num_hidden_layers", "hidden_size",
        "num_attention_heads", "intermediate_size") if k not in hf]
    if missing:
      raise ValueError(f"config.json lacks {', '.join(missing)}")
    width = read.whole("hidden_size", most=_WIDEST)
    heads = read.whole("num_attention_heads", most=_WIDEST)
    if not hf.get("head_dim") and width < heads:
      raise ValueError(
          f"config field hidden_size={width} leaves num_attention_heads="
          f"{heads} no width; mend config.json, or copy it again")
    positions = read.whole("max_position_embeddings", 32768)
    # Transformers 5 writes RoPE under `rope_parameters`, earlier ones at the
    # top level and under `rope_scaling`.
    key = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
    rope = read.group(key)
    theta = (rope if "rope_theta" in rope else read).positive(
        "rope_theta", 10000.0)
    scaling = rope_lib.Scaling.from_hf(rope, positions)
    if scaling is not None and scaling.kind == "yarn" and theta <= 1:
      raise ValueError(f"config field rope_theta={theta} must be above 1")
    fields = dict(
        vocab_size=read.whole("vocab_size"),
        num_layers=read.whole("num_hidden_layers", most=_DEEPEST),
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=read.whole("num_key_value_heads", heads, most=_WIDEST),
        head_dim=read.whole(
            "head_dim", FAMILIES[family].head_dim or width // heads,
            most=_WIDEST),
        mlp_dim=read.whole("intermediate_size", most=_WIDEST),
        family=family,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=read.positive("rms_norm_eps", 1e-6),
        tie_embeddings=read.flag("tie_word_embeddings"),
        max_positions=positions,
        partition_head=read.flag(_PARTITION_HEAD),
    )
    if hf.get(_LORA) and "lora" not in changes:
      own = read.group(_LORA)
      if set(own) != {f.name for f in dataclasses.fields(LoRA)}:
        raise ValueError(f"config field {_LORA} holds {sorted(own)}")
      fields["lora"] = LoRA(
          rank=own.whole("rank"), alpha=own.positive("alpha"),
          targets=tuple(own.words("targets")))
    return cls(**(fields | changes))

  def to_hf(self) -> dict[str, Any]:
    """The dict that `from_hf` reads and that transformers loads."""
    family = FAMILIES[self.family]
    own = {_PARTITION_HEAD: True} if self.partition_head else {}
    if self.lora:
      own[_LORA] = dataclasses.asdict(self.lora) | {
          "targets": list(self.lora.targets)}
    scaling = self.rope_scaling
    return own | dict(family.fields) | dict(
        architectures=[family.architecture],
        model_type=self.family,
        vocab_size=self.vocab_size,
        num_hidden_layers=self.num_layers,
        hidden_size=self.embed_dim,
        num_attention_heads=self.num_heads,
        num_key_value_heads=self.num_kv_heads,
        head_dim=self.head_dim,
        intermediate_size=self.mlp_dim,
        rope_theta=self.rope_theta,
        rope_scaling=None if scaling is None else scaling.to_hf(),
        rms_norm_eps=self.norm_eps,
        tie_word_embeddings=self.tie_embeddings,
        max_position_embeddings=self.max_positions,
        hidden_act="silu",
        attention_dropout=0.0,
        torch_dtype="float32",
    )


def _refuse_unknown(hf: Mapping[str, Any]) -> None:
  """Refuses fields that change the arithmetic, or may.

  Raises:
    ValueError: naming the field.
  """
  for name, allowed in _NEUTRAL.items():
    if hf.get(name, allowed[0]) not in allowed:
      raise ValueError(
          f"config field {name}={hf[name]!r} changes the arithmetic in a "
          f"way that is not implemented; supported: {allowed[0]!r}")
  kinds = set(fields_lib.Fields(hf).words("layer_types")) - {"full_attention"}
  if kinds:
    raise ValueError(
        f"config field layer_types has {min(kinds)!r}; supported: "
        "'full_attention'")
  for name, value in hf.items():
    known = name in _READ | _SILENT | set(_NEUTRAL) or name.startswith(
        ("_", _OWN))
    if not known and value is not None and value is not False:
      raise ValueError(
          f"config field {name}={value!r} is not known here and may change "
          "the arithmetic; if it does not, take it out of config.json")
