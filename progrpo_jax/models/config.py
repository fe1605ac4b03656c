"""Model configuration, and its reading from a Hugging Face `config.json`.

Qwen2, Qwen2.5, Qwen3, Llama and Mistral are one decoder with a few switches
(`Family`). Unknown fields of a checkpoint's configuration are refused by
name, because they may change the arithmetic. Axis letters are those of the
legend in `batch`.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from progrpo_jax.models import fields as fields_lib
from progrpo_jax.models import rope as rope_lib


@dataclasses.dataclass(frozen=True)
class Family:
  """Differences between the supported architectures.

  Attributes:
    architecture: name of the class in transformers.
    qkv_bias: whether q, k and v have biases.
    qk_norm: whether each head of q and k is normed before its rotation.
    head_dim: default of H for configs without the field; None means D / Q.
    window: range of attention, in tokens, that transformers assumes where the
      field `sliding_window` is absent; None if it needs another field to be set
      before it slides a window.
    fields: config fields that tell transformers of these switches.
  """

  architecture: str
  qkv_bias: bool = False
  qk_norm: bool = False
  head_dim: int | None = None
  window: int | None = None
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


FAMILIES = {
  "qwen2": Family(
    "Qwen2ForCausalLM", qkv_bias=True, fields={"use_sliding_window": False}
  ),
  "qwen3": Family(
    "Qwen3ForCausalLM",
    qk_norm=True,
    head_dim=128,
    fields={"attention_bias": False, "use_sliding_window": False},
  ),
  "llama": Family(
    "LlamaForCausalLM", fields={"attention_bias": False, "mlp_bias": False}
  ),
  "mistral": Family(
    "MistralForCausalLM", window=4096, fields={"sliding_window": None}
  ),
}

# Fields of a Hugging Face config whose other values would change the
# arithmetic: each is accepted only with a value listed here.
_NEUTRAL = {
  "hidden_act": ("silu",),
  "attention_dropout": (0, 0.0, None),
  "hidden_dropout": (0, 0.0, None),
  "embd_pdrop": (0, 0.0, None),
  "resid_pdrop": (0, 0.0, None),
  "partial_rotary_factor": (1, 1.0, None),
}

# Fields that are read, and fields without effect on the arithmetic. Any other
# field is refused unless its value is None or False.
_READ = {
  "vocab_size",
  "num_hidden_layers",
  "hidden_size",
  "num_attention_heads",
  "num_key_value_heads",
  "head_dim",
  "intermediate_size",
  "rope_theta",
  "rope_scaling",
  "rope_parameters",
  "rms_norm_eps",
  "tie_word_embeddings",
  "max_position_embeddings",
  "model_type",
  "layer_types",
  "bos_token_id",
}
_SILENT = {
  # Initialisation and storage of the weights, and the writer of the file.
  # `is_llama_config` is of nanotron, `transformers.js_config` of a converter;
  # SmolLM2 has both.
  "architectures",
  "initializer_range",
  "torch_dtype",
  "dtype",
  "transformers_version",
  "name_or_path",
  "unsloth_version",
  "unsloth_fixed",
  "use_cache",
  "auto_map",
  "finetuning_task",
  "is_llama_config",
  "is_qwen2_config",
  "transformers.js_config",
  "attn_implementation",
  "use_flash_attn",
  "use_bfloat16",
  "gradient_checkpointing",
  "torchscript",
  # Range of sliding windows; where it takes effect, `_refuse_window` reads it.
  "sliding_window",
  "max_window_layers",
  # How the computation is split, with the same result.
  "pretraining_tp",
  "chunk_size_feed_forward",
  # Special tokens, which are read from the tokenizer's files instead.
  "eos_token_id",
  "pad_token_id",
  "unk_token_id",
  "sep_token_id",
  "cls_token_id",
  "mask_token_id",
  "end_token_id",
  "decoder_start_token_id",
  "forced_bos_token_id",
  "forced_eos_token_id",
  # Settings of the tokenizer that some training scripts write here.
  "model_max_length",
  "tokenizer_model_max_length",
  "tokenizer_padding_side",
  # What transformers returns beside the logits.
  "return_dict",
  "return_dict_in_generate",
  "output_attentions",
  "output_hidden_states",
  "output_scores",
  "keys_to_ignore_at_inference",
  # Defaults of all tasks, which transformers 4 wrote into every config.
  "id2label",
  "label2id",
  "problem_type",
  "pruned_heads",
  "task_specific_params",
  "tokenizer_class",
  "prefix",
  "is_decoder",
  "max_length",
  "min_length",
  "do_sample",
  "early_stopping",
  "num_beams",
  "num_beam_groups",
  "diversity_penalty",
  "temperature",
  "top_k",
  "top_p",
  "typical_p",
  "repetition_penalty",
  "length_penalty",
  "bad_words_ids",
  "no_repeat_ngram_size",
  "encoder_no_repeat_ngram_size",
  "num_return_sequences",
  "suppress_tokens",
  "begin_suppress_tokens",
  "exponential_decay_length_penalty",
  "remove_invalid_values",
  "tf_legacy_loss",
}

# Prefix of this package's fields in the config.json of a run's workdir.
_OWN = "progrpo_"
_PARTITION_HEAD = _OWN + "partition_head"
_LORA = _OWN + "lora"

# Weights that LoRA can adapt: Hugging Face name -> name in the parameters.
PROJECTIONS = {
  "q_proj": "q",
  "k_proj": "k",
  "v_proj": "v",
  "o_proj": "o",
  "gate_proj": "gate",
  "up_proj": "up",
  "down_proj": "down",
}

# Upper bounds of depth and width; beyond them shapes would overflow.
_DEEPEST, _WIDEST = 10_000, 1 << 24

ATTENTION = ("auto", "xla", "splash", "cudnn")
REMAT = ("none", "dots", "layer")


@dataclasses.dataclass(frozen=True)
class LoRA:
  """Low-rank adapters (https://arxiv.org/abs/2106.09685).

  Attributes:
    rank: rank r of the factors, at least 1.
    alpha: scale of the adapters; the product A B is multiplied by alpha / r.
    targets: adapted weights, keys of `PROJECTIONS`.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...] = tuple(PROJECTIONS)

  def __post_init__(self):
    unknown = sorted(set(self.targets) - set(PROJECTIONS))
    if unknown or not self.targets:
      raise ValueError(
        f"LoRA targets {list(self.targets)}: known are {', '.join(PROJECTIONS)}"
      )
    if self.rank < 1:
      raise ValueError(f"LoRA rank {self.rank} must be at least 1")

  @property
  def scale(self) -> float:
    """Factor of the product A B: alpha / rank."""
    return self.alpha / self.rank

  def adapts(self, name: str) -> bool:
    """Returns whether a weight has adapters, by its name in the parameters."""
    return any(PROJECTIONS[t] == name for t in self.targets)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and arithmetic of a decoder.

  Attributes:
    vocab_size: V, rows of the embedding, padding rows included.
    num_layers: L, number of layers.
    embed_dim: D, width of the residual stream.
    num_heads: Q, number of query heads.
    num_kv_heads: K, number of key/value heads; divides Q.
    head_dim: H, width of one head.
    mlp_dim: F, width of the gated MLP.
    family: architecture, a key of `FAMILIES`.
    rope_theta: base of the rotary frequencies.
    rope_scaling: scaling of the rotary frequencies, or None.
    norm_eps: epsilon of RMSNorm.
    tie_embeddings: whether the output embedding is the transposed token
      embedding.
    max_positions: longest sequence that the model was made for, in tokens.
    bos_token_id: token before a text, or None. Without effect here, where
      prompts are encoded by the tokenizer; kept for those who read an export.
    dtype: compute type, "float32" or "bfloat16"; parameters keep the type that
      they are stored in.
    remat: what the backward pass recomputes: "none"; "dots" (everything but
      products with weights); "layer" (whole layers).
    attention: "auto" (by platform), "xla", "splash" (TPU) or "cudnn" (GPU).
    lora: adapters, which are trained instead of the weights, or None.
    partition_head: whether FlowRL's estimate of log Z is trained beside the
      policy; it is not exported.
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
  bos_token_id: int | None = None
  dtype: str = "float32"
  remat: str = "none"
  attention: str = "auto"
  lora: LoRA | None = None
  partition_head: bool = False

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
        f"{self.num_kv_heads}"
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim {self.head_dim} must be even for RoPE")
    if self.dtype not in ("float32", "bfloat16"):
      raise ValueError(f"dtype {self.dtype!r} must be 'float32' or 'bfloat16'")
    for name, choices in (
      ("remat", REMAT),
      ("attention", ATTENTION),
      ("family", FAMILIES),
    ):
      if getattr(self, name) not in choices:
        raise ValueError(
          f"{name} {getattr(self, name)!r}: known are "
          f"{', '.join(map(repr, choices))}"
        )

  @property
  def qkv_bias(self) -> bool:
    """Returns whether q, k and v have biases."""
    return FAMILIES[self.family].qkv_bias

  @property
  def qk_norm(self) -> bool:
    """Returns whether each head of q and k is normed before its rotation."""
    return FAMILIES[self.family].qk_norm

  @property
  def num_params(self) -> int:
    """Number of parameters; tied embeddings count once.

    Adapters and the partition head are not counted.
    """
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
    """Configuration of the laptop policy: three layers of width 64.

    Args:
      vocab_size: V.
      **changes: values of other fields.
    """
    base = cls(
      vocab_size=vocab_size,
      num_layers=3,
      embed_dim=64,
      num_heads=4,
      num_kv_heads=2,
      head_dim=16,
      mlp_dim=192,
      rope_theta=1e4,
      max_positions=1024,
    )
    return dataclasses.replace(base, **changes)

  @classmethod
  def from_hf(cls, hf: dict[str, Any], **changes) -> "ModelConfig":
    """Reads a Hugging Face `config.json`.

    Args:
      hf: content of the file.
      **changes: fields to set in place of the values read.

    Raises:
      ValueError: the architecture or a field is missing, malformed or not
        implemented; the message names it.
    """
    read = fields_lib.Fields(hf)
    family = hf.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
      raise ValueError(
        f"model_type {family!r} is not supported; supported: "
        f"{', '.join(map(repr, FAMILIES))}"
      )
    _refuse_unknown(hf)
    _refuse_window(hf, FAMILIES[family])
    # Required fields; every other field has a default.
    missing = [
      k
      for k in (
        "vocab_size",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
      )
      if k not in hf
    ]
    if missing:
      raise ValueError(f"config.json lacks {', '.join(missing)}")
    # Without `head_dim` a head's width is hidden_size / num_attention_heads,
    # which must not be 0.
    width = read.whole("hidden_size", most=_WIDEST)
    heads = read.whole("num_attention_heads", most=_WIDEST)
    if not hf.get("head_dim") and width < heads:
      raise ValueError(
        f"config field hidden_size={width} leaves num_attention_heads="
        f"{heads} no width; correct config.json, or copy it again"
      )
    positions = read.whole("max_position_embeddings", 32768)
    theta, scaling = _read_rope(read, positions)
    fields = dict(
      vocab_size=read.whole("vocab_size"),
      num_layers=read.whole("num_hidden_layers", most=_DEEPEST),
      embed_dim=width,
      num_heads=heads,
      num_kv_heads=read.whole("num_key_value_heads", heads, most=_WIDEST),
      head_dim=read.whole(
        "head_dim", FAMILIES[family].head_dim or width // heads, most=_WIDEST
      ),
      mlp_dim=read.whole("intermediate_size", most=_WIDEST),
      family=family,
      rope_theta=theta,
      rope_scaling=scaling,
      norm_eps=read.positive("rms_norm_eps", 1e-6),
      tie_embeddings=read.flag("tie_word_embeddings"),
      max_positions=positions,
      bos_token_id=_read_bos(read),
      partition_head=read.flag(_PARTITION_HEAD),
    )
    # Read only if needed: `hf.load` passes lora=None to ignore the field.
    if hf.get(_LORA) and "lora" not in changes:
      fields["lora"] = _read_lora(read.group(_LORA))
    return cls(**(fields | changes))

  def to_hf(self) -> dict[str, Any]:
    """Content of a `config.json` for `from_hf` and for transformers."""
    family = FAMILIES[self.family]
    extra = {_PARTITION_HEAD: True} if self.partition_head else {}
    if self.lora:
      extra[_LORA] = dataclasses.asdict(self.lora) | {
        "targets": list(self.lora.targets)
      }
    scaling = self.rope_scaling
    # Fields of transformers 4 (rope_theta, torch_dtype); version 5 reads them.
    return (
      extra
      | dict(family.fields)
      | dict(
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
        # Written if it is None, too: transformers assumes 1 for some families.
        bos_token_id=self.bos_token_id,
        hidden_act="silu",
        attention_dropout=0.0,
        torch_dtype="float32",
      )
    )


def _read_rope(
  read: fields_lib.Fields, positions: int
) -> tuple[float, rope_lib.Scaling | None]:
  """Reads base and scaling of the rotary frequencies.

  Raises:
    ValueError: a field is malformed or not implemented.
  """
  # Transformers 5 writes all of RoPE under `rope_parameters`; earlier versions
  # write theta at the top level and the rest under `rope_scaling`.
  key = "rope_parameters" if read.get("rope_parameters") else "rope_scaling"
  rope = read.group(key)
  theta = (rope if "rope_theta" in rope else read).positive(
    "rope_theta", 10000.0
  )
  scaling = rope_lib.Scaling.from_hf(rope, positions)
  if scaling is not None and scaling.kind == "yarn" and theta <= 1:
    raise ValueError(f"config field rope_theta={theta} must be above 1")
  return theta, scaling


def _read_bos(read: fields_lib.Fields) -> int | None:
  """Reads the id of BOS; None where it is absent, null or -1.

  Raises:
    ValueError: the field is malformed.
  """
  # Whole numbers are read from 1 on; some configs write -1 for "none".
  if read.get("bos_token_id") in (None, -1):
    return None
  return 0 if read["bos_token_id"] == 0 else read.whole("bos_token_id")


def _read_lora(read: fields_lib.Fields) -> LoRA:
  """Reads the adapters of a run's workdir.

  Raises:
    ValueError: fields are missing, unknown or malformed.
  """
  if set(read) != {f.name for f in dataclasses.fields(LoRA)}:
    raise ValueError(f"config field {_LORA} holds {sorted(read)}")
  return LoRA(
    rank=read.whole("rank"),
    alpha=read.positive("alpha"),
    targets=tuple(read.words("targets")),
  )


def _refuse_window(hf: Mapping[str, Any], family: Family) -> None:
  """Refuses a family's sliding window, which is not implemented.

  Raises:
    ValueError: the config has one; the message names the field.
  """
  window = hf.get("sliding_window", family.window)
  if family.window is not None and window is not None:
    raise ValueError(
      f"config field sliding_window={window!r} limits attention to a window, "
      "which is not implemented; supported: None"
    )


def _refuse_unknown(hf: Mapping[str, Any]) -> None:
  """Refuses fields that change the arithmetic, and unknown fields.

  Raises:
    ValueError: a field is refused; the message names it.
  """
  # An absent field has its first neutral value.
  for name, allowed in _NEUTRAL.items():
    if hf.get(name, allowed[0]) not in allowed:
      raise ValueError(
        f"config field {name}={hf[name]!r} changes the arithmetic in a "
        f"way that is not implemented; supported: {allowed[0]!r}"
      )
  # Layers may alternate with sliding windows, which are not implemented.
  kinds = set(fields_lib.Fields(hf).words("layer_types")) - {"full_attention"}
  if kinds:
    raise ValueError(
      f"config field layer_types has {min(kinds)!r}; supported: "
      "'full_attention'"
    )
  # Names with an underscore are annotations of transformers, such as
  # `_name_or_path`.
  for name, value in hf.items():
    is_known = name in _READ | _SILENT | set(_NEUTRAL) or name.startswith(
      ("_", _OWN)
    )
    if not is_known and value is not None and value is not False:
      raise ValueError(
        f"config field {name}={value!r} is not known and may change "
        "the arithmetic; if it does not, remove it from config.json"
      )
