"""`progrpo report`: one self-contained HTML page of a run."""

import argparse

from progrpo_jax.report import html


def run(argv):
  """Writes the page and says where; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="progrpo report", description="Write the HTML page of one run."
  )
  parser.add_argument("--workdir", required=True, help="the run's workdir")
  parser.add_argument(
    "--output", help="the page to write (default: report.html in the workdir)"
  )
  args = parser.parse_args(argv)
  print(f"wrote {html.write_report(args.workdir, args.output)}")
  return 0
