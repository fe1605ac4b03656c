"""Rotary position embeddings (RoPE) and their scaling for long contexts.

`Scaling` describes how a checkpoint's frequencies were scaled. Kinds whose
frequencies depend on the length of the whole sequence are refused.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from progrpo_jax.models import fields as fields_lib

# Fields that each kind of scaling may have, and those that it must have.
_FIELDS = {
  "linear": {"factor"},
  "llama3": {
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
  },
  "yarn": {
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "attn_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
  },
}
_NEEDED = {
  "linear": {"factor"},
  "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
  "yarn": set(),
}
# Fields without effect, of whatever kind: a partial rotation of 1 is all of
# the head, `extrapolation_factor` multiplies yarn's ramp, and `finetuned` says
# how a checkpoint was made. Other values than these are refused.
_NEUTRAL = {
  "partial_rotary_factor": (1,),
  "extrapolation_factor": (1,),
  "finetuned": (True, False),
}
# Kinds whose frequencies depend on the length of the whole sequence.
_BY_LENGTH = ("dynamic", "longrope", "su")


@dataclasses.dataclass(frozen=True)
class Scaling:
  """Scaling of rotary frequencies for contexts longer than in pretraining.

  Field names are those of Hugging Face configs. A field that a kind does not
  use is None.

  Attributes:
    kind: "linear" (all frequencies divided by `factor`), "llama3" (low
      frequencies divided, high ones kept, a ramp between;
      https://arxiv.org/abs/2407.21783) or "yarn" (a ramp over the dimensions
      and sharper attention; https://arxiv.org/abs/2309.00071).
    factor: divisor of the scaled frequencies.
    original_max_position_embeddings: longest sequence before scaling, in
      tokens.
    low_freq_factor: llama3; frequencies with fewer turns over the original
      length are divided.
    high_freq_factor: llama3; frequencies with more turns over the original
      length are kept.
    beta_fast: yarn; dimensions with more turns over the original length are
      kept.
    beta_slow: yarn; dimensions with fewer turns over the original length are
      divided.
    attention_factor: yarn; multiplier of cos and sin; None computes it from
      `factor` as in the paper.
    attn_factor: yarn; factor on that computed multiplier, as in the code of
      yarn's authors and in vLLM; transformers does not read it.
    mscale: yarn; coefficient in the computed multiplier, used together with
      `mscale_all_dim`.
    mscale_all_dim: yarn; the same coefficient in that multiplier's divisor.
    truncate: yarn; whether the ends of the ramp are rounded to whole
      dimensions; None means True.
  """

  kind: str
  factor: float
  original_max_position_embeddings: int | None = None
  low_freq_factor: float | None = None
  high_freq_factor: float | None = None
  beta_fast: float | None = None
  beta_slow: float | None = None
  attention_factor: float | None = None
  attn_factor: float | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  truncate: bool | None = None

  @property
  def amplitude(self) -> float:
    """Multiplier of cos and sin; 1 except for yarn (its section 3.4)."""
    if self.kind != "yarn":
      return 1.0
    if self.attention_factor is not None:
      return self.attention_factor

    def sharpness(scale):
      if self.factor <= 1:
        return 1.0
      return 0.1 * scale * math.log(self.factor) + 1.0

    more = 1.0 if self.attn_factor is None else self.attn_factor
    if self.mscale and self.mscale_all_dim:
      return more * sharpness(self.mscale) / sharpness(self.mscale_all_dim)
    return more * sharpness(1.0)

  @classmethod
  def from_hf(
    cls, fields: Mapping[str, Any], max_positions: int
  ) -> "Scaling | None":
    """Reads `rope_scaling` or `rope_parameters` of a Hugging Face config.

    Args:
      fields: content of that field.
      max_positions: longest sequence of the model, in tokens.

    Returns:
      The scaling, or None where the frequencies are not scaled.

    Raises:
      ValueError: the kind is not implemented, or a field is unknown, missing
        or malformed; the message names it.
    """
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
      return None
    if not isinstance(kind, str) or kind not in _FIELDS:
      why = f"known: 'default', {', '.join(map(repr, _FIELDS))}"
      if kind in _BY_LENGTH:
        why = (
          "its frequencies depend on the length of the whole sequence, so "
          "that keys in a cache and keys of a scored sequence would differ; "
          "for sequences that need no scaling, take the field out"
        )
      raise ValueError(f"rope_type {kind!r} is not supported: {why}")
    # Null fields count as absent; theta is read by the model's configuration.
    given = {
      k: v
      for k, v in fields.items()
      if v is not None and k not in ("rope_type", "type", "rope_theta")
    }
    unknown = sorted(set(given) - _FIELDS[kind] - set(_NEUTRAL))
    if unknown:
      raise ValueError(
        f"RoPE of type {kind!r} has a field {unknown[0]!r} = "
        f"{given[unknown[0]]!r} that is not known"
      )
    for name, allowed in _NEUTRAL.items():
      if given.pop(name, allowed[0]) not in allowed:
        raise ValueError(f"{name} other than {allowed[0]} is not supported")
    missing = sorted(_NEEDED[kind] - set(given))
    if missing:
      raise ValueError(f"RoPE of type {kind!r} lacks {', '.join(missing)}")
    _check(fields_lib.Fields(given, "rope_scaling."))
    # Defaults as in transformers: the factor is the ratio of the lengths.
    if kind != "linear":
      given.setdefault("original_max_position_embeddings", max_positions)
    given.setdefault(
      "factor",
      max_positions
      / given.get("original_max_position_embeddings", max_positions),
    )
    scaling = cls(kind=kind, **given)
    # Both fields are kept, so that transformers, which reads the first alone,
    # computes the same from an export.
    return dataclasses.replace(
      scaling,
      attention_factor=scaling.attention_factor
      if scaling.attn_factor is None
      else scaling.amplitude,
    )

  def to_hf(self) -> dict[str, Any]:
    """Content of the config field that `from_hf` reads."""
    fields = dataclasses.asdict(self)
    kind = fields.pop("kind")
    return {"rope_type": kind} | {
      k: v for k, v in fields.items() if v is not None
    }


def _check(read: fields_lib.Fields) -> None:
  """Checks types and ranges of the fields of a scaling.

  Raises:
    ValueError: a field is malformed; the message names it.
  """
  for name in read:
    if name == "original_max_position_embeddings":
      read.whole(name)
    elif name == "truncate":
      read.flag(name)
    elif name not in ("mscale", "mscale_all_dim") or read[name] != 0:
      read.positive(name)
  low, high = read.get("low_freq_factor"), read.get("high_freq_factor")
  if low is not None and low >= high:
    raise ValueError(
      f"config field rope_scaling.low_freq_factor={low!r} must be below "
      f"high_freq_factor={high!r}"
    )


def angles(
  positions, head_dim: int, theta: float, scaling: Scaling | None = None
) -> jax.Array:
  """Rotary angles of positions.

  Args:
    positions: positions [...], in tokens.
    head_dim: H, width of a head.
    theta: base of the frequencies.
    scaling: scaling of the frequencies, or None.

  Returns:
    float32 [..., H / 2], in radians.
  """
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling is not None:
    frequency = _SCALED[scaling.kind](frequency, theta, scaling)
  return positions[..., None].astype(jnp.float32) * frequency


def rotate(x, angle, amplitude: float = 1.0) -> jax.Array:
  """Rotates each head by its position's angles.

  Pairs dimension i with i + H / 2, the layout of Hugging Face's Llama, and not
  2 i with 2 i + 1 as in the paper (https://arxiv.org/abs/2104.09864).

  Args:
    x: [..., T, heads..., H] with one or two axes of heads.
    angle: [..., T, H / 2], with the same leading axes and T.
    amplitude: multiplier of the result (`Scaling.amplitude`).

  Returns:
    Array of the shape and type of `x`; computed in float32.
  """
  # Broadcast over the axes of heads: [..., T, 1..., H / 2].
  shape = angle.shape[:-1] + (1,) * (x.ndim - angle.ndim)
  turns = angle.reshape(shape + angle.shape[-1:])
  cos, sin = amplitude * jnp.cos(turns), amplitude * jnp.sin(turns)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return turned.astype(x.dtype)


def _linear(frequency, theta, s):
  """Position interpolation (https://arxiv.org/abs/2306.15595)."""
  del theta
  return frequency / s.factor


def _llama3(frequency, theta, s):
  """Scaling of Llama 3.1 (https://arxiv.org/abs/2407.21783).

  Low frequencies are divided, high ones kept and those between interpolated;
  the bounds are turns over the original length.
  """
  del theta
  turns = s.original_max_position_embeddings * frequency / (2 * math.pi)
  kept = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
  kept = jnp.clip(kept, 0.0, 1.0)
  return frequency * (kept + (1 - kept) / s.factor)


def _yarn(frequency, theta, s):
  """Scales by YaRN's "NTK by parts".

  See https://arxiv.org/abs/2309.00071, section 3.2.
  """
  half = len(frequency)

  def dimension(turns):
    """Index of the pair that makes `turns` turns over the original length."""
    return (
      half
      * math.log(s.original_max_position_embeddings / (turns * 2 * math.pi))
      / math.log(theta)
    )

  low, high = dimension(s.beta_fast or 32), dimension(s.beta_slow or 1)
  if s.truncate is not False:
    low, high = math.floor(low), math.ceil(high)
  # The upper bound counts single dimensions (2 * half), although the ramp runs
  # over pairs: the authors' code does so, and models were trained with it.
  low, high = max(low, 0), min(high, 2 * half - 1)
  if low == high:
    high += 0.001  # as in the authors' code, against division by zero
  divided = jnp.clip(
    (jnp.arange(half, dtype=jnp.float32) - low) / (high - low), 0.0, 1.0
  )
  return frequency * (1 - divided) + frequency / s.factor * divided


_SCALED = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
