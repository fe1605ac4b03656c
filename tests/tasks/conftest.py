import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A folder of builds that the tests of tasks share."""
  return str(tmp_path_factory.mktemp("data"))
