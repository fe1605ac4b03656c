"""A bucket of Google Cloud Storage on this machine, for tests.

It speaks the part of the JSON API that gcsfs, TensorStore and
google-cloud-storage use (https://cloud.google.com/storage/docs/json_api), and
is as strict as an object store: an object is replaced whole or not at all,
nothing is appended to or renamed, and a directory is no more than the
beginning of a name. What a client asks for beyond that is answered with 400
and kept in `refused`.
"""

import base64
import collections
import contextlib
import dataclasses
import email.parser
import email.policy
import http.server
import json
import re
import sys
import threading
import time
import urllib.parse

import google_crc32c

# All but the last part of a resumable upload are multiples of this.
_PART = 256 * 1024


@dataclasses.dataclass(frozen=True)
class Object:
  """One generation of an object."""

  data: bytes
  generation: int
  content_type: str
  made: float


class Refused(Exception):
  """An answer that is not a success."""

  def __init__(self, status, message):
    super().__init__(message)
    self.status = status


class Server:
  """The service; `with Server() as server` runs it on a free port.

  Attributes:
    buckets: {bucket: {name: Object}}.
    counts: requests by kind, such as counts["insert"].
    refused: requests that no object store can do.
    watch: called with bucket and name of each object that was written, before
      its writer is told that it is.
    deleting: called with bucket and name of each object that is there and is
      about to be deleted, one at a time; raises Refused to keep it.
  """

  def __init__(self, page=1000):
    """`page` is the most objects that one answer to a listing names."""
    self.page = page
    self.buckets = {}
    self.counts = collections.Counter()
    self.refused = []
    self.watch = lambda bucket, name: None
    self.deleting = lambda bucket, name: None
    self.lock = threading.RLock()
    self._uploads = {}
    self._forbidden = {}
    self._failing = [0, 503]
    self._generation = int(time.time() * 1e6)
    self._http = None

  def __enter__(self):
    handler = type("Handler", (_Handler,), {"store": self})
    self._http = _Http(("127.0.0.1", 0), handler)
    threading.Thread(target=self._http.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._http.shutdown()
    self._http.server_close()

  @property
  def url(self):
    return f"http://127.0.0.1:{self._http.server_address[1]}"

  def environment(self):
    """What a process is told, to take this for Google's service."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      # Who asks is nobody in particular, and not to be looked up.
      "FSSPEC_GCS_TOKEN": "anon",
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anyone",
      "NO_GCE_CHECK": "true",
      # gcsfs asks by gRPC what kind of bucket it is; this is the usual kind.
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }

  def forbid(self, bucket, what=("bucket", "object")):
    """Answers 403 to requests for a bucket's own data, its objects or both."""
    self._forbidden[bucket] = what

  def fail_next(self, count, status=503):
    """Answers the next requests with an error."""
    with self.lock:
      self._failing[:] = count, status

  def fails(self):
    """The error that a request is answered with, or None."""
    with self.lock:
      if self._failing[0] == 0:
        return None
      self._failing[0] -= 1
      self.counts["failed"] += 1
      return self._failing[1]

  def names(self, bucket, prefix=""):
    """Names of the objects that begin so."""
    with self.lock:
      return sorted(n for n in self.buckets[bucket] if n.startswith(prefix))

  def read(self, bucket, name):
    """An object's bytes."""
    return self.buckets[bucket][name].data

  def bucket(self, name, what="object"):
    """The objects of a bucket."""
    if what in self._forbidden.get(name, ()):
      raise Refused(
        403, f"anyone does not have storage.{what}s.get access to {name}."
      )
    if name not in self.buckets:
      raise Refused(404, "The specified bucket does not exist.")
    return self.buckets[name]

  def get(self, bucket, name, query):
    """An object, if the conditions hold."""
    found = self.bucket(bucket).get(name)
    _check(found, query)
    wanted = query.get("generation")
    if found is None or wanted not in (None, str(found.generation)):
      raise Refused(404, f"No such object: {bucket}/{name}")
    return found

  def insert(self, bucket, name, data, query, content_type):
    """Makes a generation of an object, if the conditions hold."""
    with self.lock:
      objects = self.bucket(bucket)
      _check(objects.get(name), query)
      if not name or len(name.encode()) > 1024 or set(name) & set("\r\n"):
        raise Refused(400, f"{name!r} is no name of an object")
      self._generation += 1
      objects[name] = Object(
        bytes(data), self._generation, content_type, time.time()
      )
    self.watch(bucket, name)
    return objects[name]

  def delete(self, bucket, name, query):
    """Removes an object, if the conditions hold."""
    with self.lock:
      self.get(bucket, name, query)
      self.deleting(bucket, name)
      del self.buckets[bucket][name]

  def list(self, bucket, query):
    """(objects, prefixes, token of the next page or None)."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    first = query.get("startOffset", "")
    end, token = query.get("endOffset"), query.get("pageToken")
    after = base64.b64decode(token).decode() if token else None
    most = min(int(query.get("maxResults") or self.page), self.page)
    found, seen = [], set()
    with self.lock:
      objects = dict(self.bucket(bucket))
    for name in sorted(objects, key=str.encode):
      if not name.startswith(prefix) or name < first or (end and name >= end):
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        name = prefix + rest[: rest.index(delimiter)] + delimiter
      if name in seen or (after is not None and name <= after):
        continue
      seen.add(name)
      found.append(name)
    page, more = found[:most], found[most:]
    is_prefix = {
      n for n in page if delimiter and n.endswith(delimiter) and n != prefix
    }
    return (
      {n: objects[n] for n in page if n not in is_prefix},
      sorted(is_prefix),
      base64.b64encode(page[-1].encode()).decode() if more else None,
    )

  def open_upload(self, bucket, name, query, content_type):
    """The id of a resumable upload."""
    self.bucket(bucket)
    with self.lock:
      number = str(len(self._uploads))
      self._uploads[number] = [bucket, name, query, content_type, bytearray()]
    return number

  def add_part(self, number, data, span):
    """Takes a part of a resumable upload; the object when it is the last.

    `span` is the header Content-Range, or None for all in one.
    """
    with self.lock:
      if number not in self._uploads:
        raise Refused(410, "There is no such upload.")
      bucket, name, query, content_type, parts = self._uploads[number]
      start, total = _parse_span(span, len(data))
      if start is not None and start != len(parts):
        raise Refused(400, f"part begins at {start}, not {len(parts)}")
      if total is None and len(data) % _PART:
        raise Refused(400, f"a part of {len(data)} bytes before the last")
      parts += data
      if total is None or len(parts) < total:
        return None, len(parts)
      if len(parts) > total:
        raise Refused(400, f"{len(parts)} bytes of {total}")
      del self._uploads[number]
    made = self.insert(bucket, name, parts, query, content_type)
    return (name, made), total

  def drop_upload(self, number):
    """Forgets a resumable upload."""
    with self.lock:
      self._uploads.pop(number, None)


def _check(found, query):
  """The conditions on an object's generation; 0 means that there is none."""
  generation = found.generation if found else 0
  if int(query.get("ifGenerationMatch", generation)) != generation:
    raise Refused(412, "At least one of the pre-conditions did not hold.")
  if int(query.get("ifGenerationNotMatch", -1)) == generation:
    raise Refused(304, "")


def _parse_span(span, length):
  """(first byte or None, size of the whole or None) of a Content-Range."""
  if span is None:
    return 0, length
  match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", span)
  start, total = match.groups()
  return start and int(start), None if total == "*" else int(total)


class _Http(http.server.ThreadingHTTPServer):
  """Takes it calmly when a client dies, as the killed ones do."""

  daemon_threads = True

  def handle_error(self, request, client_address):
    if not isinstance(sys.exception(), ConnectionError):
      super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
  """One connection."""

  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  wbufsize = -1
  store = None

  def log_message(self, *_):
    pass

  def do_GET(self):
    self._answer()

  do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

  def _answer(self):
    """Finds what is asked for; the routes are those of the JSON API."""
    length = int(self.headers.get("Content-Length") or 0)
    self.body = self.rfile.read(length)
    url = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(url.query))
    status = self.store.fails()
    try:
      if status:
        raise Refused(status, "The service is not available.")
      for pattern, function in _ROUTES:
        match = re.fullmatch(pattern, f"{self.command} {url.path}")
        if match:
          function(self, *map(urllib.parse.unquote, match.groups()))
          return
      self.store.refused.append(f"{self.command} {self.path}")
      raise Refused(400, "No object store can do that.")
    except Refused as e:
      error = {"code": e.status, "message": str(e), "errors": []}
      self._send(
        e.status,
        b"" if e.status == 304 else json.dumps({"error": error}).encode(),
      )

  def _count(self, kind):
    with self.store.lock:
      self.store.counts[kind] += 1

  def _send(self, status, body=b"", **headers):
    self.send_response(status)
    headers = {"Content-Type": "application/json; charset=UTF-8"} | {
      k.replace("_", "-"): v for k, v in headers.items()
    }
    for name, value in headers.items():
      self.send_header(name, str(value))
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def _send_json(self, content, **headers):
    self._send(200, json.dumps(content).encode(), **headers)

  def _get_bucket(self, bucket):
    self._count("bucket")
    self.store.bucket(bucket, "bucket")
    self._send_json(
      {
        "kind": "storage#bucket",
        "id": bucket,
        "name": bucket,
        "location": "US-WEST4",
        "locationType": "region",
      }
    )

  def _make_bucket(self):
    self._count("make_bucket")
    name = json.loads(self.body)["name"]
    self.store.buckets.setdefault(name, {})
    self._send_json({"kind": "storage#bucket", "id": name, "name": name})

  def _list(self, bucket):
    self._count("list")
    found, prefixes, token = self.store.list(bucket, self.query)
    self._send_json(
      {
        "kind": "storage#objects",
        "prefixes": prefixes,
        "items": [_describe(bucket, n, o) for n, o in found.items()],
      }
      | ({"nextPageToken": token} if token else {})
    )

  def _get(self, bucket, name):
    if self.query.get("alt") == "media":
      self._get_media(bucket, name)
      return
    self._count("stat")
    found = self.store.get(bucket, name, self.query)
    self._send_json(_describe(bucket, name, found))

  def _get_media(self, bucket, name):
    self._count("get")
    found = self.store.get(bucket, name, self.query)
    data, status, headers = found.data, 200, {}
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
    if span:
      first, last = _resolve(*span.groups(), len(data))
      data, status = found.data[first : last + 1], 206
      headers["Content_Range"] = f"bytes {first}-{last}/{len(found.data)}"
    self._send(
      status,
      data,
      Content_Type=found.content_type,
      X_Goog_Generation=found.generation,
      X_Goog_Metageneration=1,
      X_Goog_Stored_Content_Length=len(found.data),
      **headers,
    )

  def _insert(self, bucket):
    kind = self.query["uploadType"]
    if kind == "resumable":
      described = json.loads(self.body or b"{}")
      name = self.query.get("name") or described["name"]
      self._count("open_upload")
      number = self.store.open_upload(
        bucket,
        name,
        self.query,
        self.headers.get("X-Upload-Content-Type", "application/octet-stream"),
      )
      place = urllib.parse.urlsplit(self.path).path
      self._send(
        200,
        Location=(
          f"{self.store.url}{place}?uploadType=resumable&upload_id={number}"
        ),
      )
      return
    name, data = self.query.get("name"), self.body
    content_type = self.headers.get("Content-Type", "")
    if kind == "multipart":
      described, data, content_type = _split(content_type, self.body)
      name = described.get("name", name)
    self._count("insert")
    made = self.store.insert(bucket, name, data, self.query, content_type)
    self._send_json(_describe(bucket, name, made))

  def _upload(self, bucket):
    if "upload_id" not in self.query:
      self._insert(bucket)
      return
    number = self.query["upload_id"]
    if self.command == "DELETE":
      self.store.drop_upload(number)
      self._send(499)
      return
    self._count("part")
    made, length = self.store.add_part(
      number, self.body, self.headers.get("Content-Range")
    )
    if made:
      self._count("insert")
      self._send_json(_describe(bucket, *made))
    else:
      self._send(308, **({"Range": f"bytes=0-{length - 1}"} if length else {}))

  def _copy(self, bucket, name, to_bucket, to_name):
    self._count("copy")
    found = self.store.get(bucket, name, {})
    made = self.store.insert(
      to_bucket, to_name, found.data, self.query, found.content_type
    )
    self._send_json(
      {
        "kind": "storage#rewriteResponse",
        "done": True,
        "resource": _describe(to_bucket, to_name, made),
      }
    )

  def _delete(self, bucket, name):
    self._count("delete")
    self.store.delete(bucket, name, self.query)
    self._send(204)


_B = r"(?:/download)?/storage/v1/b"
_ROUTES = (
  (rf"GET {_B}/([^/]+)", _Handler._get_bucket),
  (rf"POST {_B}", _Handler._make_bucket),
  (rf"GET {_B}/([^/]+)/o", _Handler._list),
  (rf"GET {_B}/([^/]+)/o/([^/]+)", _Handler._get),
  (rf"DELETE {_B}/([^/]+)/o/([^/]+)", _Handler._delete),
  (
    rf"POST {_B}/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)",
    _Handler._copy,
  ),
  (r"(?:POST|PUT|DELETE) /upload/storage/v1/b/([^/]+)/o", _Handler._upload),
)


def _describe(bucket, name, found):
  """An object's resource."""
  made = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.made))
  return {
    "kind": "storage#object",
    "id": f"{bucket}/{name}/{found.generation}",
    "name": name,
    "bucket": bucket,
    "generation": str(found.generation),
    "metageneration": "1",
    "contentType": found.content_type,
    "size": str(len(found.data)),
    "crc32c": base64.b64encode(
      google_crc32c.value(found.data).to_bytes(4, "big")
    ).decode(),
    "storageClass": "STANDARD",
    "timeCreated": made,
    "updated": made,
  }


def _resolve(first, last, size):
  """First and last byte of a range; (no first) means the last bytes."""
  if not first:
    return max(size - int(last), 0), size - 1
  if int(first) >= size:
    raise Refused(416, "The requested range cannot be satisfied.")
  return int(first), min(int(last or size), size - 1)


def _split(content_type, body):
  """(resource, data, type of the data) of a multipart upload.

  The data is not parsed as mail, which would change its ends of lines.
  """
  boundary = re.search(r'boundary="?([^";]+)', content_type)[1].encode()
  _, first, rest = body.split(b"--" + boundary, 2)
  head, _, described = first.replace(b"\r\n", b"\n").partition(b"\n\n")
  blank = re.search(rb"\r?\n\r?\n", rest)
  data, end, _ = rest[blank.end() :].rpartition(b"--" + boundary + b"--")
  if not end:
    raise Refused(400, "The multipart upload has no end.")
  data = data[:-2] if data.endswith(b"\r\n") else data[:-1]
  headers = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
    rest[: blank.end()].lstrip(), headersonly=True
  )
  return json.loads(described), data, headers["Content-Type"]


@contextlib.contextmanager
def serving(*buckets, **options):
  """A server with empty buckets of these names."""
  with Server(**options) as server:
    server.buckets |= {name: {} for name in buckets}
    yield server
