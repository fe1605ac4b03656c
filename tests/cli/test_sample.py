import io
import sys

import pytest

from progrpo_jax import main


@pytest.fixture
def sample(small, monkeypatch, capfd):
  """A function that pipes text in; (exit code, lines out, text of errors)."""

  def run(text, *flags, overrides=()):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    code = main.main(["sample", *small.args(*overrides), *flags])
    out, err = capfd.readouterr()
    return code, out.splitlines(), err

  return run


def test_answers_each_line(sample, small):
  code, lines, _ = sample("1+2=\n\n3+4=\n", "--num_samples", "3")
  assert code == 0 and len(lines) == 6
  assert sample("1+2=\n3+4=\n", "--num_samples", "3")[1] == lines
  greedy = sample(
    "1+2=\n" * 2, "--temperature", "0", "--policy", str(small.base)
  )[1]
  assert len(greedy) == 2 and greedy[0] == greedy[1]
  other = sample("1+2=\n3+4=\n", "--num_samples", "3", overrides=("seed=1",))
  assert other[1] != lines


def test_bad_input_is_named(sample):
  for text, flags, said in (
    ("1+2=\n", ("--num_samples", "0"), "--num_samples: '0' must be at least 1"),
    ("1+2=\n", ("--temperature", "-1"), "--temperature: '-1' must be 0 or in"),
    ("1+2=\n", ("--temperature", "hot"), "'hot' must be a finite number"),
    ("1+2+3+4+5+6+7=\n", (), "the prompt has 15 tokens, config.data.max_p"),
    ("1+2=\n", ("--policy", "/nowhere"), "'/nowhere': no such directory"),
  ):
    code, lines, err = sample(text, *flags)
    assert (code, lines) == (2, [])
    assert said in err
