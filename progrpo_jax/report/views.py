"""Which view shows work in progress: a notebook's, a terminal's, or lines."""

from collections.abc import Callable
import contextlib
import sys

from progrpo_jax.devices import hosts
from progrpo_jax.report import live


def in_notebook() -> bool:
  """Returns whether this code runs in a cell of Jupyter, Colab or the like."""
  # A notebook has imported IPython already; nobody else has to.
  ipython = sys.modules.get("IPython")
  shell = ipython and ipython.get_ipython()
  return shell is not None and hasattr(shell, "kernel")


def is_interactive() -> bool:
  """Returns whether a person types into this process: notebook or shell."""
  return in_notebook() or hasattr(sys, "ps1")


def of_run(
  method: str, workdir: str, total_steps: int
) -> contextlib.AbstractContextManager:
  """Returns the view of a training run, a context manager.

  Figures below the cell in a notebook; on a terminal a view that redraws
  itself; elsewhere plain lines. Only the first host shows more than messages.

  Args:
    method: name of the run's method.
    workdir: workdir of the run.
    total_steps: number of steps of the run.
  """
  if not hosts.is_first():
    return contextlib.nullcontext(live.Mute(f"host {hosts.index()}"))
  if in_notebook():
    # Imported here: it draws, for which a terminal need not wait.
    from progrpo_jax.report import notebook

    return notebook.NotebookView({method: workdir}, total_steps)
  return live.LiveView(total_steps, f"{method} in {workdir}")


def progress(
  title: str, total: int
) -> contextlib.AbstractContextManager[Callable[..., None]]:
  """Returns the context of `live.progress`, or a line below a notebook's cell.

  Args:
    title: title of the work.
    total: number of its parts.
  """
  if hosts.is_first() and in_notebook():
    from progrpo_jax.report import notebook

    return notebook.progress(title, total)
  return live.progress(title, total)
