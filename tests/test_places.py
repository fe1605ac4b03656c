"""Places that are not on this machine, as far as it needs no bucket."""

import errno
import json
import os
import threading

from etils import epath
from etils.epath import backend
from google.api_core import exceptions
import pytest

from progrpo_jax import errors, places


@pytest.mark.parametrize(
  ("path", "remote"),
  [
    ("gs://bucket/f", True),
    ("s3://bucket", True),
    ("gs/f", False),
    ("gs:/f", False),
    ("/f", False),
  ],
)
def test_is_remote(path, remote):
  assert places.is_remote(path) == remote


@pytest.mark.parametrize("path", ["s3://bucket/run", "hf://a/b", "file:///a"])
def test_no_other_kind_of_place_is_tried(path):
  with pytest.raises(errors.InputError, match="is no kind of place; use gs://"):
    places.place(path)


def test_a_tilde_is_home_and_a_place_stays(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert places.argument("workdir", "~/run") == f"{tmp_path}/run"
  assert places.argument("workdir", epath.Path("~/run")) == f"{tmp_path}/run"
  assert places.argument("workdir", "gs://b/~") == "gs://b/~"
  assert places.argument("workdir", "runs/~a") == "runs/~a"
  monkeypatch.chdir(tmp_path)
  assert places.fixed("run") == tmp_path / "run"


def test_local_places_need_not_exist(tmp_path):
  path = places.place(tmp_path / "a" / "b")
  places.check_bucket(path)
  assert not path.parent.exists()
  assert places.make_directory(path) == path and path.is_dir()
  assert places.make_directory(str(path)) == path


def test_a_file_is_replaced_and_not_written_over(tmp_path):
  """Another name of the old file has its content, as an open reader has."""
  file = tmp_path / "new" / "a.txt"
  places.write(file, "naïve")
  os.link(file, tmp_path / "old")
  places.write(str(file), b"two")
  assert file.read_bytes() == b"two"
  assert (tmp_path / "old").read_text(encoding="utf-8") == "naïve"
  assert os.listdir(file.parent) == ["a.txt"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, fails):
  file = tmp_path / "a.json"
  places.write_json(file, {"a": 1})

  def fail(*_):
    raise OSError(errno.ENOSPC, "no room", str(tmp_path / "a.part"))

  with monkeypatch.context() as patch:
    patch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="no room") as e:
      places.write_json(file, {"a": 2})
  assert (e.value.errno, e.value.filename) == (errno.ENOSPC, str(file))
  assert places.read_json(file) == {"a": 1}
  assert os.listdir(tmp_path) == ["a.json"]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
  tmp_path, monkeypatch
):
  done, fsync, replace = [], os.fsync, os.replace
  monkeypatch.setattr(os, "fsync", lambda f: (done.append("sync"), fsync(f)))
  monkeypatch.setattr(
    os, "replace", lambda *names: (done.append("name"), replace(*names))
  )
  places.write(tmp_path / "a", "x")
  assert done == ["sync", "name"]


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
  link, pipe = tmp_path / "link", tmp_path / "pipe"
  link.symlink_to(tmp_path / "file")
  places.write(link, "x")
  assert link.is_symlink() and (tmp_path / "file").read_text() == "x"
  os.mkfifo(pipe)
  read = []
  thread = threading.Thread(
    target=lambda: read.append(pipe.read_text()), daemon=True
  )
  thread.start()
  places.write(pipe, "y")
  thread.join(60)
  assert read == ["y"] and pipe.is_fifo()
  with pytest.raises(IsADirectoryError):
    places.write(tmp_path, "z")


def test_an_object_of_a_bucket_is_replaced_whole(bucket):
  for content in ("one", "two"):
    places.write("gs://bucket/a/b.txt", content)
  assert (bucket / "a" / "b.txt").read_text() == "two"
  assert os.listdir(bucket / "a") == ["b.txt"]


def test_json_is_indented_and_read_back(tmp_path):
  file = tmp_path / "a.json"
  places.write_json(file, {"b": "é", "a": [1]}, sort_keys=True)
  assert file.read_text() == json.dumps({"a": [1], "b": "é"}, indent=2) + "\n"
  assert places.read_json(str(file)) == {"a": [1], "b": "é"}


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"{", "not JSON: "),
    (b"\xff", "not JSON: "),
    (b"[" * 100_000, "not JSON: "),
    (b'{"a": %s}' % (b"1" * 5000), "not JSON: "),
    (b"[]", "not a JSON object"),
    (None, "cannot be read: .*No such file"),
  ],
)
def test_json_that_cannot_be_read_is_named(tmp_path, content, reason):
  file = tmp_path / "a.json"
  if content is not None:
    file.write_bytes(content)
  with pytest.raises(errors.InputError, match=f"^{file}: {reason}"):
    places.read_json(file)


def test_places_of_an_unknown_kind_are_the_users_error():
  with pytest.raises(errors.InputError, match="foo://x: 'foo://' is no kind"):
    places.place("foo://x")


def test_without_gcsfs_it_says_what_to_install(monkeypatch):
  def missing(name):
    raise ImportError("Please install\n gcsfs")

  monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", missing)
  for call in places.place, places.check_bucket, places.make_directory:
    with pytest.raises(errors.InputError) as e:
      call("gs://bucket/m")
    assert str(e.value) == (
      "gs://bucket/m: cannot be reached: Please install gcsfs; run "
      "`pip install 'progrpo_jax[gcs]'`"
    )


@pytest.mark.parametrize(
  ("error", "kind", "words"),
  [
    (
      OSError("Forbidden: b/x\nno access"),
      errors.InputError,
      "Forbidden: b/x no access; .*roles/storage.legacyBucketReader",
    ),
    (
      exceptions.Forbidden("GET x"),
      errors.InputError,
      "403 GET x; .*roles/storage.objectAdmin",
    ),
    (
      RuntimeError("Anonymous caller, 401"),
      errors.InputError,
      "401; log in with `gcloud auth",
    ),
    (exceptions.NotFound("GET x"), errors.InputError, "is it spelled right"),
    (exceptions.ServiceUnavailable("later"), errors.RunError, "503 later$"),
    (ConnectionError(), errors.RunError, "reached: ConnectionError$"),
  ],
)
def test_what_goes_wrong_becomes_one_line(error, kind, words):
  with pytest.raises(kind, match=words) as e, places.reaching("gs://b/403"):
    raise error
  assert str(e.value).startswith("gs://b/403: cannot be reached: ")
  assert "\n" not in str(e.value)


def test_errors_of_local_places_and_of_ours_are_left_alone():
  with pytest.raises(OSError, match="^disk$"), places.reaching("/b"):
    raise OSError("disk")
  for kind in errors.InputError, errors.RunError:
    with pytest.raises(kind, match="^mine$"), places.reaching("gs://b"):
      raise kind("mine")


@pytest.mark.parametrize(
  ("place", "error", "raised"),
  [
    ("gs://b/f", FileNotFoundError("b/f"), FileNotFoundError),
    ("gs://b/f", OSError("Forbidden: https://storage"), errors.RunError),
    ("gs://b/f", TimeoutError(), errors.RunError),
    ("gs://b/f", ConnectionResetError(), errors.RunError),
    # gcsfs has errors of its own that are no OSError.
    ("gs://b/f", Exception("Service Unavailable, 503"), errors.RunError),
    ("/f", FileNotFoundError(errno.ENOENT, "none"), FileNotFoundError),
    ("/f", NotADirectoryError(errno.ENOTDIR, "no"), NotADirectoryError),
    ("/f", PermissionError(errno.EACCES, "no"), PermissionError),
    ("/f", OSError(errno.EIO, "Input/output error"), errors.RunError),
    ("/f", TimeoutError(errno.ETIMEDOUT, "timed out"), errors.RunError),
    ("/f", ValueError("not of reading"), ValueError),
  ],
)
def test_what_is_lost_is_told_from_what_is_out_of_reach(place, error, raised):
  with pytest.raises(raised) as caught:
    with places.reading(place):
      raise error
  if raised is errors.RunError:
    assert str(caught.value).startswith(f"{place}: cannot be reached: ")
    assert caught.value.__cause__ is error
  else:
    assert caught.value is error


@pytest.mark.parametrize(
  ("number", "raised"),
  [
    (errno.EACCES, errors.InputError),
    (errno.EROFS, errors.InputError),
    (errno.ESTALE, errors.RunError),
  ],
)
def test_a_disk_out_of_reach_is_no_bad_input(
  tmp_path, monkeypatch, number, raised
):
  def fail(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(places, "check_directory", fail)
  with pytest.raises(raised, match="cannot write to --output"):
    places.check_output("--output", tmp_path)


def test_json_out_of_reach_is_no_bad_json(tmp_path, monkeypatch):
  def fail(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(type(epath.Path(tmp_path)), "read_bytes", fail)
  with pytest.raises(errors.RunError, match="cannot be reached"):
    places.read_json(tmp_path / "a.json")


def test_a_disk_keeps_no_checksums(tmp_path):
  (tmp_path / "a").write_text("a")
  assert places.stored_checksum(tmp_path / "a") is None
