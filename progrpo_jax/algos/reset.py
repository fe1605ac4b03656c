"""When the reference policy is set to the current one.

Every function decides from numbers that the run has logged and from nothing
else: no clock, no state of its own. A run that was interrupted and resumed
therefore resets at the very steps at which the unbroken one would have.

"ProRL" (https://arxiv.org/abs/2505.24864, sections 2.3.1 and 3.3) resets the
reference "periodically" and when validation stalls or drops, because the KL
comes to dominate the loss; it prints neither a period nor a trigger. ProRL v2
adds a spike of the KL. The numbers here are this project's own.

Runs on the host, in plain Python.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import statistics

MODES = ("every", "at", "stall", "kl")


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
  """Whether the last KL stands out.

  Right after a reset the KL starts from 0 and any step doubles it; a relative
  test waits for a full window and compares with its median, which one earlier
  spike does not move. Given both bounds, both must be passed: `threshold` is
  then the size below which no spike matters.

  Args:
    kls: KL to the reference since the last reset, oldest first. NaN is passed
      over.
    factor: the last must exceed this multiple of the median of the `window`
      values before it.
    threshold: the last must exceed this.
    window: at least 1.

  Raises:
    ValueError: neither bound is given, or `window` is below 1.
  """
  if factor is None and threshold is None:
    raise ValueError("kl_spike needs a factor or a threshold")
  if window < 1:
    raise ValueError(f"window must be at least 1, got {window}")
  *before, last = [kl for kl in kls if not math.isnan(kl)] or [math.nan]
  if math.isnan(last):
    return False
  if threshold is not None and not last > threshold:
    return False
  if factor is None:
    return True
  if len(before) < window:
    return False
  return last > factor * statistics.median(before[-window:])


def should_reset(
    step: int, *, last_reset: int, modes: Sequence[str],
    history: Mapping[str, Iterable[tuple[int, float]]] | None = None,
    period: int | None = None, at_steps: Sequence[int] = (),
    patience: int | None = None, min_delta: float = 0.0,
    kl_factor: float | None = None, kl_threshold: float | None = None,
    kl_window: int = 20, min_gap: int = 1,
) -> tuple[bool, str]:
  """Whether to reset the reference after this step, and why.

  Modes are asked in the order given; the first that fires is the reason.

  Args:
    step: steps done, the current one included.
    last_reset: step at which the reference was taken; 0 for the start model.
      A reset never happens at that step again.
    modes: any of 'every' (each `period` steps since the last reset), 'at' (at
      the listed `at_steps`), 'stall' (`stalled` on history["score"]) and 'kl'
      (`kl_spike` on history["kl"]). Empty: never.
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
    min_gap: fewest steps between two resets, whatever the mode.

  Returns:
    (whether, reason); the reason is empty when there is no reset.

  Raises:
    ValueError: a mode is unknown, lacks its setting, or `step` lies before
      `last_reset`.
  """
  unknown = [mode for mode in modes if mode not in MODES]
  if isinstance(modes, str) or unknown:
    raise ValueError(f"modes={modes!r}: give a sequence of some of {MODES}")
  if "every" in modes and not period:
    raise ValueError("reset mode 'every' needs a period")
  if "stall" in modes and not patience:
    raise ValueError("reset mode 'stall' needs a patience")
  if "kl" in modes and kl_factor is None and kl_threshold is None:
    raise ValueError("reset mode 'kl' needs a kl_factor or a kl_threshold")
  if step < last_reset:
    raise ValueError(f"step {step} lies before the last reset, {last_reset}")
  if step - last_reset < max(min_gap, 1):
    return False, ""

  history = history or {}
  # A score measured at the reset is the one to beat; a KL logged at that step
  # was still taken to the reference before.
  scores = _logged(history.get("score", ()), last_reset, step)
  kls = _logged(history.get("kl", ()), last_reset + 1, step)
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
  return False, ""


def _logged(pairs, first: int, last: int) -> list[float]:
  """Values logged for steps first..last, in the order of the steps."""
  by_step = {step: value for step, value in pairs if first <= step <= last}
  return [by_step[step] for step in sorted(by_step)]
