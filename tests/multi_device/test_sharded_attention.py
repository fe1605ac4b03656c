"""Attention on eight devices is that on one, each device doing its part."""

import pathlib

SCRIPT = pathlib.Path(__file__).with_name("sharded_attention.py")


def test_kernels_and_blocks_on_eight_devices_equal_one(run_python):
  out = run_python([SCRIPT], timeout=280).stdout
  assert out.count("equal:") == 8
