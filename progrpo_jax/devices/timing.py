"""Wall-clock times of the stages of a step, and of the compiling in them."""

from collections.abc import Callable
import contextlib
import time

import jax

from progrpo_jax.devices import compilation


class Timer:
  """Times the stages of a step and names them in a profiler trace."""

  def __init__(self, announce: Callable[[str], None] = lambda name: None):
    """Starts with no times.

    Args:
      announce: function called with the name of each stage as it begins, with
        "compiling NAME" as it begins to compile a program, and with its name
        again once that is done.
    """
    self._announce = announce
    self._seconds: dict[str, float] = {}
    self._stage = ""
    self._compiling = False
    self._clock = compilation.Clock(self._tell)

  @contextlib.contextmanager
  def stage(self, name: str):
    """Context of a stage; times of a stage that runs repeatedly are added."""
    self._stage = name
    self._announce(name)
    start = time.perf_counter()
    try:
      with jax.profiler.TraceAnnotation(name):
        yield
    finally:
      self._stage, self._compiling = "", False
    self._seconds[name] = (
      self._seconds.get(name, 0.0) + time.perf_counter() - start
    )

  def take(self) -> dict[str, float]:
    """Takes the times since the last call.

    Returns:
      Seconds by "timing_s/STAGE", with their sum as "timing_s/step"; and as
      "timing_s/compile" the seconds that were spent on compiling, most of them
      in these stages.
    """
    seconds, self._seconds = self._seconds, {}
    seconds["step"] = sum(seconds.values())
    seconds["compile"], self._clock.seconds = self._clock.seconds, 0.0
    return {f"timing_s/{name}": s for name, s in seconds.items()}

  def _tell(self, compiling: bool) -> None:
    """Announces that a program is being compiled in a stage, or no longer."""
    if self._stage and compiling != self._compiling:
      self._compiling = compiling
      self._announce(f"compiling {self._stage}" if compiling else self._stage)
