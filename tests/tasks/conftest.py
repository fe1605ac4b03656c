import csv
import gzip
import io
import json

import pyarrow as pa
from pyarrow import parquet
import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A folder of builds that the tests of tasks share."""
  return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def write():
  """A function (path, rows) that writes rows in the format of the ending."""

  def make(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
      parquet.write_table(pa.Table.from_pylist(rows), path)
      return path
    if name.endswith(".csv"):
      text = io.StringIO()
      table = csv.DictWriter(text, list(rows[0]))
      table.writeheader()
      table.writerows(rows)
      content = text.getvalue()
    elif name.endswith(".jsonl"):
      content = "".join(json.dumps(row) + "\n" for row in rows)
    else:
      content = json.dumps(rows)
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if path.name != name else raw)
    return path

  return make
