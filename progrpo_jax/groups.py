"""Groups: prompts with their G responses and the verdicts on these.

They travel from the rollout to the learner, on the host.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
from typing import Any

import jax
import numpy as np

from progrpo_jax import batch as batch_lib


@dataclasses.dataclass(frozen=True)
class Groups:
  """P groups of G responses, on the host.

  Attributes:
    prompts: P prompts.
    rollout: B = P * G responses as numpy arrays.
    texts_PG: the responses as text.
    reward_PG: float32, from the verifier, before any shaping.
    correct_PG: bool, the verifier's verdict.
    valid_PG: bool, False where the verifier itself failed: such a response
      counts neither as right nor as wrong and teaches nothing.
    fresh_P: bool, True where the responses are of the present policy.
    values_PGJ: float32, what each reward function of the user that judges the
      row says; NaN where it has no opinion, or there is none.
    extra_PG: additions of these functions to a response in the saved rollouts,
      JSON-able; () where they add nothing to any.
    logged: (name, value) of the metrics that they log; a part of the groups
      has none.
  """

  prompts: batch_lib.Prompts
  rollout: batch_lib.Rollout
  texts_PG: tuple[tuple[str, ...], ...]
  reward_PG: np.ndarray
  correct_PG: np.ndarray
  valid_PG: np.ndarray
  fresh_P: np.ndarray
  values_PGJ: np.ndarray
  extra_PG: tuple[tuple[dict[str, Any], ...], ...] = ()
  logged: tuple[tuple[str, float], ...] = ()

  def extra(self, p: int, g: int) -> dict[str, Any]:
    """What reward functions add to response g of group p."""
    return self.extra_PG[p][g] if self.extra_PG else {}

  def __len__(self) -> int:
    return len(self.prompts)

  def take(self, index: Sequence[int]) -> "Groups":
    """The groups of these numbers, in this order."""
    index = np.asarray(index, np.int64)
    group = self.reward_PG.shape[1]

    def of_group(x):
      return x.reshape(-1, group, *x.shape[1:])[index].reshape(-1, *x.shape[1:])

    p = self.prompts
    return Groups(
      prompts=batch_lib.Prompts(
        tokens_PT=p.tokens_PT[index],
        mask_PT=p.mask_PT[index],
        user_mask_PT=p.user_mask_PT[index],
        ids_P=p.ids_P[index],
        rows=tuple(p.rows[i] for i in index),
      ),
      rollout=jax.tree.map(of_group, self.rollout),
      texts_PG=tuple(self.texts_PG[i] for i in index),
      reward_PG=self.reward_PG[index],
      correct_PG=self.correct_PG[index],
      valid_PG=self.valid_PG[index],
      fresh_P=self.fresh_P[index],
      values_PGJ=self.values_PGJ[index],
      extra_PG=tuple(self.extra_PG[i] for i in index) if self.extra_PG else (),
    )

  def without_verdicts(self) -> "Groups":
    """The same groups with nothing to learn from: they only fill a batch."""
    return dataclasses.replace(self, valid_PG=np.zeros_like(self.valid_PG))


def concatenate(parts: Sequence[Groups]) -> Groups:
  """All groups in order, prompts padded on the left to the longest bucket."""
  if len(parts) == 1:
    return parts[0]
  width = max(p.prompts.tokens_PT.shape[1] for p in parts)

  def join(get):
    return np.concatenate([get(p) for p in parts])

  def widen(get):
    return np.concatenate(
      [
        np.pad(
          get(p.prompts), ((0, 0), (width - p.prompts.tokens_PT.shape[1], 0))
        )
        for p in parts
      ]
    )

  return Groups(
    prompts=batch_lib.Prompts(
      tokens_PT=widen(lambda p: p.tokens_PT),
      mask_PT=widen(lambda p: p.mask_PT),
      user_mask_PT=widen(lambda p: p.user_mask_PT),
      ids_P=join(lambda p: p.prompts.ids_P),
      rows=sum((p.prompts.rows for p in parts), ()),
    ),
    rollout=jax.tree.map(
      lambda *x: np.concatenate(x), *(p.rollout for p in parts)
    ),
    texts_PG=sum((p.texts_PG for p in parts), ()),
    reward_PG=join(lambda p: p.reward_PG),
    correct_PG=join(lambda p: p.correct_PG),
    valid_PG=join(lambda p: p.valid_PG),
    fresh_P=join(lambda p: p.fresh_P),
    values_PGJ=join_values([p.values_PGJ for p in parts]),
    extra_PG=_extra(parts),
    logged=sum((p.logged for p in parts), ()),
  )


def join_values(parts_PGJ: Sequence[np.ndarray]) -> np.ndarray:
  """Joins values of reward functions along their first axis.

  Args:
    parts_PGJ: float arrays. Their J may differ: the result has the largest,
      and NaN where a part has fewer.
  """
  width = max(x.shape[2] for x in parts_PGJ)
  return np.concatenate(
    [
      np.pad(
        x, ((0, 0), (0, 0), (0, width - x.shape[2])), constant_values=np.nan
      )
      for x in parts_PGJ
    ]
  )


def _extra(parts: Sequence[Groups]) -> tuple[tuple[dict[str, Any], ...], ...]:
  """`extra_PG` of several parts, some of which may have none."""
  if not any(part.extra_PG for part in parts):
    return ()
  return sum(
    (p.extra_PG or tuple(({},) * len(g) for g in p.texts_PG) for p in parts), ()
  )


def to_arrays(groups: Groups) -> dict[str, np.ndarray]:
  """What `from_arrays` cannot make again: no prompts, no texts."""
  # No array of a checkpoint may be empty, as this is without such functions.
  values = {"values_PGJ": groups.values_PGJ} if groups.values_PGJ.size else {}
  if any(any(group) for group in groups.extra_PG):
    text = json.dumps(groups.extra_PG).encode()
    values["extra"] = np.frombuffer(text, np.uint8)
  for field in dataclasses.fields(groups.rollout):
    values[field.name] = np.asarray(getattr(groups.rollout, field.name))
  return values | dict(
    ids_P=groups.prompts.ids_P,
    reward_PG=groups.reward_PG,
    correct_PG=groups.correct_PG,
    valid_PG=groups.valid_PG,
  )


def from_arrays(
  arrays: dict[str, np.ndarray],
  prompts_of: Callable[[np.ndarray], batch_lib.Prompts],
  texts_of: Callable[[batch_lib.Rollout], tuple[tuple[str, ...], ...]],
) -> Groups:
  """Groups from `to_arrays`; a prompt follows from the number of its draw."""
  arrays = {k: np.asarray(v) for k, v in arrays.items()}
  rollout = batch_lib.Rollout(
    **{f.name: arrays[f.name] for f in dataclasses.fields(batch_lib.Rollout)}
  )
  return Groups(
    prompts=prompts_of(arrays["ids_P"]),
    rollout=rollout,
    texts_PG=texts_of(rollout),
    reward_PG=arrays["reward_PG"],
    correct_PG=arrays["correct_PG"],
    valid_PG=arrays["valid_PG"],
    fresh_P=np.zeros(len(arrays["ids_P"]), bool),
    values_PGJ=arrays.get(
      "values_PGJ", np.zeros((*arrays["valid_PG"].shape, 0), np.float32)
    ),
    extra_PG=tuple(map(tuple, json.loads(arrays["extra"].tobytes())))
    if "extra" in arrays
    else (),
  )


def to_sequences(groups: Groups, per_bundle: int) -> batch_lib.Sequences:
  """Bundles of a prompt and `per_bundle` of its responses (it divides G)."""
  group = groups.reward_PG.shape[1]
  r, p = groups.rollout, groups.prompts
  length = r.tokens_BT.shape[1]
  return batch_lib.Sequences(
    prompt_NT=np.repeat(p.tokens_PT, group // per_bundle, axis=0),
    prompt_mask_NT=np.repeat(p.mask_PT, group // per_bundle, axis=0),
    tokens_NRT=np.asarray(r.tokens_BT).reshape(-1, per_bundle, length),
    mask_NRT=np.asarray(r.mask_BT).reshape(-1, per_bundle, length),
  )
