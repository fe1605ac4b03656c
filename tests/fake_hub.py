"""A hub of models on this machine, for tests.

It speaks the part of the Hugging Face hub's API that huggingface_hub uses to
fetch and to publish models (https://huggingface.co/docs/hub/api, and for large
files https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md). A commit
is made of all files of a repository, and named by their digest.
"""

import base64
import collections
import hashlib
import http.server
import json
import re
import threading

import yaml

TOKEN = "hf_of_a_test"
USER = "someone"


class Server:
  """The service; `with Server() as server` runs it on a free port.

  Attributes:
    repos: {id: {path: bytes}}.
    gated: ids whose files only `TOKEN` may read.
    private: {id: whether it was made private}.
    messages: messages of the commits made here.
    failing: {part of a path: status with which requests for it fail}.
    counts: requests by kind, such as counts["file model.safetensors"].
  """

  def __init__(self):
    self.repos = {}
    self.gated = set()
    self.private = {}
    self.messages = []
    self.failing = {}
    self.counts = collections.Counter()
    self.stored = {}  # large files that wait for their commit
    self._http = None

  def __enter__(self):
    handler = type("Handler", (_Handler,), {"hub": self})
    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=self._http.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._http.shutdown()
    self._http.server_close()

  @property
  def url(self):
    return f"http://127.0.0.1:{self._http.server_address[1]}"

  def add(self, repo, folder):
    """Publishes the files of a directory as a model."""
    self.repos[repo] = {
      path.relative_to(folder).as_posix(): path.read_bytes()
      for path in folder.rglob("*")
      if path.is_file()
    }

  def commit(self, repo):
    """Name of the present commit of a repository."""
    digest = hashlib.sha1()
    for path, data in sorted(self.repos[repo].items()):
      digest.update(path.encode() + b"\0" + _oid(data).encode())
    return digest.hexdigest()


def use(monkeypatch, server, folder, token=None):
  """Takes the server for the hub in this process.

  Args:
    monkeypatch: pytest's.
    server: a `Server`, or None for a hub that cannot be reached.
    folder: directory for the cache.
    token: token of the user who is logged in, or None.
  """
  from huggingface_hub import constants

  from progrpo_jax.storage import hub

  hub.fetch.cache_clear()
  url = server.url if server else "http://127.0.0.1:9"
  for name, value in {
    "ENDPOINT": url,
    "HUGGINGFACE_CO_URL_TEMPLATE": url
    + "/{repo_id}/resolve/{revision}/{filename}",
    "HF_HUB_CACHE": str(folder / "cache"),
    "HF_TOKEN_PATH": str(folder / "token"),
    "HF_HUB_DISABLE_XET": True,
  }.items():
    monkeypatch.setattr(constants, name, value)
  monkeypatch.delenv("HF_TOKEN", raising=False)
  if token:
    monkeypatch.setenv("HF_TOKEN", token)


def _oid(data):
  """Git's name of a file's content."""
  return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_large(path):
  return path.endswith((".safetensors", ".model"))


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers one request."""

  protocol_version = "HTTP/1.1"

  def do_GET(self):
    path = self.path.partition("?")[0]
    for part, status in self.hub.failing.items():
      if part in path:
        return self._refuse(status, "", "of a test")
    if path == "/api/whoami-v2":
      return self._whoami()
    if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
      return self._info(*match.groups())
    if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(\w+)", path):
      return self._tree(*match.groups())
    if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
      return self._file(*match.groups())
    return self._refuse(404, "", f"nothing at {path}")

  do_HEAD = do_GET

  def do_POST(self):
    body = self.rfile.read(int(self.headers["Content-Length"]))
    path = self.path.partition("?")[0]
    if path == "/api/validate-yaml":
      return self._validate(json.loads(body)["content"])
    if not self._is_user():
      return self._refuse(401, "", "Invalid credentials")
    if path == "/api/repos/create":
      return self._create(json.loads(body))
    if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/\w+", path):
      return self._preupload(match[1], json.loads(body))
    if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
      return self._batch(json.loads(body))
    if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/\w+", path):
      return self._commit(match[1], body)
    return self._refuse(404, "", f"nothing at {path}")

  def do_PUT(self):
    data = self.rfile.read(int(self.headers["Content-Length"]))
    oid = self.path.rpartition("/")[2]
    if hashlib.sha256(data).hexdigest() != oid:
      return self._refuse(400, "", "another file")
    self.hub.stored[oid] = data
    return self._send(200, b"")

  def _is_user(self):
    return self.headers.get("Authorization") == f"Bearer {TOKEN}"

  def _whoami(self):
    if not self._is_user():
      return self._refuse(401, "", "Invalid credentials")
    return self._json({"name": USER, "type": "user", "auth": {}, "orgs": []})

  def _info(self, repo, revision):
    self.hub.counts["info"] += 1
    if repo not in self.hub.repos:
      return self._refuse(401, "RepoNotFound", "Repository not found")
    if revision not in ("main", self.hub.commit(repo)):
      return self._refuse(404, "RevisionNotFound", "Invalid rev id")
    return self._json({"id": repo, "sha": self.hub.commit(repo)})

  def _tree(self, repo, revision):
    entries = []
    for path, data in sorted(self.hub.repos[repo].items()):
      entry = dict(type="file", path=path, size=len(data), oid=_oid(data))
      if _is_large(path):
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = dict(oid=sha, size=len(data), pointerSize=130)
      entries.append(entry)
    return self._json(entries)

  def _file(self, repo, revision, path):
    if repo in self.hub.gated and not self._is_user():
      return self._refuse(401, "GatedRepo", f"Access to {repo} is restricted")
    if path not in self.hub.repos.get(repo, ()):
      return self._refuse(404, "EntryNotFound", "Entry not found")
    data = self.hub.repos[repo][path]
    if self.command == "GET":
      self.hub.counts[f"file {path}"] += 1
    return self._send(
      200,
      data,
      {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": self.hub.commit(repo)},
    )

  def _validate(self, content):
    described = yaml.safe_load(content.split("---")[1])
    errors = []
    if not isinstance(described, dict) or "tags" not in described:
      errors = [{"message": "no metadata with tags"}]
    return self._json({"errors": errors, "warnings": []})

  def _create(self, wanted):
    owner = wanted.get("organization") or USER
    repo = f"{owner}/{wanted['name']}"
    if owner != USER:
      return self._refuse(403, "", f"no rights in the namespace {owner}")
    if repo in self.hub.repos:
      body = {"url": f"{self.hub.url}/{repo}", "error": "You already have it"}
      return self._json(body, 409)
    self.hub.repos[repo] = {}
    self.hub.private[repo] = (
      wanted.get("private") or wanted.get("visibility") == "private"
    )
    return self._json({"url": f"{self.hub.url}/{repo}"})

  def _preupload(self, repo, wanted):
    held = self.hub.repos[repo]
    return self._json(
      {
        "files": [
          dict(
            path=file["path"],
            uploadMode="lfs" if _is_large(file["path"]) else "regular",
            shouldIgnore=False,
            oid=_oid(held[file["path"]]) if file["path"] in held else None,
          )
          for file in wanted["files"]
        ]
      }
    )

  def _batch(self, wanted):
    return self._json(
      {
        "transfer": "basic",
        "objects": [
          dict(
            file,
            actions={"upload": {"href": f"{self.hub.url}/lfs/{file['oid']}"}},
          )
          for file in wanted["objects"]
        ],
      }
    )

  def _commit(self, repo, body):
    held = self.hub.repos[repo]
    for line in body.splitlines():
      operation = json.loads(line)
      value = operation["value"]
      if operation["key"] == "header":
        self.hub.messages.append(value["summary"])
      elif operation["key"] == "file":
        held[value["path"]] = base64.b64decode(value["content"])
      elif operation["key"] == "lfsFile":
        held[value["path"]] = self.hub.stored.pop(value["oid"])
      else:
        del held[value["path"]]
    sha = self.hub.commit(repo)
    return self._json(
      dict(commitUrl=f"{self.hub.url}/{repo}/commit/{sha}", commitOid=sha)
    )

  def _json(self, content, status=200):
    self._send(
      status, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )

  def _refuse(self, status, code, message):
    headers = {"X-Error-Message": message} | (
      {"X-Error-Code": code} if code else {}
    )
    self._send(status, json.dumps({"error": message}).encode(), headers)

  def _send(self, status, body, headers=()):
    self.send_response(status)
    for name, value in dict(headers).items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(body)

  def log_message(self, *_):
    """Keeps quiet."""
