"""`progrpo sample`: answers of a policy to prompts typed or piped."""

import dataclasses
import os
import sys

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import data as data_lib
from progrpo_jax import errors, sampler, sharding
from progrpo_jax import policy as policy_lib
from progrpo_jax.cli import config as config_lib
from progrpo_jax.report import live


def run(argv: list[str]) -> int:
  """Answers each line of the input; returns the exit code."""
  parser = config_lib.parser(
      "sample", "Answer prompts, one a line, from the keyboard or a pipe.")
  parser.add_argument(
      "--policy", help="HF directory, workdir, or checkpoints/<step> of one "
      "(default: config.model.init_from)")
  parser.add_argument(
      "--num_samples", type=int, default=1, help="answers to each prompt")
  parser.add_argument(
      "--temperature", type=float, help="0 is greedy (default: the config's)")
  c, args = config_lib.parse(parser, argv)
  if args.policy:
    c.model.init_from = args.policy
  if args.num_samples < 1:
    raise errors.InputError("--num_samples must be at least 1")
  if args.temperature is not None and args.temperature < 0:
    raise errors.InputError("--temperature must not be below 0")
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  policy = policy_lib.load(c, mesh)
  settings = sampler.Settings(
      num_generations=args.num_samples,
      max_new_tokens=c.sampling.max_new_tokens,
      temperature=c.sampling.temperature, top_p=c.sampling.top_p,
      top_k=c.sampling.top_k, stop_ids=policy.tokenizer.stop_ids,
      chunk=c.sampling.chunk)
  if args.temperature is not None:
    settings = dataclasses.replace(settings, temperature=args.temperature)
  key = jax.random.key(c.seed)
  for number, text in enumerate(_lines()):
    prompts = encode(policy.tokenizer, text, number, c.data.max_prompt_length)
    rollout = sampler.sample(
        policy.config, policy.params, prompts, key, settings, mesh)
    for answer in data_lib.texts(
        policy.tokenizer, rollout, args.num_samples)[0]:
      print(live.printable(answer), flush=True)
  return 0


def encode(tokenizer, text: str, number: int, width: int) -> batch_lib.Prompts:
  """One prompt, padded on the left."""
  ids, user = tokenizer.encode_prompt(text)
  if len(ids) > width:
    raise errors.InputError(
        f"the prompt has {len(ids)} tokens, config.data.max_prompt_length is "
        f"{width}")
  missing = width - len(ids)
  return batch_lib.Prompts(
      tokens_PT=np.array([[0] * missing + ids], np.int32),
      mask_PT=np.array([[False] * missing + [True] * len(ids)]),
      user_mask_PT=np.array([[False] * missing + list(user)]),
      ids_P=np.array([number]), rows=(None,))


def _lines():
  """Prompts, until the input ends; asked for where someone types."""
  asked = sys.stdin.isatty()
  while True:
    if asked:
      print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
      return
    if line.strip():
      yield line.rstrip(os.linesep)
