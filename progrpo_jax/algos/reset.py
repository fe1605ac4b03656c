"""When the reference policy is set to the current one.

Every function decides from numbers that the run has logged and from nothing
else: no clock, no state of its own. A run that was interrupted and resumed
therefore resets at the very steps at which the unbroken one would have.

"ProRL" (https://arxiv.org/abs/2505.24864, sections 2.3.1 and 3.3) resets the
reference "periodically" and when validation stalls or drops, because the KL
comes to dominate the loss; it prints neither a period nor a trigger. ProRL v2
(blog of August 2025) resets every 200 to 500 steps, or on a spike of the KL or
a stall, and keeps the optimiser: modes ("every", "stall", "kl"). That the KL
dominates is asked of the gradient here, since it is the gradient that it takes
over. The numbers are this project's own.

Runs on the host, in plain Python.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import math
import statistics

MODES = ("every", "at", "stall", "kl", "dominates", "auto")
# What 'auto' asks, in this order.
AUTO = ("stall", "kl", "dominates")
# Fewer points tell no trend from an outlier.
MIN_WINDOW = 5
# Deviations from the trend that a spike has to stand out by.
_NOISE = 4.0
_NEEDS = {
    "every": "a period", "stall": "a patience",
    "kl": "a kl_factor or a kl_threshold", "dominates": "a share_threshold"}


def every(step: int, period: int) -> bool:
  """Whether `step` is a positive multiple of `period`.

  Args:
    step: steps done.
    period: at least 1.

  Raises:
    ValueError: `period` is below 1.
  """
  if period < 1:
    raise ValueError(f"period must be at least 1, got {period}")
  return step > 0 and step % period == 0


def stalled(
    scores: Sequence[float], patience: int, min_delta: float = 0.0) -> bool:
  """Whether the last `patience` evaluations brought no gain.

  The best of them is compared with the best before them, so that a score that
  dropped and recovers counts as stalled until it passes its old height.

  Args:
    scores: validation scores since the last reset, oldest first, higher is
      better; the first is the one to beat. NaN, an evaluation that measured
      nothing, is passed over.
    patience: evaluations to wait, at least 1.
    min_delta: a gain must be larger than this.

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
    kls: Sequence[float], *, factor: float | None = None,
    threshold: float | None = None, window: int = 20,
) -> bool:
  """Whether the last KL stands out from its own growth.

  After a reset the KL grows from 0 like a power of the steps, the square while
  the policy moves straight on: late values are many times the early ones
  without any spike. So a power of the steps is fitted to the values before
  the last, and the last is held against what that leads to expect. The fit is
  robust (Theil and Sen: the median of all slopes between two points), so that
  one earlier spike does not move it. A KL that explodes evenly, step by step,
  is its own trend: `threshold` and `dominates` are for that.

  Given both bounds, both must be passed: `threshold` is then the size below
  which no spike matters.

  Args:
    kls: KL to the reference in each step since the last reset, oldest first.
      NaN is passed over, and by the fit what is not above 0 as well: the KL
      is 0 in the first step.
    factor: the last must exceed this multiple of what was to be expected, and
      lie `_NOISE` times as far from that as the others do.
    threshold: the last must exceed this.
    window: values before the last that are fitted, all of which must be
      there; at least `MIN_WINDOW`.

  Raises:
    ValueError: neither bound is given, or `window` is below `MIN_WINDOW`.
  """
  if factor is None and threshold is None:
    raise ValueError("kl_spike needs a factor or a threshold")
  if window < MIN_WINDOW:
    raise ValueError(f"window must be at least {MIN_WINDOW}, got {window}")
  known = [(t, kl) for t, kl in enumerate(kls, 1) if not math.isnan(kl)]
  if not known:
    return False
  now, last = known[-1]
  if threshold is not None and not last > threshold:
    return False
  if factor is None:
    return True
  before = [
      (math.log(t), math.log(kl)) for t, kl in known[:-1] if kl > 0][-window:]
  if len(before) < window or not last > 0:
    return False
  expected, noise = _trend(before, math.log(now))
  return math.log(last) - expected > max(math.log(factor), _NOISE * noise)


def _trend(points: Sequence[tuple[float, float]], x: float):
  """A robust line through points, at x; and how far points lie from it.

  Returns:
    (y, noise): noise is a standard deviation, from the median of distances.
  """
  slope = statistics.median(
      (b[1] - a[1]) / (b[0] - a[0])
      for a, b in itertools.combinations(points, 2))
  start = statistics.median(y - slope * x for x, y in points)
  distance = statistics.median(abs(y - slope * x - start) for x, y in points)
  # The median distance of normal noise is 1 / 1.4826 of its deviation.
  return start + slope * x, 1.4826 * distance


def dominates(
    shares: Sequence[float], *, threshold: float, window: int = 20) -> bool:
  """Whether the KL has taken over the gradient.

  The median over the window is asked: right after a reset the share is 0, and
  a batch whose advantages are nearly all 0 has a share near 1 by itself.

  Args:
    shares: the KL's share of the gradient since the last reset, in [0, 1],
      oldest first. NaN is passed over.
    threshold: the median must exceed this.
    window: last values that the median is taken over, all of which must be
      there; at least 1.

  Raises:
    ValueError: `threshold` is outside [0, 1) or `window` is below 1.
  """
  if not 0 <= threshold < 1:
    raise ValueError(f"threshold must lie in [0, 1), got {threshold}")
  if window < 1:
    raise ValueError(f"window must be at least 1, got {window}")
  shares = [share for share in shares if not math.isnan(share)]
  return len(shares) >= window and (
      statistics.median(shares[-window:]) > threshold)


def should_reset(
    step: int, *, last_reset: int, modes: Sequence[str],
    history: Mapping[str, Iterable[tuple[int, float]]] | None = None,
    period: int | None = None, at_steps: Sequence[int] = (),
    patience: int | None = None, min_delta: float = 0.0,
    kl_factor: float | None = None, kl_threshold: float | None = None,
    kl_window: int = 20, share_threshold: float | None = 0.5,
    share_window: int = 20, min_gap: int = 1,
) -> tuple[bool, str]:
  """Whether to reset the reference after this step, and why.

  Modes are asked in the order given; the first that fires is the reason.

  Args:
    step: steps done, the current one included.
    last_reset: step at which the reference was taken; 0 for the start model.
      A reset never happens at that step again.
    modes: any of 'every' (each `period` steps since the last reset), 'at' (at
      the listed `at_steps`), 'stall' (`stalled` on history["score"]), 'kl'
      (`kl_spike` on history["kl"]), 'dominates' (`dominates` on
      history["kl_share"]) and 'auto' (any of the last three whose setting is
      given). Empty: never.
    history: name -> (step, value) pairs as logged, in any order. Those from
      before the last reset or after `step` are passed over: a log may run
      past the checkpoint that a run resumed from. Of two values for a step
      the later in the log holds.
    period: for 'every'.
    at_steps: for 'at'.
    patience: for 'stall'.
    min_delta: for 'stall'.
    kl_factor: for 'kl'.
    kl_threshold: for 'kl'.
    kl_window: for 'kl'.
    share_threshold: for 'dominates'.
    share_window: for 'dominates'.
    min_gap: fewest steps from a reset to one for which a measurement is the
      reason; 'every' and 'at' keep their own time.

  Returns:
    (whether, reason); the reason is empty when there is no reset.

  Raises:
    ValueError: a mode is unknown, lacks its setting, or `step` lies before
      `last_reset`.
  """
  modes = _triggers(
      modes, every=bool(period), at=True, stall=bool(patience),
      kl=kl_factor is not None or kl_threshold is not None,
      dominates=share_threshold is not None)
  if step < last_reset:
    raise ValueError(f"step {step} lies before the last reset, {last_reset}")
  if step == last_reset:
    return False, ""
  if step - last_reset < min_gap:
    modes = [mode for mode in modes if mode not in AUTO]

  history = history or {}
  # A score measured at the reset is the one to beat; a KL logged at that step
  # was still taken to the reference before.
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
        kls, factor=kl_factor, threshold=kl_threshold, window=kl_window):
      return True, f"KL {kls[-1]:.4g} stands out"
    if mode == "dominates" and dominates(
        shares, threshold=share_threshold, window=share_window):
      return True, (
          f"KL above {share_threshold:.0%} of the gradient over "
          f"{share_window} steps")
  return False, ""


def _triggers(modes, **given: bool) -> list[str]:
  """The modes with 'auto' spelled out; all of them have their settings."""
  unknown = [mode for mode in modes if mode not in MODES]
  if isinstance(modes, str) or unknown:
    raise ValueError(f"modes={modes!r}: give a sequence of some of {MODES}")
  found = []
  for mode in modes:
    if mode != "auto":
      if not given[mode]:
        raise ValueError(f"reset mode {mode!r} needs {_NEEDS[mode]}")
      found.append(mode)
      continue
    known = [trigger for trigger in AUTO if given[trigger]]
    if not known:
      needs = ", ".join(_NEEDS[trigger] for trigger in AUTO)
      raise ValueError(f"reset mode 'auto' needs some of: {needs}")
    found += known
  return found


def _logged(pairs, first: int, last: int) -> list[float]:
  """Values logged for steps first..last, in the order of the steps."""
  by_step = {step: value for step, value in pairs if first <= step <= last}
  return [by_step[step] for step in sorted(by_step)]
