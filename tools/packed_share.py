"""Measures how much of the tokens that training reads are real.

  python tools/packed_share.py [--sequences 4096] [--devices 8]

Responses of three distributions of lengths to prompts of 200 tokens are packed
as a step would, a row a device and micro-batch. Prints a table in Markdown.
"""

import argparse
import time

import numpy as np

from progrpo_jax import batch, packing

PROMPT = 200
# Name, median, 90th percentile, cut. The first has a mean of 40 % of the cut,
# the others are those of R1's distillates on mathematics.
LENGTHS = (
  ("mean 40 % of 2,048", 700, 1510, 2048),
  ("median 3k, cut at 8k", 3000, 8000, 8192),
  ("median 3k, cut at 16k", 3000, 8000, 16384),
)


def main() -> None:
  """Prints a row for each distribution."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sequences", type=int, default=4096)
  parser.add_argument("--devices", type=int, default=8)
  args = parser.parse_args()
  print("| responses | mean | padded to the cut | packed | seconds to pack |")
  print("|---|---|---|---|---|")
  for name, median, p90, cut in LENGTHS:
    length = lengths(median, p90, args.sequences, cut)
    begin = time.perf_counter()
    packed = pack(length, cut, args.devices)
    seconds = time.perf_counter() - begin
    padded = np.mean(PROMPT + length) / (PROMPT + cut)
    print(
      f"| {name} | {length.mean():,.0f} | {padded:.1%} | {packed.useful:.1%} | "
      f"{seconds:.1f} |"
    )


def lengths(median: float, p90: float, count: int, cut: int) -> np.ndarray:
  """Returns lognormal lengths that are cut."""
  spread = np.log(p90 / median) / 1.2815516
  z = np.random.default_rng(0).normal(size=count)
  return np.minimum(np.ceil(median * np.exp(spread * z)), cut).astype(int)


def pack(length, cut: int, devices: int) -> packing.Packed:
  """Packs responses of these lengths to prompts of `PROMPT` tokens."""
  mask = np.arange(cut) < length[:, None, None]
  prompt = np.ones((len(length), PROMPT), bool)
  return packing.pack(
    batch.Sequences(
      prompt_NT=prompt.astype(np.int32),
      prompt_mask_NT=prompt,
      tokens_NRT=mask.astype(np.int32),
      mask_NRT=mask,
    ),
    packing.Layout(rows=1, shards=devices),
  )


if __name__ == "__main__":
  main()
