"""Models of the Hugging Face hub: fetching one, and publishing a directory.

Files are fetched into the cache of huggingface_hub, which other programs share
(HF_HOME says where it is). Modules of every run import this one only where they
need it: in a notebook, that library warns at its import of progress bars that
nothing here draws. What a name says is in `hub_names`.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import io
import json
import os
import sys
import time
from typing import Any

from etils import epath
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from huggingface_hub import utils as hub_utils

from progrpo_jax import errors
from progrpo_jax.devices import hosts
from progrpo_jax.models import hf_names
from progrpo_jax.storage import hub_names

# Files beside the weights that a policy and its tokenizer are read from.
_SMALL = ("*.json", "*.jinja", "*.model", "*.txt")
# Folders hold other forms of the same weights, which nothing here reads.
_FOLDERS = ("*/*",)
# Weights of an earlier upload, which could be taken for those of this one.
_STALE = ("*.safetensors", "*.safetensors.index.json")
# Answers that do not say that the request was wrong: it took too long, came too
# early, or was one of too many.
_PASSING = (408, 425, 429)
# Seconds between lines on a download.
_EVERY_S = 10.0


@functools.cache
def fetch(name: str) -> str:
  """Fetches what is read of a model, if it is not on this machine already.

  Every process must call this. The first one fetches before the others: where
  they share a disk, these find all files there, and where they do not, each
  fetches the same commit.

  Args:
    name: id of the model, with or without a revision.

  Returns:
    Directory of the model, whose name is the commit.

  Raises:
    InputError: the hub has no such model, does not show it to this user, or its
      files cannot be written here.
    RunError: the hub cannot be reached, or fails.
  """
  repo, revision = hub_names.split(name)
  folder = hosts.from_first(hosts.on_first(lambda: _fetch(repo, revision)))
  if hosts.count() == 1:
    return folder
  return hosts.agree(lambda: _fetch(repo, os.path.basename(folder)))


def pinned(name: str) -> str:
  """Returns the name of a model that was fetched, with its commit."""
  return f"{hub_names.split(name)[0]}@{os.path.basename(fetch(name))}"


def cached(name: str) -> str | None:
  """Returns the directory of a model if it is on this machine, or None."""
  repo, revision = hub_names.split(name)
  try:
    return huggingface_hub.snapshot_download(
      repo,
      revision=revision,
      local_files_only=True,
      allow_patterns=[hf_names.CONFIG],
    )
  except (OSError, ValueError):
    return None


def check_push(name: str) -> None:
  """Checks what can be known of an upload before long work.

  Args:
    name: name of the repository, as for `push`.

  Raises:
    InputError: it is no name of one, or nobody is logged in.
    RunError: the hub cannot be reached, or fails.
  """
  with _reaching(f"--push {name}"):
    hub_utils.validate_repo_id(name)
    huggingface_hub.HfApi().whoami()


def push(folder: str, name: str, *, private: bool, message: str) -> str:
  """Uploads a directory as a model; makes the repository if there is none.

  Weights of an earlier upload are removed by the same commit.

  Args:
    folder: local directory.
    name: OWNER/NAME, or NAME for the user's own.
    private: whether a new repository is private; one that exists stays as it
      is.
    message: message of the commit.

  Returns:
    Address of the model.

  Raises:
    InputError: the hub refuses.
    RunError: the hub cannot be reached, or fails.
  """
  api = huggingface_hub.HfApi()
  with _reaching(f"--push {name}"):
    repo = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(
      repo_id=repo.repo_id,
      folder_path=folder,
      commit_message=message,
      delete_patterns=list(_STALE),
    )
  return str(repo)


class _Lines(hub_utils.tqdm):
  """Progress of a download as lines, which a log or a live view can take."""

  def __init__(self, *args: Any, **options: Any):
    """Makes a bar; only the one that counts received bytes says something."""
    if options.get("desc") != "Downloading bytes":
      options["disable"] = True
    self._said = time.monotonic()
    # What tqdm itself would draw goes nowhere.
    super().__init__(*args, **options | {"file": io.StringIO()})

  def display(self, msg: str | None = None, pos: int | None = None) -> None:
    """Replaces tqdm's method, which draws over the last line."""
    now = time.monotonic()
    if now - self._said >= _EVERY_S:
      self._said = now
      print(f"  {_size(self.n)} received", file=sys.stderr, flush=True)


def _fetch(repo: str, revision: str | None) -> str:
  """Fetches a model as `fetch` does, on this host alone."""
  named = f"config.model.init_from = {repo!r}"
  with _reaching(named):
    download = functools.partial(
      huggingface_hub.snapshot_download, repo, tqdm_class=_Lines
    )
    folder = download(
      revision=revision,
      allow_patterns=list(_SMALL),
      ignore_patterns=list(_FOLDERS),
    )
    # The weights that the index names: a repository may hold others too.
    weights = functools.partial(
      download,
      revision=os.path.basename(folder),
      allow_patterns=_weights(epath.Path(folder)),
      ignore_patterns=list(_FOLDERS),
    )
    missing = _missing(weights)
    if missing:
      print(
        f"fetching {repo} from the Hugging Face hub: {_size(missing)} to "
        f"{os.path.dirname(os.path.dirname(folder))}",
        file=sys.stderr,
        flush=True,
      )
    return weights()


def _missing(weights: Callable[..., Any]) -> int:
  """Returns the bytes that a download would fetch; 0 where it cannot say."""
  try:
    return sum(f.file_size for f in weights(dry_run=True) if f.will_download)
  except OSError:  # offline: what is here decides
    return 0


def _weights(folder: epath.Path) -> list[str]:
  """Returns the names of a model's weights, of which the index lists several.

  A damaged index names none: whoever reads the model says so.
  """
  index = folder / hf_names.INDEX
  if not index.exists():
    return [hf_names.WEIGHTS]
  try:
    files = json.loads(index.read_text())["weight_map"].values()
    return sorted({f for f in files if isinstance(f, str)})
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return []


def _size(count: float) -> str:
  """Returns a number of bytes in words."""
  return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


@contextlib.contextmanager
def _reaching(what: str) -> Iterator[None]:
  """Context for requests to the hub, whose library's errors become ours.

  Args:
    what: key or flag that named the model, which starts the message.

  Raises:
    InputError: a name, rights or a disk that the user has to mend.
    RunError: the hub, or the way to it, fails, and may work again later: a run
      that something starts again must not end for good with an outage.
  """
  try:
    yield
  except (errors.InputError, errors.RunError):
    raise
  except Exception as e:
    cause = e
    if isinstance(e, hub_errors.LocalEntryNotFoundError) and e.__cause__:
      cause = e.__cause__  # why nothing was asked
    mend = _mend(cause)
    if mend:
      raise errors.InputError(f"{what}: {mend}") from e
    raise errors.RunError(f"{what}: {_outage(cause)}") from e


def _mend(error: Exception) -> str:
  """Says what the user has to do about an error; "" where it may pass."""
  address, said = constants.ENDPOINT, errors.one_line(error)
  login = "log in (`hf auth login`, or HF_TOKEN in the environment)"
  match error:
    case hub_errors.LocalTokenNotFoundError():
      return f"nobody is logged in to {address}: {login}"
    case hub_errors.GatedRepoError():
      return (
        "the hub gives this model only to those who accepted its conditions: "
        f"accept them on its page at {address}, {login}, and run this again"
      )
    case hub_errors.RepositoryNotFoundError():
      return (
        f"no such directory, and {address} has no model of this name, or "
        f"none that you may see: correct the name, or {login}"
      )
    case hub_errors.RevisionNotFoundError():
      return f"{address} has this model, but no such revision of it"
    case hub_errors.HfHubHTTPError():
      status = error.response.status_code
      if status in (401, 403):
        return f"{address} refused ({said}): {login} with a token that may"
      passes = status in _PASSING or status >= 500
      return "" if passes else f"{address} answered {said}"
    case ValueError():  # not a name
      return said
    case OSError(errno=int(), strerror=str()) if not isinstance(
      error, ConnectionError | TimeoutError
    ):
      return (
        f"the cache of the hub cannot be written ({said}): free some space, or "
        "name another place in HF_HOME"
      )
  if constants.HF_HUB_OFFLINE:
    return _without(f"HF_HUB_OFFLINE forbids to ask {address}")
  return ""


def _outage(error: Exception) -> str:
  """Says that the hub fails, and that this may pass."""
  address, said = constants.ENDPOINT, errors.one_line(error)
  if isinstance(error, hub_errors.HfHubHTTPError):
    return f"{address} answered {said}; the same command tries again"
  unreached = _without(f"{address} cannot be reached: {said}")
  return f"{unreached}; the same command tries again"


def _without(reason: str) -> str:
  """Says what to do where the hub cannot be asked for a model."""
  return (
    f"it is not on this machine, and {reason}. Go online, or fetch it where "
    "there is a network (`hf download OWNER/NAME --local-dir DIR`) and copy "
    "the directory here"
  )
