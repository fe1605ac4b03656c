"""Seconds of the stages of a step."""

from collections.abc import Callable
import contextlib
import time

import jax


class Timer:
  """Times the stages of a step, and names them in a profile."""

  def __init__(self, announce: Callable[[str], None] = lambda name: None):
    """Starts with no seconds.

    Args:
      announce: called with the name of each stage as it begins.
    """
    self._announce = announce
    self._seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def stage(self, name: str):
    """Times its body; a stage that runs several times in a step adds up."""
    self._announce(name)
    start = time.perf_counter()
    with jax.profiler.TraceAnnotation(name):
      yield
    self._seconds[name] = (
        self._seconds.get(name, 0.0) + time.perf_counter() - start)

  def take(self) -> dict[str, float]:
    """Returns timing_s/<stage> since the last call, and their sum as step."""
    seconds, self._seconds = self._seconds, {}
    seconds["step"] = sum(seconds.values())
    return {f"timing_s/{name}": s for name, s in seconds.items()}
