"""Requests to stop a run, sent as signals to any of its hosts."""

from collections.abc import Callable
import contextlib
import signal
import threading

from progrpo_jax import errors
from progrpo_jax.devices import hosts


class Stop:
  """Request to stop the run.

  Attributes:
    asked: whether this host was asked to stop.
    signal: signal that asked it first; None if none has.
  """

  def __init__(self, ends_process: bool = True):
    """Starts without a request.

    Args:
      ends_process: whether a second SIGTERM or SIGINT ends the process. In a
        notebook it must not: what a kernel holds would be lost. The handler
        that was there before is then called, which for SIGINT raises
        KeyboardInterrupt.
    """
    self.asked = False
    self.signal: signal.Signals | None = None
    self._ends_process = ends_process

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

    A second SIGTERM or SIGINT ends the process, or what it does, at once. A
    second SIGUSR1 does not: schedulers send it ahead of the SIGTERM that takes
    a machine away. When the context is left the handlers are as before.

    Python lets the main thread alone handle signals: in another thread this
    context changes nothing.

    Args:
      say: function called with a line for the log at each request.
    """
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    before = {}

    def on_signal(number, _):
      again = ""
      if number != signal.SIGUSR1:
        handler = signal.SIG_DFL if self._ends_process else before[number]
        signal.signal(number, handler)
        again = "; once more stops at once"
      self.asked, self.signal = True, self.signal or signal.Signals(number)
      say(f"{signal.Signals(number).name}: saving, then stopping{again}")

    try:
      for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        # None means a handler that was not installed from Python, such as
        # JAX's; it cannot be restored.
        handler = signal.getsignal(number)
        before[number] = signal.SIG_DFL if handler is None else handler
        signal.signal(number, on_signal)
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)
