"""Requests to stop a run, from signals that reach any of its hosts."""

from collections.abc import Callable
import contextlib
import signal

from progrpo_jax import errors
from progrpo_jax.devices import hosts


class Stop:
  """Whether someone asked the run to stop."""

  def __init__(self):
    self.asked = False

  def check(self) -> None:
    """Ends the step if the run was asked to stop, here or on another host.

    Every host calls it, at a point where nothing of the step is applied yet.

    Raises:
      Preempted: it was.
    """
    if hosts.any_of(self.asked):
      raise errors.Preempted

  @contextlib.contextmanager
  def on_signals(self, say: Callable[[str], None]):
    """Takes SIGTERM, SIGINT and SIGUSR1 as requests inside its body.

    A second SIGTERM or SIGINT ends the process at once. SIGUSR1 may come
    again: it announces that a machine will be taken away, and the SIGTERM
    follows later.

    Args:
      say: called with a sentence when a request comes.
    """

    def ask(number, _):
      again = ""
      if number != signal.SIGUSR1:
        signal.signal(number, signal.SIG_DFL)
        again = "; once more stops at once"
      self.asked = True
      say(f"{signal.Signals(number).name}: saving, then stopping{again}")

    before = {
        s: signal.signal(s, ask)
        for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
      yield
    finally:
      for number, handler in before.items():
        # None is a handler that is not Python's, such as JAX's own.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
