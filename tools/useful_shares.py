"""Measures how much of the work of sampling and of training is of use.

  python tools/useful_shares.py [--sequences 4096] [--devices 8] [--cut 16384]

Responses of three distributions of lengths to prompts of 200 tokens are packed
as a step would, a row a device and micro-batch. Then the engine samples them on
one device, 32 prompts x 8 at a time. Its policy is a stub of one small layer
that finds all tokens alike, and its random numbers draw the stop token where a
response is to end. Prints two tables in Markdown.

"Keys": columns of keys that attention reads, as a multiple of those it needs:
the earlier tokens of each response that lives, and once the prompt that living
responses share.
"""

import argparse
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch, packing
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config
from progrpo_jax.models import parameters
from progrpo_jax.rollout import decoding, sampler

PROMPT = 200
PROMPTS, GROUP = 32, 8  # of a batch of sampling
# Name, median, 90th percentile, cut. The first has a mean of 40 % of the cut,
# the others are those of R1's distillates on mathematics.
LENGTHS = (
  ("mean 40 % of 2,048", 700, 1510, 2048),
  ("median 3k, cut at 8k", 3000, 8000, 8192),
  ("median 3k, cut at 16k", 3000, 8000, 16384),
)
STUB = model_config.ModelConfig(
  vocab_size=8,
  num_layers=1,
  embed_dim=8,
  num_heads=1,
  num_kv_heads=1,
  head_dim=2,
  mlp_dim=8,
  max_positions=1 << 16,
)
STOP = STUB.vocab_size - 1


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sequences", type=int, default=4096)
  parser.add_argument("--devices", type=int, default=8)
  parser.add_argument(
    "--cut", type=int, default=16384, help="tokens of a response at the most"
  )
  args = parser.parse_args()
  tables = [
    (name, lengths(median, p90, args.sequences, end), end)
    for name, median, p90, cut in LENGTHS
    for end in [min(cut, args.cut)]
  ]
  print("| responses | mean | padded to the cut | packed | seconds to pack |")
  print("|---|---|---|---|---|")
  for name, length, cut in tables:
    begin = time.perf_counter()
    packed = pack(length, cut, args.devices)
    seconds = time.perf_counter() - begin
    padded = np.mean(PROMPT + length) / (PROMPT + cut)
    print(
      f"| {name} | {length.mean():,.0f} | {padded:.1%} | {packed.useful:.1%} | "
      f"{seconds:.1f} |"
    )
  print("\n| responses | in lock step | useful steps | keys | seconds |")
  print("|---|---|---|---|---|")
  for name, length, cut in tables:
    begin = time.perf_counter()
    lock, useful, keys = sample(length, cut)
    seconds = time.perf_counter() - begin
    print(
      f"| {name} | {lock:.1%} | {useful:.1%} | {keys:.2f} | {seconds:.0f} |"
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


def sample(length, cut: int) -> tuple[float, float, float]:
  """Samples responses of given lengths.

  Args:
    length: tokens of each response; those of a prompt stand together.
    cut: tokens of a response at the most.

  Returns:
    Useful share of the rows' steps where all rows of a batch go on until the
    last one ends; that of the engine; columns of keys that the engine reads, as
    a multiple of those it needs.
  """
  length = length[: len(length) // GROUP * GROUP].reshape(-1, GROUP)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  params = jax.tree.map(
    jnp.zeros_like, parameters.init(STUB, jax.random.key(0), mesh)
  )
  engine = sampler.Engine(STUB, params, mesh)
  mask = np.ones((len(length), PROMPT), bool)
  settings = decoding.Settings(
    num_generations=GROUP,
    max_new_tokens=cut,
    stop_ids=(STOP,),
    batch_prompts=PROMPTS,
  )
  decoding.begin.clear_cache()  # it would go on with the lengths before
  with mock.patch.object(decoding, "_uniforms", _stop_at(length)):
    rollout = sampler.sample(
      engine,
      batch.Prompts(
        tokens_PT=mask.astype(np.int32),
        mask_PT=mask,
        user_mask_PT=mask,
        ids_P=np.arange(len(length)),
        rows=(None,) * len(length),
      ),
      jax.random.key(0),
      settings,
    )
  np.testing.assert_array_equal(rollout.mask_BT.sum(axis=1), length.reshape(-1))
  # A batch that is not full counts as the engine computes it: whole.
  longest = [
    length[start : start + PROMPTS].max()
    for start in range(0, len(length), PROMPTS)
  ]
  lock = length.sum() / (PROMPTS * GROUP * sum(longest))
  # The first token is drawn from what the prompt leaves behind.
  own = length * (length - 1) // 2
  needed = own.sum() + PROMPT * (length.max(axis=1) - 1).sum()
  return lock, engine.tokens / engine.row_steps, engine.columns / needed


def _stop_at(length):
  """What the sampler calls for its random numbers, for given lengths [P, G]."""

  def uniforms(key, ids_P, first_P, group, count):
    del key, first_P, group
    last_B1 = jnp.asarray(length)[ids_P].reshape(-1, 1) - 1
    stops_BT = jnp.arange(count) == last_B1
    # All tokens are alike: the largest number draws the last one, STOP.
    drawn_BT = jnp.where(stops_BT, 1 - 2.0**-23, 0.0)
    return jnp.stack([drawn_BT, drawn_BT], axis=-1)

  return uniforms


if __name__ == "__main__":
  main()
