"""The guards and helpers that the other tests rest on."""

import socket
import urllib.request

import pytest


def test_other_machines_are_out_of_reach(no_network):
  with pytest.raises(Exception, match="look-up of example.com"):
    socket.create_connection(("example.com", 80))
  with pytest.raises(Exception, match="connect to"):
    socket.create_connection(("192.0.2.1", 80))
  with pytest.raises(Exception, match="look-up|connect"):
    urllib.request.urlopen("http://example.com")
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    with pytest.raises(Exception, match="sendto to"):
      s.sendto(b"x", ("192.0.2.1", 9))


def test_this_machine_is_within_reach():
  with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(("localhost", server.getsockname()[1])):
      pass


def test_child_has_the_devices_asked_for(run_python):
  code = "import jax; print(jax.device_count(), jax.default_backend())"
  assert run_python(code, devices=5).stdout == "5 cpu\n"


def test_child_imports_the_package_from_anywhere(run_python, tmp_path):
  script = tmp_path / "script.py"
  script.write_text("import sys, progrpo_jax; print(sys.argv[1])")
  assert run_python([script, "hello"]).stdout == "hello\n"


def test_failing_child_fails_the_test_with_its_output(run_python):
  code = "import sys; print('to be seen'); sys.exit('too bad')"
  with pytest.raises(pytest.fail.Exception, match="(?s)to be seen.*too bad"):
    run_python(code)
  assert run_python(code, check=False).returncode == 1


def test_slow_child_fails_the_test_with_its_output(run_python):
  code = "import time; print('begun', flush=True); time.sleep(60)"
  with pytest.raises(pytest.fail.Exception, match="(?s)no end.*begun"):
    run_python(code, timeout=2)
