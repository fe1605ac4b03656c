"""Requests to stop a run, sent as signals to any of its hosts."""

from collections.abc import Callable
import contextlib
import signal

from progrpo_jax import errors
from progrpo_jax.devices import hosts


class Stop:
  """Request to stop the run.

  Attributes:
    asked: whether this host was asked to stop.
  """

  def __init__(self):
    """Starts without a request."""
    self.asked = False

  def check(self) -> None:
    """Ends the step if any host was asked to stop.

    Every host must call this, before the step changes any state.

    Raises:
      Preempted: a host was asked to stop.
    """
    if hosts.any_of(self.asked):
      raise errors.Preempted

  @contextlib.contextmanager
  def on_signals(self, say: Callable[[str], None]):
    """Context in which SIGTERM, SIGINT and SIGUSR1 are requests to stop.

    A second SIGTERM or SIGINT ends the process at once. A second SIGUSR1 does
    not: schedulers send it ahead of the SIGTERM that takes a machine away.

    Args:
      say: function called with a line for the log at each request.
    """

    def on_signal(number, _):
      again = ""
      if number != signal.SIGUSR1:
        signal.signal(number, signal.SIG_DFL)
        again = "; once more stops at once"
      self.asked = True
      say(f"{signal.Signals(number).name}: saving, then stopping{again}")

    before = {
      s: signal.signal(s, on_signal)
      for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    }
    try:
      yield
    finally:
      for number, handler in before.items():
        # None means a handler that was not installed from Python, such as
        # JAX's; it cannot be restored.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
