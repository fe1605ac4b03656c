"""Processes that meet: on one process, on two, and who is expected."""

import http.server
import json
import pathlib
import pickle
import threading

import jax
import numpy as np
import pytest

from progrpo_jax import errors, loop
from progrpo_jax.devices import hosts

MEETING = pathlib.Path(__file__).with_name("meeting.py")
FAILING = pathlib.Path(__file__).with_name("failing.py")


def test_two_processes_meet(start_hosts):
  for host, run in enumerate(start_hosts(2, [MEETING])):
    code, said = run.end(timeout=200)
    assert code == 0 and f"met as {host}" in said, said


def test_what_fails_on_one_fails_on_both(small, start_hosts, tmp_path):
  """With weights that the devices of both hold together."""
  run = tmp_path / "run"
  code, _ = small.train(
    run, "train.total_steps=1", "eval.every=0", method="grpo"
  )
  assert code == loop.DONE
  for host, process in enumerate(
    start_hosts(
      2,
      [
        FAILING,
        tmp_path,
        small.base,
        run,
        *small.args(
          "mesh.data=1", "mesh.fsdp=-1", "eval.every=0", method="grpo"
        ),
      ],
      devices=1,
    )
  ):
    code, said = process.end(timeout=280)
    assert code == 0 and f"failed as {host}" in said, said


def test_two_processes_train_as_one(small, start_hosts, tmp_path):
  """What is at stake, of what tests/slow/test_many_hosts.py shows at length."""
  argv = [
    "-m",
    "progrpo_jax.main",
    "train",
    *small.args(
      "train.total_steps=2",
      "train.num_iterations=1",
      "eval.every=0",
      "hosts.compare_every=1",
      method="grpo",
    ),
    "--workdir",
  ]
  for name, count in (("one", 1), ("two", 2)):
    for host in start_hosts(
      count, [*argv, tmp_path / name], devices=2 // count
    ):
      code, said = host.end(timeout=280)
      assert code == loop.DONE, said
  for step in (1, 2):
    one, two = (
      [
        json.loads(line)
        for line in (tmp_path / name / f"rollouts/{step:06d}.jsonl").open()
      ]
      for name in ("one", "two")
    )
    for row, other in zip(one, two, strict=True):
      assert row["id"] == other["id"]
      assert [c["text"] for c in row["completions"]] == [
        c["text"] for c in other["completions"]
      ]
  one, two = (
    [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
    for name in ("one", "two")
  )
  for row, other in zip(one, two, strict=True):
    for name in ("loss", "reward", "entropy", "grad_norm", "kl"):
      np.testing.assert_allclose(
        row[name], other[name], rtol=1e-5, atol=1e-5, err_msg=name
      )
  # The first process alone has written, and both have saved.
  names = {path.name for path in (tmp_path / "two").iterdir()}
  assert {"checkpoints", "config.json", "metrics.jsonl"} <= names
  assert (tmp_path / "two/checkpoints/2/params/ocdbt.process_1").exists()


def test_alone_nothing_is_sent():
  assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
  value = object()
  assert hosts.gather(value) == [value]
  assert hosts.from_first(value) is value
  assert hosts.agree(lambda: value) is value
  assert hosts.on_first(lambda: value) is value
  assert hosts.any_of(True) and not hosts.any_of(False)
  assert hosts.share_out(lambda part: range(7)[part], 7) == [range(7)]
  hosts.compare("here", a=1)


class OfAUser(errors.InputError):
  """A class that only one host has imported."""


@pytest.mark.parametrize(
  ("error", "raised", "text"),
  [
    (OfAUser("of mine"), errors.InputError, "host 1: of mine"),
    (errors.InputError("no key"), errors.InputError, "host 1: no key"),
    (errors.Preempted("asked"), errors.Preempted, "host 1: asked"),
    (OSError(5, "gone", "/f"), errors.RunError, "host 1: [Errno 5] gone: '/f'"),
    (KeyError("meta"), errors.RunError, "host 1: KeyError: 'meta'"),
    (ZeroDivisionError(), errors.RunError, "host 1: ZeroDivisionError: "),
  ],
)
def test_whatever_fails_on_one_host_is_told_to_all(
  monkeypatch, error, raised, text
):
  """Both sides of it, with what the other host sends put in its place."""
  told = []

  def fail():
    raise error

  def gather(value):
    told.append(value)
    return [None, told[0]]

  monkeypatch.setattr(hosts, "count", lambda: 2)
  monkeypatch.setattr(hosts, "gather", gather)
  with pytest.raises(type(error)) as caught:
    hosts.agree(fail)
  assert caught.value is error and hosts.is_on_all(error)
  pickle.dumps(told)
  with pytest.raises(raised) as caught:
    hosts.agree(lambda: None)
  assert type(caught.value) is raised and hosts.is_on_all(caught.value)
  assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
  ("count", "text", "raised"),
  [
    (2, "INTERNAL: [gloo] Connection closed by peer", errors.RunError),
    (2, "UNAVAILABLE: task 1 is gone", errors.RunError),
    (2, "RESOURCE_EXHAUSTED: out of memory", jax.errors.JaxRuntimeError),
    (2, "INVALID_ARGUMENT: shapes", jax.errors.JaxRuntimeError),
    (1, "UNAVAILABLE: the device", jax.errors.JaxRuntimeError),
  ],
)
def test_a_lost_host_is_told_from_other_errors(
  monkeypatch, count, text, raised
):
  monkeypatch.setattr(hosts, "count", lambda: count)
  with pytest.raises(raised, match=text.partition(":")[0]) as caught:
    with hosts.lost_ones_named():
      raise jax.errors.JaxRuntimeError(text)
  assert (raised is errors.RunError) == ("start all" in str(caught.value))


@pytest.fixture
def bare(monkeypatch):
  """An environment that names no hosts."""
  for name in (
    "JAX_NUM_PROCESSES",
    "JAX_COORDINATOR_ADDRESS",
    "JAX_PROCESS_ID",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
    "TPU_WORKER_HOSTNAMES",
    "MEGASCALE_NUM_SLICES",
    "JAX_PLATFORMS",
  ):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(hosts, "_is_tpu_host", lambda: False)
  return monkeypatch


@pytest.mark.parametrize(
  ("variables", "wanted"),
  [
    ({}, 1),
    ({"JAX_NUM_PROCESSES": "4", "JAX_COORDINATOR_ADDRESS": "a:1"}, 4),
    ({"SLURM_STEP_NUM_TASKS": "2"}, 2),
    ({"OMPI_COMM_WORLD_SIZE": "3"}, 3),
    # Named, but of no use to a machine without chips.
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, 1),
  ],
)
def test_who_is_expected(bare, variables, wanted):
  for name, value in variables.items():
    bare.setenv(name, value)
  assert hosts.expected() == wanted


def test_who_is_expected_on_a_tpu(bare):
  class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers["Metadata-Flavor"] == "Google"
      assert self.path.endswith("/attributes/worker-network-endpoints")
      self.send_response(200)
      self.end_headers()
      self.wfile.write(b"x:y:10.0.0.1,x:y:10.0.0.2,x:y:10.0.0.3")

    def log_message(self, *_):
      pass

  bare.setattr(hosts, "_is_tpu_host", lambda: True)
  with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
    threading.Thread(target=server.serve_forever).start()
    bare.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    assert hosts.expected() == 3
    server.shutdown()
  assert hosts.expected() == 1  # nobody answers: a TPU of one host
  bare.setenv("TPU_WORKER_HOSTNAMES", "a,b")
  assert hosts.expected() == 2
  bare.setenv("MEGASCALE_NUM_SLICES", "4")
  assert hosts.expected() == 8


@pytest.mark.parametrize(
  ("variables", "named"),
  [
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES"),
    ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two'"),
    ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS"),
    (
      {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a:1"},
      "JAX_PROCESS_ID",
    ),
    (
      {
        "JAX_NUM_PROCESSES": "2",
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_PROCESS_ID": "5",
      },
      "JAX_PROCESS_ID=5 is not below",
    ),
  ],
)
def test_what_contradicts_itself_is_named(bare, variables, named):
  for name, value in variables.items():
    bare.setenv(name, value)
  with pytest.raises(errors.InputError, match=named):
    hosts.connect()
