"""Places that are not on this machine, as far as it needs no bucket."""

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


def test_local_places_need_not_exist(tmp_path):
  path = places.place(tmp_path / "a" / "b")
  places.check_bucket(path)
  assert not path.parent.exists()
  assert places.make_directory(path) == path and path.is_dir()
  assert places.make_directory(str(path)) == path


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
