import jax
import jax.numpy as jnp
import pytest

from progrpo_jax.devices import sharding
from progrpo_jax.plan import kept


class Counting:
  """A lowered program that counts how often it is compiled."""

  def __init__(self, function):
    self.lowered = jax.jit(function).lower(jnp.ones((2, 3)))
    self.times = 0

  def as_text(self):
    return self.lowered.as_text()

  def compile(self):
    self.times += 1
    return self.lowered.compile()


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path / ".cache/progrpo_jax/compiled"


@pytest.fixture
def mesh():
  return sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


def test_a_program_is_compiled_once(home, mesh):
  doubled = Counting(lambda x: 2 * x)
  first = kept.compile(doubled, mesh)
  assert "multiply" in first.text
  assert first.memory == 2 * 2 * 3 * 4  # argument and result
  # Another config that asks for the same text.
  again = Counting(lambda x: 2 * x)
  assert kept.compile(again, mesh) == first
  assert (doubled.times, again.times) == (1, 0)
  other = Counting(lambda x: 3 * x)
  assert kept.compile(other, mesh) != first
  assert other.times == 1
  assert len(list(home.iterdir())) == 2


def test_a_damaged_file_is_made_again(home, mesh):
  program = Counting(lambda x: 2 * x)
  first = kept.compile(program, mesh)
  (file,) = home.iterdir()
  whole = file.read_bytes()
  for damaged in (b"", b"no gzip", whole[:-9]):
    file.write_bytes(damaged)
    assert kept.compile(program, mesh) == first
    assert file.read_bytes() == whole
  assert program.times == 4


def test_a_folder_that_cannot_be_made_costs_nothing_else(home, mesh):
  home.parent.mkdir(parents=True)
  home.write_text("a file in its place")
  program = Counting(lambda x: 2 * x)
  assert "multiply" in kept.compile(program, mesh).text
  assert home.read_text() == "a file in its place"
