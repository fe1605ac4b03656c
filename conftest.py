"""What every test runs under: CPU, no network; and children with devices."""

import ipaddress
import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("PYTHONHASHSEED", "0")
# Compiling is most of the time of a test; `make clean` empties this. Compiled
# code is run as it is read, so that nobody else may write here.
CACHE = ROOT / ".cache" / "jax"
CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# The package and its configs are found from wherever a test or child starts.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(
  filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)


class NetworkUsed(Exception):
  """A test reached for another machine."""


def _is_number(host: str) -> bool:
  """Whether the address needs no look-up."""
  try:
    ipaddress.ip_address(host.partition("%")[0])
  except ValueError:
    return False
  return True


def _is_local(family: int, address) -> bool:
  """Whether the address is on this machine."""
  if family not in (socket.AF_INET, socket.AF_INET6):
    return True
  host = address[0]
  if host in ("", "localhost", "0.0.0.0", "::", socket.gethostname()):
    return True
  return (
    _is_number(host)
    and ipaddress.ip_address(host.partition("%")[0]).is_loopback
  )


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  """Makes connections to other machines, and look-ups of them, fail."""
  resolve = socket.getaddrinfo

  def guard(method):
    original = getattr(socket.socket, method)

    def call(self, *args):
      if not _is_local(self.family, args[-1]):
        raise NetworkUsed(f"{method} to {args[-1]}")
      return original(self, *args)

    monkeypatch.setattr(socket.socket, method, call)

  def getaddrinfo(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if (
      name is not None
      and not _is_number(name)
      and not _is_local(socket.AF_INET, (name, 0))
    ):
      raise NetworkUsed(f"look-up of {name}")
    return resolve(host, *args, **kwargs)

  for method in ("connect", "connect_ex", "sendto"):
    guard(method)
  monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def run_python(tmp_path):
  """A function that runs Python in a child with several CPU devices.

  `run_python(code_or_args, devices=8, timeout=240, env=None, check=True,
  cwd=None)` takes source text, or a list of arguments to the interpreter, and
  returns the finished process with its text output. The test fails, showing
  the output, when the child fails (unless `check` is False) or is too slow.
  """

  def run(
    code_or_args, *, devices=8, timeout=240, env=None, check=True, cwd=None
  ):
    args = (
      ["-c", code_or_args]
      if isinstance(code_or_args, str)
      else [str(a) for a in code_or_args]
    )
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = (
      os.environ
      | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
      }
      | (env or {})
    )
    try:
      done = subprocess.run(
        [sys.executable, *args],
        env=environment,
        cwd=cwd or tmp_path,
        timeout=timeout,
        capture_output=True,
        text=True,
        errors="replace",
      )
    except subprocess.TimeoutExpired as e:
      shown = [
        s if isinstance(s, str) else (s or b"").decode(errors="replace")
        for s in (e.stdout, e.stderr)
      ]
      pytest.fail(
        f"no end after {timeout} s\nstdout:\n{shown[0]}\nstderr:\n{shown[1]}",
        pytrace=False,
      )
    if check and done.returncode:
      pytest.fail(
        f"exit {done.returncode}\nstdout:\n{done.stdout}\n"
        f"stderr:\n{done.stderr}",
        pytrace=False,
      )
    return done

  return run
