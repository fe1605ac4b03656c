"""`progrpo export`: a checkpoint as a Hugging Face directory, or on the hub."""

import os
from typing import Any

import ml_collections

from progrpo_jax import errors, places, ranges
from progrpo_jax import run as run_lib
from progrpo_jax.build import stages as build
from progrpo_jax.cli import arguments
from progrpo_jax.devices import compilation, hosts
from progrpo_jax.models import hf
from progrpo_jax.report import card
from progrpo_jax.settings import files
from progrpo_jax.storage import hub, hub_names, metrics, outputs
from progrpo_jax.storage import policy as policy_lib


def run(argv: list[str]) -> int:
  """Exports; returns the exit code."""
  parser = arguments.parser(
    "export",
    "Write a policy as a directory that transformers and vLLM "
    "load: safetensors, config and tokenizer; of a run with a model card, "
    "README.md. --push uploads it to the Hugging Face hub.",
  )
  parser.add(
    "--output",
    ranges.Place(empty=False),
    required=True,
    help="directory to write",
  )
  parser.add_argument(
    "--adapters",
    action="store_true",
    help="for a run with LoRA: write the adapters alone, in PEFT's format, "
    "instead of a model with the adapters merged into its weights",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    help="type of the weights (default: the config's model.dtype, in which the "
    "policy computes; of a directory that is no run's, that of its weights)",
  )
  parser.add(
    "--push",
    ranges.Text(None, also=(None,), empty=False),
    metavar="OWNER/NAME",
    help="upload the directory to this repository of the Hugging Face hub, "
    "which is made, private, if there is none; needs a login (`hf auth login`)",
  )
  parser.add_argument(
    "--public",
    action="store_true",
    help="with --push: make a new repository public",
  )
  c, args = arguments.parse_policy(parser, argv, required=True)
  _check_push(args)
  places.check_output("--output", args.output)
  outputs.check(args.output, "--output")
  _check_sources(args)
  compilation.keep()
  mesh = build.make_mesh(c)
  if args.adapters:
    config, adapters, base, step = policy_lib.load_adapters(args.policy, mesh)
    base, revision = hub_names.split(base) or (base, None)
    hf.save_adapters(args.output, config, adapters, base, revision)
  else:
    known = args.config is not None or files.of_run(args.policy) is not None
    # Each tensor is converted as it is read.
    policy = build.load_policy(
      c, mesh, stored=args.dtype or (c.model.dtype if known else None)
    )
    step = policy.step
    hf.save(
      args.output,
      policy.config,
      policy.params,
      policy.tokenizer,
      sampling=_sampling(c) if known else None,
    )
  if hosts.is_first():
    _finish(args, step)
  return 0


def _sampling(c: ml_collections.ConfigDict) -> dict[str, Any]:
  """How the policy of a config draws, by names of generation_config.json."""
  return dict(
    do_sample=True,
    temperature=c.sampling.temperature,
    top_p=c.sampling.top_p,
    top_k=c.sampling.top_k,
  )


def _check_sources(args) -> None:
  """Refuses to write over what the policy is read from.

  Raises:
    InputError: --output is the policy itself, or the one that its run began at.
  """
  sources = {"the policy itself": args.policy}
  workdir = policy_lib.run_of(args.policy)
  if workdir:
    began = run_lib.load_run(workdir).config.model.init_from
    sources["what the run began at, its config.model.init_from"] = began
  for what, source in sources.items():
    if source and _is_same(source, args.output):
      raise errors.InputError(
        f"--output {args.output} is {what}, which would be lost: name another "
        "directory"
      )


def _is_same(a: str, b: str) -> bool:
  """Returns whether two places are one."""
  if places.is_remote(a) or places.is_remote(b):
    return a.rstrip("/") == b.rstrip("/")
  return os.path.realpath(a) == os.path.realpath(b)


def _check_push(args) -> None:
  """Refuses an upload that cannot succeed, before anything is loaded.

  Raises:
    InputError: nobody is logged in, or the name is none of a repository.
  """
  if not args.push:
    if args.public:
      raise errors.InputError("--public needs --push")
    return
  if places.is_remote(args.output):
    raise errors.InputError(
      f"--push uploads from this machine: --output {args.output} must be a "
      "local directory"
    )
  hub.check_push(args.push)


def _finish(args, step: int | None) -> None:
  """Writes the model card of a run, and uploads the directory if asked to.

  Args:
    args: arguments of the command.
    step: step of the run's checkpoint that was read.
  """
  subject = f"the policy {args.policy}"
  workdir = policy_lib.run_of(args.policy)
  if workdir:
    exported = card.Export(
      run=metrics.load(workdir, require_metrics=False, damage=[]),
      step=step,
      name=args.push or args.output,
      adapters=args.adapters,
    )
    places.write(places.place(args.output) / card.NAME, card.text(exported))
    subject = card.title(exported)
  print(f"wrote {args.output}")
  if args.push:
    message = f"{subject}, exported by progrpo_jax {card.version()}"
    address = hub.push(
      args.output, args.push, private=not args.public, message=message
    )
    print(f"uploaded to {address}")
