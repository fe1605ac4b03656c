"""Decides when the reference policy is set to the current policy.

The decision depends on logged numbers only (no clock, no hidden state), so a
run that was interrupted and resumed resets at the same steps as an
uninterrupted one.

"ProRL" (https://arxiv.org/abs/2505.24864, sections 2.3.1 and 3.3) resets the
reference "periodically" and when validation stalls or drops, because the KL
comes to dominate the loss; it gives neither a period nor a trigger. ProRL v2
(blog of August 2025) resets every 200 to 500 steps, or on a spike of the KL or
a stall, and keeps the optimiser: modes ("every", "stall", "kl"). Mode
"dominates" measures the KL's share of the gradient rather than of the loss,
since it is the update that the KL takes over. The default numbers are this
project's choice.

Runs on the host, in plain Python.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import math
import statistics

MODES = ("every", "at", "stall", "kl", "dominates", "auto")
# The modes 'auto' stands for, in order.
AUTO = ("stall", "kl", "dominates")
# With fewer points a trend cannot be told from an outlier.
MIN_WINDOW = 5
# Standard deviations by which a spike must exceed the trend.
_NOISE = 4.0
_NEEDS = {
  "every": "a period",
  "stall": "a patience",
  "kl": "a kl_factor or a kl_threshold",
  "dominates": "a share_threshold",
}


def every(step: int, period: int) -> bool:
  """Returns whether `step` is a positive multiple of `period`.

  Args:
    step: number of finished steps.
    period: steps between resets, at least 1.

  Raises:
    ValueError: `period` is below 1.
  """
  if period < 1:
    raise ValueError(f"period must be at least 1, got {period}")
  return step > 0 and step % period == 0


def stalled(
  scores: Sequence[float], patience: int, min_delta: float = 0.0
) -> bool:
  """Returns whether the last `patience` evaluations brought no gain.

  Their best score is compared with the best score before them, so a score
  that dropped and recovers counts as stalled until it exceeds its old maximum.

  Args:
    scores: validation scores since the last reset, oldest first, higher is
      better; the first one is the baseline. NaN (nothing was measured) is
      skipped.
    patience: number of evaluations to wait, at least 1.
    min_delta: smallest difference that counts as a gain, exclusive.

  Raises:
    ValueError: `patience` is below 1.
  """
  if patience < 1:
    raise ValueError(f"patience must be at least 1, got {patience}")
  scores = [score for score in scores if not math.isnan(score)]
  if len(scores) <= patience:
    return False
  return max(scores[-patience:]) <= max(scores[:-patience]) + min_delta


def kl_spike(
  kls: Sequence[float],
  *,
  factor: float | None = None,
  threshold: float | None = None,
  window: int = 20,
) -> bool:
  """Returns whether the last KL is a spike above its growth trend.

  After a reset the KL grows from 0 like a power of the step number (its square
  while the policy moves in one direction), so late values are many times the
  early ones without any spike. A power law is therefore fitted to the values
  before the last one and extrapolated to it. The fit is robust (Theil-Sen:
  median of the slopes of all pairs of points), so one earlier spike does not
  move it. A KL that grows steadily without limit follows its own trend and is
  no spike; `threshold` and `dominates` catch it.

  If both bounds are given, both must be exceeded: `threshold` is then the
  size below which a spike does not matter.

  Args:
    kls: KL to the reference in each step since the last reset, oldest first.
      NaN is skipped; values <= 0 are left out of the fit (the KL is 0 in the
      first step).
    factor: the last KL must exceed this multiple of its extrapolated value,
      and exceed it by `_NOISE` standard deviations of the fitted points.
    threshold: the last KL must exceed this value.
    window: number of fitted values before the last one, at least
      `MIN_WINDOW`. With fewer values there is no spike.

  Raises:
    ValueError: neither bound is given, or `window` is below `MIN_WINDOW`.
  """
  if factor is None and threshold is None:
    raise ValueError("kl_spike needs a factor or a threshold")
  if window < MIN_WINDOW:
    raise ValueError(f"window must be at least {MIN_WINDOW}, got {window}")
  measured = [(t, kl) for t, kl in enumerate(kls, 1) if not math.isnan(kl)]
  if not measured:
    return False
  now, last = measured[-1]
  if threshold is not None and not last > threshold:
    return False
  if factor is None:
    return True
  # A power law is a straight line in log-log coordinates.
  before = [(math.log(t), math.log(kl)) for t, kl in measured[:-1] if kl > 0][
    -window:
  ]
  if len(before) < window or not last > 0:
    return False
  expected, noise = _trend(before, math.log(now))
  return math.log(last) - expected > max(math.log(factor), _NOISE * noise)


def _trend(points: Sequence[tuple[float, float]], x: float):
  """Evaluates a robust line through points at x, with the points' noise.

  Returns:
    (y, noise): value of the line at x, and the points' standard deviation
    around it, estimated from their median distance.
  """
  slope = statistics.median(
    (b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2)
  )
  start = statistics.median(y - slope * x for x, y in points)
  distance = statistics.median(abs(y - slope * x - start) for x, y in points)
  # For normal noise the standard deviation is 1.4826 median distances.
  return start + slope * x, 1.4826 * distance


def dominates(
  shares: Sequence[float], *, threshold: float, window: int = 20
) -> bool:
  """Returns whether the KL term dominates the gradient.

  The median over the window decides, since single steps mislead: right after
  a reset the share is 0, and in a batch whose advantages are nearly all 0 it
  is near 1.

  Args:
    shares: KL's share of the gradient in each step since the last reset, in
      [0, 1], oldest first. NaN is skipped.
    threshold: value in [0, 1) that the median must exceed.
    window: number of last values in the median, at least 1. With fewer values
      the answer is False.

  Raises:
    ValueError: `threshold` is outside [0, 1) or `window` is below 1.
  """
  if not 0 <= threshold < 1:
    raise ValueError(f"threshold must lie in [0, 1), got {threshold}")
  if window < 1:
    raise ValueError(f"window must be at least 1, got {window}")
  shares = [share for share in shares if not math.isnan(share)]
  return len(shares) >= window and (
    statistics.median(shares[-window:]) > threshold
  )


def should_reset(
  step: int,
  *,
  last_reset: int,
  modes: Sequence[str],
  history: Mapping[str, Iterable[tuple[int, float]]] | None = None,
  period: int | None = None,
  at_steps: Sequence[int] = (),
  patience: int | None = None,
  min_delta: float = 0.0,
  kl_factor: float | None = None,
  kl_threshold: float | None = None,
  kl_window: int = 20,
  share_threshold: float | None = 0.5,
  share_window: int = 20,
  min_gap: int = 1,
) -> tuple[bool, str]:
  """Returns whether to reset the reference after this step, and why.

  Modes are tried in the order given; the first one that fires gives the
  reason.

  Args:
    step: number of finished steps, including the current one.
    last_reset: step of the last reset; 0 for none. There is never a second
      reset at that step.
    modes: any of 'every' (each `period` steps since the last reset), 'at' (at
      the listed `at_steps`), 'stall' (`stalled` on history["score"]), 'kl'
      (`kl_spike` on history["kl"]), 'dominates' (`dominates` on
      history["kl_share"]) and 'auto' (the last three, as far as their
      settings are given). Empty for no resets.
    history: {name: (step, value) pairs} as logged, in any order. Pairs from
      before the last reset or after `step` are skipped: a log may run past
      the checkpoint a run resumed from. The later of two values for one step
      counts.
    period: steps between resets of 'every'.
    at_steps: steps of the resets of 'at'.
    patience: number of evaluations without a gain for 'stall'.
    min_delta: smallest gain for 'stall', exclusive.
    kl_factor: multiple of the expected KL for 'kl'.
    kl_threshold: smallest KL for 'kl', exclusive.
    kl_window: number of fitted values for 'kl'.
    share_threshold: KL's share of the gradient for 'dominates'.
    share_window: number of steps in the median of 'dominates'.
    min_gap: fewest steps between a reset and a measured one ('stall', 'kl',
      'dominates'); 'every' and 'at' ignore it.

  Returns:
    (decision, reason); the reason is empty when there is no reset.

  Raises:
    ValueError: a mode is unknown, lacks its setting, or `step` lies before
      `last_reset`.
  """
  modes = _triggers(
    modes,
    every=bool(period),
    at=True,
    stall=bool(patience),
    kl=kl_factor is not None or kl_threshold is not None,
    dominates=share_threshold is not None,
  )
  if step < last_reset:
    raise ValueError(f"step {step} lies before the last reset, {last_reset}")
  if step == last_reset:
    return False, ""
  if step - last_reset < min_gap:
    modes = [mode for mode in modes if mode not in AUTO]

  history = history or {}
  # The score measured at the reset step is the baseline of 'stall'. The KL and
  # its share logged at that step still refer to the old reference.
  scores = _logged(history.get("score", ()), last_reset, step)
  kls = _logged(history.get("kl", ()), last_reset + 1, step)
  shares = _logged(history.get("kl_share", ()), last_reset + 1, step)
  for mode in modes:
    if mode == "every" and every(step - last_reset, period):
      return True, f"{period} steps since the last reset"
    if mode == "at" and step in at_steps:
      return True, f"step {step} is listed"
    if mode == "stall" and stalled(scores, patience, min_delta):
      return True, f"no validation gain in {patience} evaluations"
    if mode == "kl" and kl_spike(
      kls, factor=kl_factor, threshold=kl_threshold, window=kl_window
    ):
      return True, f"KL {kls[-1]:.4g} stands out"
    if mode == "dominates" and dominates(
      shares, threshold=share_threshold, window=share_window
    ):
      return True, (
        f"KL above {share_threshold:.0%} of the gradient over "
        f"{share_window} steps"
      )
  return False, ""


def _triggers(modes, **given: bool) -> list[str]:
  """Expands 'auto' and checks that every mode has its settings."""
  # A string is a sequence too: "kl" would be read as modes "k" and "l".
  unknown = [mode for mode in modes if mode not in MODES]
  if isinstance(modes, str) or unknown:
    raise ValueError(f"modes={modes!r}: give a sequence of some of {MODES}")
  triggers = []
  for mode in modes:
    if mode != "auto":
      if not given[mode]:
        raise ValueError(f"reset mode {mode!r} needs {_NEEDS[mode]}")
      triggers.append(mode)
      continue
    ready = [trigger for trigger in AUTO if given[trigger]]
    if not ready:
      needs = ", ".join(_NEEDS[trigger] for trigger in AUTO)
      raise ValueError(f"reset mode 'auto' needs some of: {needs}")
    triggers += ready
  return triggers


def _logged(pairs, first: int, last: int) -> list[float]:
  """Values logged for steps first to last, in step order."""
  by_step = {step: value for step, value in pairs if first <= step <= last}
  return [by_step[step] for step in sorted(by_step)]
