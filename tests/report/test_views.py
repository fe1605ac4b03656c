"""Which view a run gets."""

import sys
import types

import pytest

from progrpo_jax.devices import hosts
from progrpo_jax.report import live, notebook, views


@pytest.fixture
def shell(monkeypatch):
  """A function that makes this process look like a shell of IPython."""

  def pretend(**attributes):
    ipython = types.SimpleNamespace(
      get_ipython=lambda: types.SimpleNamespace(**attributes)
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)

  return pretend


def test_a_script_gets_lines_or_the_live_view(monkeypatch):
  monkeypatch.delitem(sys.modules, "IPython", raising=False)
  assert not views.in_notebook() and not views.is_interactive()
  assert isinstance(views.of_run("grpo", "run", 3), live.LiveView)
  monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
  assert views.is_interactive() and not views.in_notebook()


def test_a_notebook_gets_figures_and_a_terminal_of_ipython_does_not(shell):
  shell()
  assert not views.in_notebook()
  shell(kernel=object())
  assert views.in_notebook() and views.is_interactive()
  assert isinstance(views.of_run("grpo", "run", 3), notebook.NotebookView)


def test_other_hosts_say_messages_alone(shell, monkeypatch, capsys):
  shell(kernel=object())
  monkeypatch.setattr(hosts, "is_first", lambda: False)
  monkeypatch.setattr(hosts, "index", lambda: 1)
  with views.of_run("grpo", "run", 3) as view:
    view.step(1, {})
    view.message("hello")
  assert capsys.readouterr().out == "host 1: hello\n"
  with views.progress("work", 2) as tick:
    tick()
  assert capsys.readouterr().out == ""
