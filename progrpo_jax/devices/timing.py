"""Wall-clock times of the stages of a step."""

from collections.abc import Callable
import contextlib
import time

import jax


class Timer:
  """Times the stages of a step and names them in a profiler trace."""

  def __init__(self, announce: Callable[[str], None] = lambda name: None):
    """Starts with no times.

    Args:
      announce: function called with the name of each stage as it begins.
    """
    self._announce = announce
    self._seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def stage(self, name: str):
    """Context of a stage; times of a stage that runs repeatedly are added."""
    self._announce(name)
    start = time.perf_counter()
    with jax.profiler.TraceAnnotation(name):
      yield
    self._seconds[name] = (
      self._seconds.get(name, 0.0) + time.perf_counter() - start
    )

  def take(self) -> dict[str, float]:
    """Takes the times since the last call.

    Returns:
      Seconds by "timing_s/STAGE", with their sum as "timing_s/step".
    """
    seconds, self._seconds = self._seconds, {}
    seconds["step"] = sum(seconds.values())
    return {f"timing_s/{name}": s for name, s in seconds.items()}
