"""`progrpo export`: a checkpoint as a Hugging Face directory."""

import jax

from progrpo_jax import places, ranges
from progrpo_jax.build import stages as build
from progrpo_jax.cli import arguments
from progrpo_jax.devices import compilation
from progrpo_jax.models import hf
from progrpo_jax.storage import policy as policy_lib


def run(argv: list[str]) -> int:
  """Exports; returns the exit code."""
  parser = arguments.parser(
    "export",
    "Write a policy as a directory that transformers and vLLM "
    "load: safetensors, config and tokenizer.",
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
    "--dtype", choices=("float32", "bfloat16"), default="float32"
  )
  c, args = arguments.parse_policy(parser, argv, required=True)
  places.check_output("--output", args.output)
  compilation.keep()
  mesh = build.make_mesh(c)
  if args.adapters:
    hf.save_adapters(args.output, *policy_lib.load_adapters(args.policy, mesh))
    print(f"wrote {args.output}")
    return 0
  policy = build.load_policy(c, mesh)
  params = policy.params  # float32 masters
  if args.dtype != "float32":
    params = jax.tree.map(lambda x: x.astype(args.dtype), params)
  hf.save(args.output, policy.config, params, policy.tokenizer)
  print(f"wrote {args.output}")
  return 0
