"""The live view on a terminal and in a log file."""

import io

import pytest
import rich.console

from progrpo_jax.report import live

METRICS = {
  "reward": 0.512,
  "correct": 0.47,
  "entropy": 0.81,
  "kl": 0.0012,
  "perf/tokens_per_second": 2345.6,
  "timing_s/sample": 0.5,
  "timing_s/update": 0.25,
  "timing_s/step": 0.8,
}


def _console(terminal):
  return rich.console.Console(
    file=io.StringIO(), force_terminal=terminal, width=100, color_system=None
  )


def _use(view):
  for step in range(1, 5):
    view.phase("sample")
    view.step(step, {**METRICS, "reward": 0.1 * step})
  view.eval(4, {"eval/countdown/pass@1": 0.4, "eval/countdown/pass@8": 0.75})
  view.message("reference reset at step 4 \x1b[31m")


def test_a_log_gets_plain_lines_without_control_codes():
  console = _console(terminal=False)
  with live.LiveView(10, "grpo", console=console, every_s=0.0) as view:
    _use(view)
  text = console.file.getvalue()
  assert "\x1b" not in text and "\r" not in text
  lines = text.splitlines()
  assert lines[0] == "grpo: 10 steps"
  assert lines[1].startswith("step 1/10  reward 0.100  correct 47.0%")
  assert "tokens/s 2,346" in lines[1] and "left" in lines[1]
  assert "evaluation at step 4: countdown pass@1 0.400  pass@8 0.750" in lines
  assert "reference reset at step 4 ␛[31m" in lines


@pytest.mark.parametrize("terminal", [False, True])
def test_each_reward_function_is_shown(terminal):
  console = _console(terminal)
  values = METRICS | {
    "rewards/sums/mean": 0.4,
    "rewards/sums/close/mean": 0.25,
    "rewards/sums/close/std": 0.125,
    "rewards/sums/short/mean": -0.5,
    "rewards/sums/short/std": 0.0,
  }
  with live.LiveView(10, "grpo", console=console, every_s=0.0) as view:
    view.step(1, values)
  text = console.file.getvalue()
  assert "sums/close 0.250 ± 0.125  sums/short -0.500 ± 0.000" in text


def test_a_terminal_draws_pass_at_k_over_the_evaluations():
  console = _console(terminal=True)
  with live.LiveView(10, "grpo", console=console) as view:
    for step, low, high in ((0, 0.1, 0.8), (4, 0.2, 0.7), (8, 0.3, 0.6)):
      view.step(step, METRICS)
      view.eval(
        step,
        {
          "eval/a/pass@1": low,
          "eval/a/pass@1/low": 0.0,
          "eval/a/pass@8": high,
          "eval/a/pass@16": 0.9,  # above half of the samples
          "eval/a/num_samples": 16,
          "eval/b/pass@1": 0.5,
        },
      )
    console.file.truncate(0)
    console.print(view._render())
  lines = console.file.getvalue().splitlines()
  rows = [line.split() for line in lines if "pass@" in line and "to" in line]
  assert [row[1:6] for row in rows[-2:]] == [
    ["pass@1", "▁▅█", "0.100", "to", "0.300"],
    ["pass@8", "█▄▁", "0.800", "to", "0.600"],
  ]


def test_an_evaluation_says_how_many_problems_it_rests_on():
  console = _console(terminal=False)
  values = {
    "eval/a/pass@1": 0.4,
    "eval/a/pass@1/low": 0.3,
    "eval/a/pass@1/high": 0.5,
    "eval/a/pass@1/num_problems": 64,
    "eval/a/pass@8": 0.75,
    "eval/a/pass@8/num_problems": 63,
    "eval/a/pass@32/num_problems": 40,
    "eval/a/pass@32/at_least": 0.6,
    "eval/a/pass@32/at_most": 0.875,
    "eval/a/num_problems": 64,
    "eval/a/left_out": 12,
  }
  with live.LiveView(10, "grpo", console=console) as view:
    view.eval(4, values)
  assert (
    "evaluation at step 4: a pass@1 0.400  pass@8 0.750 (63 problems)  pass@32 "
    "0.600 to 0.875 (not enough samples)  of 64 problems, 12 left out"
  ) in console.file.getvalue().replace("\n", " ")


def test_a_log_is_not_flooded():
  console = _console(terminal=False)
  with live.LiveView(10, "grpo", console=console, every_s=1e6) as view:
    for step in range(1, 11):
      view.step(step, METRICS)
  lines = console.file.getvalue().splitlines()
  steps = [line.split()[1] for line in lines[1:]]
  assert steps == ["1/10", "10/10"]


@pytest.mark.parametrize(("every_s", "steps"), [(0.0, 1), (0.0, 2), (1e9, 3)])
def test_a_log_has_the_last_step_once(every_s, steps):
  console = _console(terminal=False)
  with live.LiveView(steps, "grpo", console=console, every_s=every_s) as view:
    for step in range(1, steps + 1):
      view.step(step, METRICS)
  lines = console.file.getvalue().splitlines()
  assert sum(f"step {steps}/{steps}" in line for line in lines) == 1


PIPED = """
import os, sys
from progrpo_jax.report import live
read, write = os.pipe()
os.dup2(write, 1)
os.close(read)
with live.LiveView(3, "grpo", every_s=0.0) as view:
  view.step(1, {"reward": 0.5})
  view.message("a line")
with live.progress("warm-up", 2, every_s=0.0) as tick:
  tick()
  tick()
print("gone on", file=sys.stderr)
"""


def test_a_run_goes_on_when_nobody_reads_its_lines_any_more(run_python):
  assert run_python(["-c", PIPED]).stderr == "gone on\n"


def test_a_log_says_once_that_a_phase_compiles():
  console = _console(terminal=False)
  with live.LiveView(10, "grpo", console=console, every_s=1e6) as view:
    for step in (1, 2):
      for name in ("sample", "compiling sample", "sample", "compiling update"):
        view.phase(name)
      view.step(step, METRICS | {"timing_s/compile": 12.3 / step**9})
  lines = console.file.getvalue().splitlines()
  assert lines[1:3] == ["compiling sample …", "compiling update …"]
  assert "12 s compiling" in lines[3] and len(lines) == 5
  assert "compiling" not in lines[4]


def test_a_terminal_shows_numbers_curves_stages_and_events():
  console = _console(terminal=True)
  with live.LiveView(10, "grpo", console=console) as view:
    _use(view)
  text = console.file.getvalue()
  for part in (
    "step 4/10",
    "0.400",
    "47.0%",
    "▁",
    "█",
    "sample 0.50s",
    "pass@8 0.750",
    "reference reset at step 4 ␛[31m",
    "left",
  ):
    assert part in text


def test_a_terminal_shows_the_phase_before_the_first_step():
  console = _console(terminal=True)
  with pytest.raises(KeyboardInterrupt):
    with live.LiveView(10, "grpo", console=console) as view:
      view.phase("compiling sample")
      raise KeyboardInterrupt
  text = console.file.getvalue()
  assert "compiling" in text and "waiting for the first step" in text


def test_time_left_is_of_steps_that_compile_nothing():
  console = _console(terminal=False)

  def step(view, number, seconds, **beside):
    times = dict(step=seconds, compile=0.0) | beside
    view.step(number, {f"timing_s/{k}": v for k, v in times.items()})

  def left():
    return console.file.getvalue().splitlines()[-1].split("left ")[1].strip()

  # A resumed run: ten steps are left, of which it has done none.
  with live.LiveView(110, "x", console=console, every_s=0.0) as view:
    step(view, 101, 620.0, compile=600.0)
    assert left() == "?"
    step(view, 102, 10.0)
    assert left() == "1 min 20 s"
    for number in (103, 104):
      step(view, number, 11.0)
    # The median, not the mean; each fifth step has an evaluation of 50 s.
    step(view, 105, 60.0, evaluate=50.0)
    assert left() == "1 min 42 s"  # 5 x (10.5 + 50 / 5)


def test_numbers_that_are_no_numbers_are_left_out():
  console = _console(terminal=True)
  with live.LiveView(2, "x", console=console) as view:
    view.step(1, {"reward": float("nan"), "entropy": None, "kl": 0.25})
  assert "0.2500" in console.file.getvalue()
  assert "nan" not in console.file.getvalue()


def _judged(level, reason=""):
  return {**METRICS, "collapse/level": level, "collapse/reason": reason}


def test_lines_of_a_log_end_with_what_is_wrong():
  console = _console(terminal=False)
  with live.LiveView(9, "grpo", console=console, every_s=0.0) as view:
    view.step(1, _judged(0))
    view.step(2, _judged(1, "entropy is down to 0.1"))
    view.step(3, METRICS)  # not judged: as it was
    view.step(4, _judged(2, "entropy is down to 0.01"))
    view.step(5, _judged(0))
  lines = console.file.getvalue().splitlines()[1:6]
  assert [line.split("  ")[-1].split()[0] for line in lines] == [
    "left",
    "WARNING",
    "WARNING",
    "COLLAPSE",
    "left",
  ]


def test_a_terminal_shows_the_reason_of_the_last_step_in_colour():
  console = rich.console.Console(
    file=io.StringIO(), force_terminal=True, width=100, color_system="standard"
  )

  def shown(view):
    console.file.seek(0)
    console.file.truncate()
    console.print(view._render())
    return console.file.getvalue()

  view = live.LiveView(9, "grpo", console=console)
  view._start = view._phase_start = live.time.monotonic()
  view._live = True  # draws nothing by itself
  view.step(1, _judged(0))
  assert "▲" not in shown(view) and "\x1b[34m╭" in shown(view)
  view.step(2, _judged(1, "entropy is down to 0.1"))
  assert "\x1b[33m▲ warning  entropy is down to 0.1" in shown(view)
  view.step(3, _judged(2, "entropy is down to 0.01 \x1b[2J"))
  text = shown(view)
  assert "\x1b[1;31m▲ collapse  entropy is down to 0.01 ␛[2J" in text
  assert "\x1b[1;31m╭" in text and "\x1b[2J" not in text
  view.step(4, METRICS)  # not judged: as it was
  assert "▲ collapse" in shown(view)
  view.step(5, _judged(0))
  assert "▲" not in shown(view)


def test_words_among_the_metrics_are_no_numbers():
  console = _console(terminal=True)
  with live.LiveView(2, "x", console=console) as view:
    view.step(1, {"reward": "high", "entropy": 0.25, "collapse/level": "bad"})
    view.eval(1, {"eval/a/pass@1": "none", "eval/a/pass@8": 0.5})
  text = console.file.getvalue()
  assert "0.250" in text and "pass@8 0.500" in text
  assert "high" not in text and "▲" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_ends_with_all_parts_done(terminal):
  console = _console(terminal)
  with live.progress("warm-up", 20, console=console, every_s=1e6) as tick:
    for _ in range(10):
      tick(2, note="loss 0.5")
  text = console.file.getvalue()
  assert "20/20" in text and "loss 0.5" in text
  if not terminal:
    assert text.splitlines() == [
      "warm-up 2/20 loss 0.5",
      "warm-up 20/20 loss 0.5",
    ]


def test_sparkline_spans_the_range():
  assert live.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
  assert live.sparkline([2, 2]) == "▁▁"
  assert live.sparkline([]) == ""
  assert len(live.sparkline(range(1000), width=40)) == 40


def test_duration_reads_as_people_say_it():
  assert live.duration(None) == "?"
  assert live.duration(41.6) == "42 s"
  assert live.duration(185) == "3 min 05 s"
  assert live.duration(7620) == "2 h 07 min"


@pytest.mark.parametrize("terminal", [False, True])
def test_failures_of_verifiers_are_shown_where_there_are_any(terminal):
  console = _console(terminal)
  failures = {
    "verifier/masked": 3,
    "verifier/timeouts": 2,
    "verifier/crashes": 0,
    "verifier/refused": 1,
  }
  with live.LiveView(10, "grpo", console=console, every_s=0.0) as view:
    view.step(1, METRICS | dict.fromkeys(failures, 0))
    assert "verifier" not in console.file.getvalue()
    view.step(2, METRICS | failures)
  said = console.file.getvalue()
  assert "verifier: 3 masked, 2 timeouts, 1 refused" in said
  assert "crashes" not in said


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_step_could_not_learn_from_is_said(terminal):
  console = _console(terminal)
  whole = {
    "dynamic_sampling/filled_frac": 1.0,
    "skipped_updates": 0.0,
    "empty_updates": 0.0,
  }
  with live.LiveView(10, "grpo", console=console, every_s=0.0) as view:
    view.step(1, METRICS | whole)
    assert "batch" not in console.file.getvalue()
    assert "updates" not in console.file.getvalue()
    view.step(
      2,
      METRICS
      | {
        "dynamic_sampling/filled_frac": 0.125,
        "skipped_updates": 0.75,
        "empty_updates": 0.5,
      },
    )
  said = console.file.getvalue()
  assert "batch 12.5% full" in said
  assert "no token to learn from in 50.0% of the updates" in said
  assert "25.0% of the updates not finite" in said
