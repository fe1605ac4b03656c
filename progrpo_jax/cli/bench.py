"""`make bench`: time per stage of a GRPO step, and share of peak FLOP/s.

The policy is random with 4M parameters (vocabulary 512, width 256, 4 layers, 4
query and 2 key heads, tied embeddings) in float32; a step samples 8 prompts x 8
responses x 128 tokens. Compilation is measured separately; each time is the
median of several steps.
"""

import functools
import os
import platform
import resource
import statistics
import sys
import time

import jax
import numpy as np
import rich.console
import rich.table

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax import places, ranges
from progrpo_jax.algos import advantages, aggregate, losses, objective
from progrpo_jax.cli import arguments, exits
from progrpo_jax.devices import peak, sharding
from progrpo_jax.learn import advantage, optim
from progrpo_jax.learn import state as state_lib
from progrpo_jax.learn import update as update_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import flops, parameters, scoring
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import decoding, sampler, verify
from progrpo_jax.storage import outputs
from progrpo_jax.tasks import base

PROMPT = 64  # tokens of a prompt
_ADVANTAGE = advantage.Advantage(advantages.grpo, alpha=0.3)


def run(argv: list[str]) -> int:
  """Measures and prints the times; returns the exit code."""
  parser = arguments.plain_parser(
    "make bench ARGS=...", __doc__.splitlines()[0]
  )
  parser.add(
    "--prompts", ranges.Whole(8, at_least=1), "number of prompts per step"
  )
  parser.add(
    "--samples", ranges.Whole(8, at_least=2), "number of samples per prompt"
  )
  parser.add("--new_tokens", ranges.Whole(128, at_least=1), "tokens per sample")
  parser.add(
    "--per_bundle",
    ranges.Whole(2, at_least=1),
    "samples that share their prompt's tokens; divides --samples",
  )
  parser.add("--steps", ranges.Whole(7, at_least=1), "number of measured steps")
  parser.add(
    "--json", ranges.Place(empty=False), "file to write the figures to"
  )
  parser.add_argument(
    "--decode",
    action="store_true",
    help="also measure milliseconds per token as the cache grows",
  )
  parser.add_argument(
    "--decode_lengths",
    type=int,
    nargs="+",
    metavar="TOKENS",
    default=(128, 256, 512, 1024, 2048),
    help="response lengths for --decode, in rising order",
  )
  args = parser.parse_args(argv)
  if args.json:
    outputs.check(args.json, "--json")
  figures = measure(args)
  show(figures)
  if args.json:
    places.write_json(args.json, figures)
  return 0


def model() -> model_config.ModelConfig:
  """Returns the configuration of the measured policy."""
  return model_config.ModelConfig(
    vocab_size=512,
    num_layers=4,
    embed_dim=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=1024,
    remat="layer",
  )


def measure(args) -> dict:
  """Measures a step.

  Args:
    args: arguments of the command line.

  Returns:
    Name -> figure; times in seconds unless the name says otherwise.
  """
  mesh, config = sharding.make_mesh(), model()
  params = parameters.init(config, jax.random.key(0), mesh)
  tx = optim.adamw(optim.schedule(1e-4))
  state = state_lib.create(config, tx, params, mesh)
  rate = peak.matmul_rate()
  update = _update(config, tx)
  step = functools.partial(_step, args, mesh, config, update)
  # The first step compiles everything; the others are the measurement.
  with pool_lib.Pool(workers=2) as pool:
    start = time.perf_counter()
    state, _ = step(state, pool, 0)
    first = time.perf_counter() - start
    timed = []
    for number in range(1, args.steps + 1):
      state, seconds = step(state, pool, number)
      timed.append(seconds)
  stage_seconds = {
    name: statistics.median(t[name] for t in timed) for name in timed[0]
  }
  total = statistics.median(sum(t.values()) for t in timed)
  tokens = args.prompts * args.samples * args.new_tokens
  needed = work(config, args.prompts, args.samples, PROMPT, args.new_tokens)
  figures = dict(
    device=f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    cores=len(os.sched_getaffinity(0)),
    python=platform.python_version(),
    jax=jax.__version__,
    parameters=config.num_params,
    seconds=stage_seconds,
    step=total,
    step_min=min(sum(t.values()) for t in timed),
    step_max=max(sum(t.values()) for t in timed),
    compile=first - total,
    tokens=tokens,
    tokens_per_second_sample=tokens / stage_seconds["sample"],
    tokens_per_second_step=tokens / total,
    matmul_tflops=rate / 1e12,
    work_tflop={k: v / 1e12 for k, v in needed.items()},
    share_of_matmul_rate={
      k: v / stage_seconds[k] / rate for k, v in needed.items()
    }
    | {"step": sum(needed.values()) / total / rate},
    arm_share=stage_seconds["advantage"] / total,
    peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  )
  if args.decode:
    figures["decode_ms_per_token"] = decode_curve(
      config, state.params, args.decode_lengths
    )
  return figures


def work(config, prompts, samples, prompt, new) -> dict[str, float]:
  """Returns the FLOP of each stage, see `models.flops`.

  Args:
    config: model configuration.
    prompts: number of prompts.
    samples: number of samples per prompt.
    prompt: tokens per prompt.
    new: tokens per sample.
  """
  prompt_P = np.full(prompts, prompt)
  response_PG = np.full((prompts, samples), new)
  return dict(
    sample=flops.forward(config, prompt_P, response_PG),
    score=flops.forward(config, prompt_P, response_PG, prompt_logits=True),
    update=flops.update(config, prompt_P, response_PG),
  )


def _update(config, tx):
  """Returns the compiled update of a clipped loss without KL."""
  goal = functools.partial(
    objective.objective, loss_fn=losses.clip, aggregate_fn=aggregate.token_mean
  )
  return update_lib.make(config, tx, goal, scoring.Distribution())


def _rows(count: int) -> list[base.Row]:
  """Returns rows of Countdown, all with one problem."""
  meta = dict(
    dataset="countdown",
    template="compact",
    metadata=dict(numbers=[3, 4, 5], target=17),
  )
  return [base.Row("countdown", "3 4 5=17:", None, meta)] * count


def _step(args, mesh, config, update, state, pool, number):
  """Runs one step.

  Args:
    args: arguments of the command line.
    mesh: mesh of all devices.
    config: model configuration.
    update: compiled update.
    state: training state, which is donated.
    pool: processes that run verifiers.
    number: number of the step, the seed of its random numbers.

  Returns:
    (new state, stage -> seconds).
  """
  # Random prompts of PROMPT tokens without padding.
  p, g, new = args.prompts, args.samples, args.new_tokens
  numbers = np.random.default_rng(number)
  mask = np.ones((p, PROMPT), bool)
  rows = _rows(p)
  prompts = batch_lib.Prompts(
    tokens_PT=numbers.integers(0, 512, (p, PROMPT)).astype(np.int32),
    mask_PT=mask,
    user_mask_PT=mask,
    ids_P=np.arange(p) + number * p,
    rows=tuple(rows),
  )
  seconds = {}

  def timed(name, call):
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    seconds[name] = time.perf_counter() - start
    return result

  # Without a stop token every response has its full length.
  settings = decoding.Settings(num_generations=g, max_new_tokens=new)
  rollout = timed(
    "sample",
    lambda: sampler.sample(
      sampler.Engine(config, state.params, mesh),
      prompts,
      jax.random.key(number),
      settings,
    ),
  )
  texts = [
    [f"{3 + int(t[0]) % 3}+4*5-{int(t[1])}" for t in group]
    for group in rollout.tokens_BT.reshape(p, g, -1)
  ]
  verified = timed("verify", lambda: verify.verify(pool, rows, texts))
  # Random rewards replace the verifier's, nearly all 0: the update then works
  # on gradients that are not zero.
  reward = numbers.random((p, g)).astype(np.float32)
  groups = groups_lib.Groups(
    prompts=prompts,
    rollout=rollout,
    texts_PG=verified.texts_PG,
    reward_PG=reward,
    correct_PG=verified.correct_PG,
    valid_PG=verified.valid_PG,
    fresh_P=np.ones(p, bool),
    values_PGJ=np.zeros((p, g, 0), np.float32),
  )
  sequences = groups_lib.to_sequences(groups, args.per_bundle)
  # Old log-probabilities, advantages, and one update on the whole batch.
  with jax.set_mesh(mesh):
    scores = timed(
      "score",
      lambda: scoring.score(
        config,
        state.params,
        sequences,
        scoring.Distribution(),
        prompt_stride=g // args.per_bundle,
      ),
    )
    signal = timed("advantage", lambda: _ADVANTAGE(reward, groups, scores))
    batch = batch_lib.TrainBatch(
      sequences=sequences,
      old_logp_NRT=scores.logp_NRT,
      ref_logp_NRT=None,
      adv_NR=signal.adv_PG.reshape(-1, args.per_bundle),
      fresh_NR=np.ones((p * g // args.per_bundle, args.per_bundle), bool),
    )
    state, _ = timed(
      "update",
      lambda: update(
        state,
        update_lib.pack(batch, scoring.AUTOMATIC),
        np.bool_(True),
        jax.random.key(number),
      ),
    )
  return state, seconds


def decode_curve(config, params, lengths) -> dict[int, float]:
  """Measures decoding of 16 sequences at growing lengths.

  Args:
    config: model configuration.
    params: parameters of the policy.
    lengths: response lengths in tokens, in rising order.

  Returns:
    Length -> milliseconds per token between the previous length and this one;
    the best of four measurements, the first of which compiles.
  """
  mesh = sharding.make_mesh()
  mask = np.ones((4, PROMPT), bool)
  prompts = batch_lib.Prompts(
    tokens_PT=np.zeros((4, PROMPT), np.int32),
    mask_PT=mask,
    user_mask_PT=mask,
    ids_P=np.arange(4),
    rows=(None,) * 4,
  )
  curve, before = {}, (0, 0.0)
  for length in lengths:
    settings = decoding.Settings(num_generations=4, max_new_tokens=length)
    best = min(
      _seconds(
        lambda s=settings: sampler.sample(
          sampler.Engine(config, params, mesh), prompts, jax.random.key(0), s
        )
      )
      for _ in range(4)
    )
    # Only the tokens beyond the previous length count.
    curve[length] = 1e3 * (best - before[1]) / (length - before[0])
    before = length, best
  return curve


def _seconds(call) -> float:
  """Returns the seconds that a call takes until its arrays are ready."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def show(figures: dict) -> None:
  """Prints the figures of `measure`."""
  console = rich.console.Console()
  console.print(
    f"{figures['device']}, {figures['cores']} cores, jax {figures['jax']}; "
    f"{figures['parameters'] / 1e6:.1f}M parameters; matmul "
    f"{figures['matmul_tflops']:.3f} TFLOP/s"
  )
  table = rich.table.Table(
    "stage", "seconds", "share of the step", "share of the matmul rate"
  )
  for name, seconds in figures["seconds"].items():
    rate = figures["share_of_matmul_rate"].get(name)
    table.add_row(
      name,
      f"{seconds:.3f}",
      f"{seconds / figures['step']:.1%}",
      "" if rate is None else f"{rate:.0%}",
    )
  table.add_section()
  table.add_row(
    "step",
    f"{figures['step']:.3f}",
    f"{figures['step_min']:.3f} – {figures['step_max']:.3f} s",
    f"{figures['share_of_matmul_rate']['step']:.0%}",
  )
  console.print(table)
  console.print(
    f"{figures['tokens']} new tokens: "
    f"{figures['tokens_per_second_sample']:,.0f} a second while sampling, "
    f"{figures['tokens_per_second_step']:,.0f} over the step; compile "
    f"{figures['compile']:.1f} s; peak memory "
    f"{figures['peak_memory_mb']:,.0f} MB"
  )
  for length, ms in figures.get("decode_ms_per_token", {}).items():
    console.print(f"  up to {length:>5} tokens: {ms:.2f} ms a token")


if __name__ == "__main__":
  sys.exit(exits.run("bench", run, sys.argv[1:]))
