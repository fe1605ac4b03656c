"""Decoding sends no weights between devices, token after token."""

import pathlib

SCRIPT = pathlib.Path(__file__).with_name("engine_collectives.py")


def test_decoding_sends_no_weights(run_python):
  lines = run_python([SCRIPT], timeout=280).stdout.split("\n")[:-1]
  assert len(lines) == 3
  for line in lines:
    *_, tensor, again, every = map(int, line.split())
    assert again == 0, line
    # Nothing crosses where heads and vocabulary are whole.
    assert (every > 0) == (tensor > 1), line
    # Token ids and, with heads and vocabulary split, activations do cross:
    # less than the weights of a layer, 64 x (2 x 192 + 3 x 256) numbers.
    assert every < 4 * 64 * (2 * 192 + 3 * 256), line
