"""Rotary positions: their angles, and how contexts beyond training fit in.

A checkpoint says with `Scaling` how its frequencies were stretched. Kinds
whose frequencies depend on the length of the whole sequence are refused.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from progrpo_jax.models import fields as fields_lib

# How each kind of scaling is written, and what it cannot do without.
_FIELDS = {
    "linear": {"factor"},
    "llama3": {
        "factor", "low_freq_factor", "high_freq_factor",
        "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "beta_fast",
        "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
        "truncate"},
}
_NEEDED = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "yarn": set(),
}
# Their frequencies depend on the length of the whole sequence.
_BY_LENGTH = ("dynamic", "longrope", "su")


@dataclasses.dataclass(frozen=True)
class Scaling:
  """How rotary frequencies are stretched for contexts beyond the trained ones.

  The names are those of Hugging Face configs; a field that a kind does not
  use is None.

  Attributes:
    kind: "linear" (all frequencies divided by the factor), "llama3" (the low
      ones are, with a ramp in between; https://arxiv.org/abs/2407.21783) or
      "yarn" (a ramp over the dimensions, and the attention made sharper;
      https://arxiv.org/abs/2309.00071).
    factor: by how much.
    original_max_position_embeddings: longest sequence before the stretch.
    low_freq_factor: llama3; wavelengths above original / this are divided.
    high_freq_factor: llama3; wavelengths below original / this are kept.
    beta_fast: yarn; dimensions that turn more often over the original length
      are kept.
    beta_slow: yarn; dimensions that turn less often are divided.
    attention_factor: yarn; multiplies cos and sin, None for the paper's.
    mscale: yarn; of the paper's factor, with `mscale_all_dim`.
    mscale_all_dim: yarn.
    truncate: yarn; whether the ends of the ramp are whole dimensions.
  """

  kind: str
  factor: float
  original_max_position_embeddings: int | None = None
  low_freq_factor: float | None = None
  high_freq_factor: float | None = None
  beta_fast: float | None = None
  beta_slow: float | None = None
  attention_factor: float | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  truncate: bool | None = None

  @property
  def amplitude(self) -> float:
    """What cos and sin are multiplied by; 1 but for yarn."""
    if self.kind != "yarn":
      return 1.0
    if self.attention_factor is not None:
      return self.attention_factor

    def sharpness(scale):
      if self.factor <= 1:
        return 1.0
      return 0.1 * scale * math.log(self.factor) + 1.0

    if self.mscale and self.mscale_all_dim:
      return sharpness(self.mscale) / sharpness(self.mscale_all_dim)
    return sharpness(1.0)

  @classmethod
  def from_hf(
      cls, fields: Mapping[str, Any], max_positions: int,
  ) -> "Scaling | None":
    """Reads `rope_scaling` or `rope_parameters`; None if nothing is scaled.

    Raises:
      ValueError: the kind or a field is not implemented, or one is missing.
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
            "for sequences that need no scaling, take the field out")
      raise ValueError(f"rope_type {kind!r} is not supported: {why}")
    given = {
        k: v for k, v in fields.items()
        if v is not None and k not in ("rope_type", "type", "rope_theta")}
    unknown = sorted(
        set(given) - _FIELDS[kind] - {"partial_rotary_factor"})
    if unknown:
      raise ValueError(
          f"RoPE of type {kind!r} has a field {unknown[0]!r} = "
          f"{given[unknown[0]]!r} that is not known")
    if given.pop("partial_rotary_factor", 1) != 1:
      raise ValueError("partial_rotary_factor other than 1 is not supported")
    missing = sorted(_NEEDED[kind] - set(given))
    if missing:
      raise ValueError(f"RoPE of type {kind!r} lacks {', '.join(missing)}")
    _check(fields_lib.Fields(given, "rope_scaling."))
    if kind != "linear":
      given.setdefault("original_max_position_embeddings", max_positions)
    given.setdefault("factor", max_positions / given.get(
        "original_max_position_embeddings", max_positions))
    return cls(kind=kind, **given)

  def to_hf(self) -> dict[str, Any]:
    """The dict that `from_hf` reads."""
    fields = dataclasses.asdict(self)
    kind = fields.pop("kind")
    return {"rope_type": kind} | {
        k: v for k, v in fields.items() if v is not None}


def _check(read: fields_lib.Fields) -> None:
  """Refuses fields of a scaling that are no such numbers.

  Raises:
    ValueError: naming the field.
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
        f"high_freq_factor={high!r}")


def angles(
    positions, head_dim: int, theta: float,
    scaling: Scaling | None = None) -> jax.Array:
  """Angles of positions, float32 [..., H / 2]."""
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling is not None:
    frequency = _SCALED[scaling.kind](frequency, theta, scaling)
  return positions[..., None].astype(jnp.float32) * frequency


def rotate(x, angles, amplitude: float = 1.0) -> jax.Array:
  """Turns the halves of each head by the angles (the layout of Llama in HF).

  Args:
    x: [..., T, heads..., H] with one or two axes of heads.
    angles: [..., T, H / 2], the same leading axes and T.
    amplitude: multiplies the result (YaRN's sharper attention).
  """
  shape = angles.shape[:-1] + (1,) * (x.ndim - angles.ndim)
  turns = angles.reshape(shape + angles.shape[-1:])
  cos, sin = amplitude * jnp.cos(turns), amplitude * jnp.sin(turns)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x.dtype)


def _linear(frequency, theta, s):
  """All positions are interpolated (https://arxiv.org/abs/2306.15595)."""
  del theta
  return frequency / s.factor


def _llama3(frequency, theta, s):
  """Low frequencies are divided, high ones kept, those between mixed.

  Llama 3.1 (https://arxiv.org/abs/2407.21783); the bounds are turns over the
  original length.
  """
  del theta
  turns = s.original_max_position_embeddings * frequency / (2 * math.pi)
  kept = (turns - s.low_freq_factor) / (
      s.high_freq_factor - s.low_freq_factor)
  kept = jnp.clip(kept, 0.0, 1.0)
  return frequency * (kept + (1 - kept) / s.factor)


def _yarn(frequency, theta, s):
  """"NTK by parts" of YaRN (https://arxiv.org/abs/2309.00071, section 3.2)."""
  half = len(frequency)

  def dimension(turns):
    """The pair of dimensions that turns so often over the original length."""
    return half * math.log(
        s.original_max_position_embeddings / (turns * 2 * math.pi)
    ) / math.log(theta)

  low, high = dimension(s.beta_fast or 32), dimension(s.beta_slow or 1)
  if s.truncate is not False:
    low, high = math.floor(low), math.ceil(high)
  # The upper bound is counted in single dimensions where the ramp runs over
  # pairs; so did the authors' code, and so were the models trained.
  low, high = max(low, 0), min(high, 2 * half - 1)
  if low == high:
    high += 0.001
  divided = jnp.clip(
      (jnp.arange(half, dtype=jnp.float32) - low) / (high - low), 0.0, 1.0)
  return frequency * (1 - divided) + frequency / s.factor * divided


_SCALED = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
