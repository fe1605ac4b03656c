"""`progrpo report`: one self-contained HTML page of a run."""

from progrpo_jax import ranges
from progrpo_jax.cli import arguments
from progrpo_jax.report import html
from progrpo_jax.storage import outputs


def run(argv):
  """Writes the page and prints its path; returns the exit code."""
  parser = arguments.plain_parser(
    "progrpo report", "Write the HTML page of one run."
  )
  parser.add(
    "--workdir",
    ranges.Place(empty=False),
    required=True,
    help="workdir of the run",
  )
  parser.add(
    "--output",
    ranges.Place(empty=False),
    help="file of the page (default: report.html in the workdir)",
  )
  args = parser.parse_args(argv)
  if args.output:
    outputs.check(args.output, "--output")
  print(f"wrote {html.write_report(args.workdir, args.output)}")
  return 0
