"""Models of the hub, which is a server on this machine (fake_hub.py)."""

import importlib.util
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from progrpo_jax import errors, main
from progrpo_jax.devices import hosts
from progrpo_jax.models import hf
from progrpo_jax.storage import hub, hub_names
from progrpo_jax.storage import policy as policy_lib

_SPEC = importlib.util.spec_from_file_location(
  "fake_hub", pathlib.Path(__file__).parent.with_name("fake_hub.py")
)
fake_hub = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake_hub)

ID = "Some.One/tiny-1"


@pytest.fixture
def server():
  with fake_hub.Server() as running:
    yield running


@pytest.fixture
def fake(server, small, tmp_path, monkeypatch):
  """The server, with the small policy and files that nothing reads."""
  server.add(ID, small.base)
  server.repos[ID] |= {
    "consolidated.safetensors": b"the same again",
    "original/tokenizer.model": b"of another program",
    "pytorch_model.bin": b"the same again",
    "README.md": b"# tiny",
  }
  fake_hub.use(monkeypatch, server, tmp_path)
  monkeypatch.chdir(tmp_path)
  return server


@pytest.mark.parametrize(
  ("name", "parts"),
  [
    ("Qwen/Qwen2.5-0.5B", ("Qwen/Qwen2.5-0.5B", None)),
    ("a/b@main", ("a/b", "main")),
    ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
    ("a", None),
    ("a/b/c", None),
    ("/a/b", None),
    ("a/b@", None),
    ("gs://a/b", None),
    ("../b", None),
  ],
)
def test_an_id_is_owner_and_name(name, parts):
  assert hub_names.split(name) == parts
  said = hub_names.hint(name, "config.model.init_from")
  assert (said == "") == (parts is None)


def test_what_is_read_is_fetched_once(fake, small, capfd):
  folder = pathlib.Path(hub.fetch(ID))
  assert folder.name == fake.commit(ID)
  assert {p.name for p in folder.iterdir()} == {
    p.name for p in small.base.iterdir()
  }
  for path in small.base.iterdir():
    assert (folder / path.name).read_bytes() == path.read_bytes()
  said = capfd.readouterr().err
  assert f"fetching {ID} from the Hugging Face hub:" in said
  counts = dict(fake.counts)
  assert counts["file model.safetensors"] == 1
  # In a later process, and offline, it is found.
  hub.fetch.cache_clear()
  assert hub.fetch(ID) == str(folder) == hub.cached(ID)
  assert fake.counts == counts | {"info": 2}
  assert "fetching" not in capfd.readouterr().err
  assert hub.pinned(ID) == f"{ID}@{folder.name}"
  assert hub.fetch(hub.pinned(ID)) == str(folder)
  assert fake.counts["info"] == 2


def test_the_weights_are_those_that_the_index_lists(fake):
  files = fake.repos[ID]
  whole = files.pop("model.safetensors")
  files |= {"a.safetensors": whole, "b.safetensors": whole}
  index = {"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}
  files["model.safetensors.index.json"] = json.dumps(index).encode()
  folder = pathlib.Path(hub.fetch(ID))
  assert [p.name for p in folder.glob("*.safetensors")] == ["a.safetensors"]
  for damaged in ("{", "[]", '{"weight_map": [1]}'):
    files["model.safetensors.index.json"] = damaged.encode()
    hub.fetch.cache_clear()
    folder = pathlib.Path(hub.fetch(ID))
    assert folder.name == fake.commit(ID)
    assert not list(folder.glob("*.safetensors"))


def test_others_fetch_the_commit_of_the_first_host(fake, monkeypatch):
  """The hosts' exchange is replaced: another host has fetched before."""
  first = hub.fetch(ID)
  hub.fetch.cache_clear()
  fake.repos[ID]["config.json"] += b"\n"  # a younger commit
  assert fake.commit(ID) != pathlib.Path(first).name
  monkeypatch.setattr(hosts, "count", lambda: 2)
  monkeypatch.setattr(hosts, "on_first", lambda work: None)
  monkeypatch.setattr(hosts, "from_first", lambda value: first)
  monkeypatch.setattr(hosts, "agree", lambda work: work())
  files = dict(fake.counts)
  assert hub.fetch(ID) == first
  assert fake.counts == files


def _refusal(name=ID, kind=errors.InputError):
  with pytest.raises(kind) as caught:
    hub.fetch(name)
  said = str(caught.value)
  assert "\n" not in said
  assert f"config.model.init_from = {hub_names.split(name)[0]!r}: " in said
  return said


def test_no_such_model(fake):
  said = _refusal("some.one/tyni-1")
  assert "no such directory" in said and "has no model of this name" in said
  assert "hf auth login" in said
  assert "no such revision" in _refusal(f"{ID}@v9")


def test_a_gated_model(fake, tmp_path, monkeypatch):
  fake.gated.add(ID)
  said = _refusal()
  assert "accepted its conditions" in said and "hf auth login" in said
  fake_hub.use(monkeypatch, fake, tmp_path, token=fake_hub.TOKEN)
  assert hub.fetch(ID)


def test_no_network(fake, tmp_path, monkeypatch):
  fake_hub.use(monkeypatch, None, tmp_path)
  said = _refusal(kind=errors.RunError)
  assert "cannot be reached" in said and "hf download" in said
  assert hub.cached(ID) is None
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  assert "HF_HUB_OFFLINE forbids" in _refusal()
  # What is here needs no network.
  monkeypatch.undo()
  fake_hub.use(monkeypatch, fake, tmp_path)
  folder = hub.fetch(ID)
  fake_hub.use(monkeypatch, None, tmp_path)
  assert hub.fetch(ID) == folder


@pytest.mark.parametrize("status", [408, 429, 500, 503])
@pytest.mark.parametrize("asked", ["revision", "resolve"])
def test_an_outage_is_not_the_users(fake, monkeypatch, status, asked):
  """A run that is started again must not end for good with it."""
  monkeypatch.setattr("time.sleep", lambda _: None)  # between its own tries
  fake.failing[asked] = status
  said = _refusal(kind=errors.RunError)
  assert "the same command tries again" in said
  fake.failing.clear()
  assert hub.fetch(ID)


def test_a_request_that_is_wrong_is_the_users(fake):
  fake.failing["revision"] = 400
  assert "answered" in _refusal()


def test_a_cache_that_cannot_be_written(fake, tmp_path, monkeypatch):
  (tmp_path / "cache").write_text("a file")
  said = _refusal()
  assert "cannot be written" in said and "HF_HOME" in said


def test_commands_fetch_where_they_may(fake, small, tmp_path, capfd):
  """Reading, and what says no more than that a run would fetch."""
  argv = ["export", "--policy", ID, "--output", str(tmp_path / "out")]
  assert main.main(argv) == 2
  said = capfd.readouterr().err
  assert "--config.model.download=True" in said
  assert f"hf download {ID} --local-dir models/tiny-1" in said
  download = "--config.model.download=True"
  doctor = ["doctor", *small.args(), f"--config.model.init_from={ID}", download]
  assert main.main(doctor) == 2
  assert f"hf download {ID} config.json" in capfd.readouterr().err
  assert not fake.counts
  assert main.main([*argv, download]) == 0
  _, wanted = hf.load(small.base)
  _, found = hf.load(tmp_path / "out")
  assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))
  assert main.main(doctor) == 0
  # A directory of this name comes first.
  shutil.copytree(small.base, tmp_path / ID)
  fake.repos.clear()
  hub.fetch.cache_clear()
  assert main.main([*argv, download]) == 0


def test_a_run_with_adapters_names_the_commit_of_its_base(
  fake, small, tmp_path, capfd
):
  workdir = tmp_path / "run"
  keys = (
    f"model.init_from={ID}",
    "model.download=True",
    "model.lora.rank=2",
    "eval.every=0",
  )

  def train(*more):
    hub.fetch.cache_clear()
    argv = small.args(*keys, *more, method="grpo")
    return main.main(["train", *argv, "--workdir", str(workdir)])

  assert train("train.total_steps=1") == 0
  commit = fake.commit(ID)
  described = json.loads((workdir / "model" / "config.json").read_text())
  assert described["progrpo_base"] == f"{ID}@{commit}"
  # The weights are found from the run's own config, and PEFT finds them too.
  argv = ["export", "--policy", str(workdir), "--output"]
  assert main.main([*argv, str(tmp_path / "merged")]) == 0
  assert main.main([*argv, str(tmp_path / "peft"), "--adapters"]) == 0
  adapters = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
  assert adapters["base_model_name_or_path"] == ID
  assert adapters["revision"] == commit
  # The model of this name changes: the run goes on with its own.
  old = dict(fake.repos[ID])
  fake.repos[ID]["config.json"] += b"\n"
  capfd.readouterr()
  assert train("train.total_steps=2") == 2
  pinned = f"--config.model.init_from={ID}@{commit}"
  assert pinned in capfd.readouterr().err
  assert train("train.total_steps=2", f"model.init_from={ID}@{commit}") == 0
  assert fake.repos[ID] != old


def test_locate(fake, tmp_path):
  assert policy_lib.locate("gs://b/x", True) == "gs://b/x"
  with pytest.raises(errors.InputError, match="by its id, 'Some.One/tiny-1'"):
    policy_lib.locate(f"https://huggingface.co/{ID}", True)
  assert policy_lib.locate(ID, False) == str(tmp_path / ID)
  assert policy_lib.locate(ID, True) == hub.fetch(ID)


@pytest.fixture
def workdir(small, tmp_path):
  small.train(tmp_path / "run", "train.total_steps=1", method="progrpo")
  return tmp_path / "run"


def _push(workdir, name, *more):
  out = str(workdir.parent / "out")
  argv = ["export", "--policy", str(workdir), "--output", out, "--push", name]
  return main.main([*argv, *more])


def test_a_run_is_pushed_with_its_card(
  fake, workdir, tmp_path, monkeypatch, capfd
):
  fake_hub.use(monkeypatch, fake, tmp_path, token=fake_hub.TOKEN)
  assert _push(workdir, "mine") == 0
  name = f"{fake_hub.USER}/mine"
  assert f"uploaded to {fake.url}/{name}" in capfd.readouterr().out
  assert fake.private == {name: True}
  assert fake.messages[-1].startswith("ProGRPO, step 1, exported by progrpo")
  local = tmp_path / "out"
  assert fake.repos[name].keys() == {
    path.relative_to(local).as_posix()
    for path in local.rglob("*")
    if path.is_file()
  }
  # What was uploaded is what can be fetched.
  _, wanted = hf.load(local)
  _, found = hf.load(hub.fetch(name))
  assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))
  # Weights of an earlier upload would be taken for those of this one.
  fake.repos[name]["model.safetensors.index.json"] = b"{}"
  fake.repos[name]["notes.txt"] = b"the owner's"
  assert _push(workdir, name, "--dtype", "bfloat16", "--public") == 0
  assert "model.safetensors.index.json" not in fake.repos[name]
  assert "notes.txt" in fake.repos[name]
  hub.fetch.cache_clear()
  _, found = hf.load(hub.fetch(name))
  assert jax.tree.leaves(found)[0].dtype == "bfloat16"
  assert fake.private == {name: True}  # it was there
  assert _push(workdir, "other", "--public") == 0
  assert fake.private[f"{fake_hub.USER}/other"] is False


def test_a_push_that_cannot_succeed_is_refused(
  fake, workdir, tmp_path, monkeypatch, capfd
):
  def said(*more):
    assert _push(workdir, *more) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    return err

  assert "nobody is logged in" in said("mine")
  fake_hub.use(monkeypatch, fake, tmp_path, token="hf_old")
  assert "--push mine: " in (err := said("mine")) and "hf auth login" in err
  fake_hub.use(monkeypatch, fake, tmp_path, token=fake_hub.TOKEN)
  assert "a/b/c" in said("a/b/c")
  assert not (tmp_path / "out").exists()
  export = ["export", "--policy", str(workdir), "--output"]
  assert main.main([*export, "y", "--public"]) == 2
  assert "--public needs --push" in capfd.readouterr().err
  assert main.main([*export, "gs://b/y", "--push", "mine"]) == 2
  assert "must be a local directory" in capfd.readouterr().err
  # Rights in a namespace show at the upload; the directory is there by then.
  err = said("another/mine")
  assert "no rights in the namespace another" in err
  assert (tmp_path / "out" / "README.md").exists()
  fake_hub.use(monkeypatch, None, tmp_path, token=fake_hub.TOKEN)
  assert _push(workdir, "mine") == 1
  assert "cannot be reached" in capfd.readouterr().err
