"""Measures how many programs a minute the verifier of code runs in the jail.

  python tools/bench_sandbox.py [--workers 2] [--programs 200]

Each row is a batch of different programs, with one jail per program and one
process per test. CPU seconds are those of the jails and everything in them; on
an idle machine the rate is about cores / CPU seconds.
"""

import argparse
from concurrent import futures
import resource
import time

from progrpo_jax.rewards import code, sandbox

SUM = "# {}\nprint(sum(map(int, input().split())))"
# Ten thousand steps and a few imports, like the solution of an easy problem.
WORK = """# {}
import collections, heapq, itertools, math, re
a, b = map(int, input().split())
heap = [(i * 7919) % 10007 for i in range(10000)]
heapq.heapify(heap)
counts = collections.Counter(h % 10 for h in heap)
print(a + b if sum(counts.values()) == 10000 else heapq.heappop(heap))
"""


def main() -> None:
  """Prints the table in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--programs", type=int, default=200)
  options = parser.parse_args()
  backend = sandbox.best()
  if not backend.grade:
    raise SystemExit(f"no jail here: {backend.reason}")
  print(f"{backend.name}, grade {backend.grade}; {options.workers} workers\n")
  print(
    "| program | tests | programs a minute | CPU seconds per program |\n"
    "|---|---|---|---|"
  )
  for name, program, tests in (
    ("a sum", SUM, 1),
    ("a sum", SUM, 10),
    ("10,000 steps", WORK, 1),
    ("10,000 steps", WORK, 10),
  ):
    rate, cpu_s = run(program, tests, options.programs, options.workers)
    print(f"| {name} | {tests} | {rate:,.0f} | {cpu_s:.3f} |", flush=True)


def run(
  program: str, tests: int, programs: int, workers: int
) -> tuple[float, float]:
  """Returns (programs a minute, CPU seconds per program)."""
  cases = [{"input": f"{i} 1\n", "output": f"{i + 1}\n"} for i in range(tests)]
  texts = [f"```python\n{program.format(i)}\n```" for i in range(programs)]
  with futures.ThreadPoolExecutor(workers) as threads:
    begun, used = time.monotonic(), busy_s()
    scores = list(
      threads.map(
        lambda text: code.score(text, cases, time_limit_s=60.0), texts
      )
    )
    seconds, used = time.monotonic() - begun, busy_s() - used
  wrong = sum(not score.correct for score in scores)
  if wrong:
    raise SystemExit(f"{wrong} of {programs} right programs were not right")
  return 60 * programs / seconds, used / programs


def busy_s() -> float:
  """Returns the CPU seconds of this process's children that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  main()
