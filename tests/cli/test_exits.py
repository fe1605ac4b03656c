"""What the user can mend is a line and a code; a fault keeps its traceback."""

import errno
import textwrap

import pytest

from progrpo_jax import errors, main
from progrpo_jax.cli import exits


def outcome(error, *argv):
  def command(_):
    raise error

  return exits.run("progrpo test", command, argv)


def caused(error, by):
  error.__cause__ = by
  return error


@pytest.mark.parametrize(
  ("error", "code", "said"),
  [
    (errors.InputError("bad\n  key"), 2, "progrpo test: bad key\n"),
    (errors.RunError("gone"), 1, "progrpo test: stopped: gone\n"),
    (
      OSError(errno.ENOSPC, "No space left on device", "/x"),
      1,
      "no space is left on the disk",
    ),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "no space is left"),
    (RuntimeError("write failed: No space left on device"), 1, "no space is"),
    (caused(KeyError("x"), OSError(errno.ENOSPC, "full")), 1, "no space is"),
    (OSError(errno.EMFILE, "Too many open files"), 1, "ulimit -n 4096"),
    (
      caused(
        errors.InputError("cannot read x"),
        OSError(errno.EMFILE, "Too many open files"),
      ),
      1,
      "ulimit -n 4096",
    ),
    (OSError(errno.EFBIG, "File too large"), 1, "see `ulimit -f`"),
    (ImportError("lib.so: Too many open files"), 1, "ulimit -n 4096"),
    (SystemExit(0), 0, ""),
    (SystemExit(None), 0, ""),
    (SystemExit(3), 3, ""),
    (BrokenPipeError(), 0, ""),
    (KeyboardInterrupt(), 130, ""),
    (
      FileNotFoundError(errno.ENOENT, "No such file", "/made/up"),
      2,
      "/made/up: No such file\n",
    ),
    (
      PermissionError(errno.EACCES, "Permission denied", "/made"),
      2,
      "/made: Permission denied\n",
    ),
    (
      NotADirectoryError(errno.ENOTDIR, "Not a directory", "/made/up/a"),
      2,
      "/made/up/a: Not a directory\n",
    ),
  ],
)
def test_errors_that_people_can_mend(error, code, said, capsys, monkeypatch):
  monkeypatch.setattr(exits, "_close_stdout", lambda: None)
  assert outcome(error, "--workdir", "/made/up", "--output=/else/where") == code
  assert said in capsys.readouterr().err


@pytest.mark.parametrize(
  "error",
  [
    ValueError("a fault"),
    KeyError("a fault"),
    RuntimeError("a fault"),
    AttributeError("a fault"),
    AssertionError("a fault"),
    # A file that nobody named.
    FileNotFoundError(errno.ENOENT, "No such file", "/etc/nothing"),
    # No fault of the place.
    OSError(errno.EBADF, "Bad file descriptor", "/made/up"),
  ],
)
def test_a_fault_of_the_program_keeps_its_traceback(error):
  with pytest.raises(type(error)) as caught:
    outcome(error, "--workdir", "/made/up")
  assert caught.value is error


@pytest.mark.parametrize(
  "command",
  [
    "lambda _: print('x' * 100000)",
    # rich raises SystemExit(1) in place of the error. It takes minutes to fold
    # a word that is as long as the one above.
    "lambda _: rich.console.Console().print('x' * 1000)",
    "lambda _: main.main(['tasks', 'list'])",
  ],
)
def test_a_broken_pipe_ends_without_a_word(run_python, command):
  """`run_python` asks for exit code 0."""
  done = run_python(
    [
      "-c",
      (
        "import os, sys\n"
        "import rich.console\n"
        "from progrpo_jax import main\n"
        "from progrpo_jax.cli import exits\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        f"sys.exit(exits.run('x', {command}, []))"
      ),
    ]
  )
  assert done.stderr == ""


def test_an_unknown_command_names_the_nearest(capsys):
  assert main.main(["trian"]) == 2
  assert "did you mean 'train'?" in capsys.readouterr().err
  assert main.main(["memory"]) == 2
  assert "did you mean" not in capsys.readouterr().err


CONFIGS = {
  "returns nothing": ("def get_config():\n  pass", "returned None, not a "),
  "returns a dict": ("def get_config():\n  return {'a': 1}", "returned {'a'"),
  "raises": (
    "def get_config():\n  return {}['x']",
    "config.py, line 2: KeyError: 'x'",
  ),
  "refuses": (
    "def get_config():\n  raise ValueError('not so')",
    "config.py: not so\n",
  ),
  "calls what raises": (
    "def get_config():\n  return int('x')",
    "config.py, line 2: ValueError: invalid literal",
  ),
  "raises in a library": (
    "import json\n\ndef get_config():\n\n  return json.loads('{')",
    "config.py, line 5: JSONDecodeError: ",
  ),
  "raises at import": ("1 / 0\n", "config.py, line 1: ZeroDivisionError"),
  "ends the process": (
    "import sys\ndef get_config():\n  sys.exit(3)",
    "config.py, line 3: SystemExit: 3",
  ),
  "is no Python": ("def get_config(:", "config.py, line 1: invalid syntax"),
  "is binary": (b"\0\1\2\xff", "null bytes"),
  "is in no encoding": (b"x = '\xff'", "utf-8"),
  "has no function": ("get_config = 3", "it defines no get_config()"),
  "needs an argument": (
    "def get_config(method):\n  pass",
    "missing a required argument: 'method': --config",
  ),
  "misspells a method": (
    "from progrpo_jax.settings import defaults, methods\n"
    "def get_config():\n"
    "  return methods.progrop(defaults.get_config())",
    "line 3: AttributeError: module 'progrpo_jax.settings.methods' has no "
    "attribute 'progrop'; did you mean 'progrpo'?",
  ),
  "misspells a key that it reads": (
    "from progrpo_jax.settings import defaults\n"
    "def get_config():\n"
    "  c = defaults.get_config()\n"
    "  c.algo.beta = 2 * c.algo.bta\n"
    "  return c",
    "line 4: AttributeError: ",
  ),
  "misspells a key that it sets": (
    "from progrpo_jax.settings import defaults\n"
    "def get_config():\n"
    "  c = defaults.get_config()\n"
    "  c.algo.bta = 1.0\n"
    "  return c",
    "no key config.algo.bta; did you mean config.algo.beta?",
  ),
  "sets a value of another type": (
    "from progrpo_jax.settings import defaults\n"
    "def get_config():\n"
    "  c = defaults.get_config()\n"
    "  c.train.total_steps = 2.5\n"
    "  return c",
    "line 4: TypeError: ",
  ),
  "is frozen and wrong": (
    "import ml_collections\n"
    "from progrpo_jax.settings import defaults\n"
    "def get_config():\n"
    "  c = defaults.get_config()\n"
    "  c.optim.b2 = 2.0\n"
    "  return ml_collections.FrozenConfigDict(c)",
    "config.optim.b2 = 2.0: must be in [0, 1)",
  ),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_file_that(what, tmp_path, capsys):
  text, said = CONFIGS[what]
  path = tmp_path / "config.py"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  code = main.main(["doctor", "--config", str(path)])
  err = capsys.readouterr().err
  assert (code, err.count("\n")) == (2, 1), err
  assert err.startswith("progrpo doctor: ") and said in err, err


def test_the_method_of_the_readme_may_be_misspelt(tmp_path, capsys):
  """Its pattern is getattr(methods, method)."""
  path = tmp_path / "sums.py"
  path.write_text(
    textwrap.dedent("""
      from progrpo_jax.settings import defaults, methods
      def get_config(method="progrpo"):
        return getattr(methods, method)(defaults.get_config())
      """)
  )
  assert main.main(["doctor", "--config", f"{path}:progrop"]) == 2
  said = capsys.readouterr().err
  assert "sums.py:progrop" in said and "did you mean 'progrpo'?" in said


@pytest.mark.parametrize(
  ("spec", "said"),
  [
    ("", "--config '': no such file"),
    ("configs", "a directory"),
    ("nowhere.py", "nowhere.py: no such file"),
    ("README.md", "not a Python"),
    ("gs://bucket/config.py", "no such file"),
    ("a" * 5000, "no such file"),
    ("x\0y.py", "no such file"),
  ],
)
def test_a_config_that_is_no_file(spec, said, capsys):
  assert main.main(["train", "--workdir", "x", "--config", spec]) == 2
  err = capsys.readouterr().err
  assert said in err and err.count("\n") == 1


@pytest.mark.parametrize(
  "argv",
  [
    ["evaluate", "--config", "configs/tiny.py", "--workdir", "x"],
    ["sample", "--config", "configs/tiny.py"],
    ["export", "--output", "x"],
  ],
  ids=lambda argv: argv[0],
)
def test_a_policy_that_is_none(argv, tmp_path, capsys):
  """Named as it was typed: the flag, not the key that it stands for."""
  for place, said in (("none", "no such directory"), ("", "is neither an HF")):
    assert main.main([*argv, "--policy", str(tmp_path / place)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err, err
    assert f"--policy = '{tmp_path}" in err and "init_from =" not in err


@pytest.mark.parametrize(
  "place", ["", " ", "gs://", "gs:///x", "s3://", "a\0b"]
)
@pytest.mark.parametrize(
  "argv",
  [
    ["train", "--config", "configs/tiny.py", "--workdir"],
    ["evaluate", "--config", "configs/tiny.py", "--workdir"],
    ["evaluate", "--config", "configs/tiny.py", "--policy"],
    ["sample", "--config", "configs/tiny.py", "--policy"],
    ["warmup", "--config", "configs/tiny.py", "--output"],
    ["export", "--output", "x", "--policy"],
    ["export", "--policy", "x", "--output"],
    ["report", "--workdir"],
    ["report", "--workdir", "x", "--output"],
    ["compare"],
    ["compare", "x", "--base"],
    ["compare", "x", "--json"],
    ["tasks", "list", "--data_dir"],
    ["doctor", "--config", "configs/tiny.py", "--config.model.init_from"],
    ["doctor", "--config", "configs/tiny.py", "--config.data.dir"],
  ],
  ids=" ".join,
)
def test_a_place_that_names_nothing(argv, place, capsys):
  """Nothing is asked of any store: the answer comes at once."""
  if argv[-1].endswith("init_from") and not place:
    pytest.skip("the small model of a warm-up")
  assert main.main([*argv, place]) == 2
  err = capsys.readouterr().err
  assert "must be a path or gs://BUCKET/PATH" in err and err.count("\n") == 1


@pytest.mark.parametrize(
  "argv",
  [
    ["sample", "--config", "configs/tiny.py", "--num_samples"],
    ["sample", "--config", "configs/tiny.py", "--temperature"],
    ["doctor", "--config", "configs/tiny.py", "--devices"],
    ["tasks", "show", "countdown", "--n"],
    ["tasks", "build", "countdown", "--seed"],
  ],
  ids=" ".join,
)
@pytest.mark.parametrize(
  "value", ["-1", "nan", "inf", "1e999", "9" * 5000, "", "x", "None "]
)
def test_a_number_of_the_command_line(argv, value, capsys):
  assert main.main([*argv[:-1], f"{argv[-1]}={value}"]) == 2
  err = capsys.readouterr().err
  assert f"argument {argv[-1]}: " in err and " must be " in err
  assert err.count("\n") == 1
