"""Twenty kills at each kind of deletion in a bucket; three are in the tests."""

import importlib.util
import pathlib

import pytest

_spec = importlib.util.spec_from_file_location(
  "bucket_deletion",
  pathlib.Path(__file__).parents[1] / "test_bucket_deletion.py",
)
deletion = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(deletion)
bucket = deletion.bucket

KILLS = 20


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", [4, 3])
def test_killed_at_twenty_points_a_run_goes_on(bucket, step):
  """From the first deletion to the last, as many as there are."""
  last = deletion.count(bucket, step) - 1
  assert last > max(deletion.POINTS) > 2 * KILLS
  for number in range(KILLS):
    deletion.check_kill(bucket, step, round(number * last / (KILLS - 1)))
