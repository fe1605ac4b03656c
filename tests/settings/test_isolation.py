"""What a run asks of the machine where its tasks have programs run."""

import pytest

from progrpo_jax import errors
from progrpo_jax.build import stages as build
from progrpo_jax.cli import evaluate
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import sandbox
from progrpo_jax.settings import defaults, isolation
from progrpo_jax.tasks.sets import programs

NONE = sandbox.Backend("", 0, "namespaces: not permitted")


def config(tasks, **rewards):
  c = defaults.get_config()
  c.data.tasks = {
    name: {"weight": 1.0, "options": options} for name, options in tasks.items()
  }
  for key, value in rewards.items():
    c.rewards[key] = value
  return c


@pytest.fixture
def no_jail(monkeypatch):
  monkeypatch.setattr(sandbox, "best", lambda: NONE)


@pytest.mark.parametrize(
  ("tasks", "needed"),
  [
    ({"chain_sum": {}}, False),
    ({"gsm8k": {}, "ifeval": {}}, False),
    ({"chain_sum": {}, "apps": {}}, True),
    ({"deepscaler": {"validation": ("aime24",)}}, False),
    ({"deepscaler": {"validation": ("aime24", "humaneval_plus")}}, True),
    ({"file": {"verifier": programs.VERIFIER}}, True),
    ({"file": {"verifier": "other:score"}}, False),
  ],
)
def test_tasks_that_run_programs(tasks, needed, no_jail):
  c = config(tasks)
  assert isolation.is_needed(c) is needed
  if not needed:
    isolation.check(c)
    return
  with pytest.raises(errors.InputError) as caught:
    isolation.check(c)
  said = str(caught.value)
  assert "not permitted" in said and "bubblewrap" in said
  assert "config.rewards.allow_unsafe_code" in said


def test_a_run_is_refused_before_its_policy_is_read(no_jail, small):
  c = small.config()
  with c.unlocked():
    c.data.tasks = {"apps": {"weight": 1.0, "options": {}}}
  c.model.init_from = "no/such/policy"
  with pytest.raises(errors.InputError, match="allow_unsafe_code"):
    build.make_setup(c)
  with pytest.raises(errors.InputError, match="allow_unsafe_code"):
    evaluate.start(c, None)


def test_unsafe_running_has_to_be_asked_for(no_jail):
  assert isolation.options(config({})) == {}
  c = config({"apps": {}}, allow_unsafe_code=True)
  isolation.check(c)
  row = ("```python\nprint(input())\n```", [{"input": "1", "output": "1"}])
  found = {}
  for name, options in (("asked", isolation.options(c)), ("not", None)):
    with pools.Pool(workers=1, options=options) as pool:
      item = pools.Item("tests.test_isolation:score", *row, {})
      found[name] = pool.score([item._replace(function=programs.VERIFIER)])[0]
      # Another verifier is given nothing of it.
      assert pool.score([item])[0].reward == 0.0
  assert found["asked"].correct


def score(completion, reference, **meta):
  return (float(len(meta)), False, "ok")


@pytest.mark.parametrize(
  ("tasks", "deadline", "least", "key"),
  [
    ({"apps": {}}, 6.9, 7, "config.data.tasks.apps.options"),
    ({"humaneval_plus": {}}, 9.0, 10, "tasks.humaneval_plus.options"),
    (
      {"apps": {"verifier_options": {"time_limit_s": 20}}},
      10.0,
      22,
      "apps.options.verifier_options.time_limit_s (20)",
    ),
    ({"file": {"verifier": programs.VERIFIER}}, 7.0, 8, "tasks.file"),
    (
      {"deepscaler": {"validation": ("livecodebench",)}},
      9.9,
      10,
      "livecodebench, held out by deepscaler",
    ),
  ],
)
def test_time_limits_fit_the_deadline(tasks, deadline, least, key, monkeypatch):
  monkeypatch.setattr(sandbox, "best", lambda: sandbox.Backend("namespaces", 3))
  with pytest.raises(errors.InputError) as caught:
    isolation.check(config(tasks, deadline_s=deadline))
  said = str(caught.value)
  assert f"config.rewards.deadline_s = {deadline:g}" in said
  assert f"at least {least}" in said and key in said
  isolation.check(config(tasks, deadline_s=float(least)))


def test_a_jail_that_is_too_slow_is_no_refusal(monkeypatch):
  def slow():
    raise sandbox.NoAnswer("the jail does not answer")

  monkeypatch.setattr(sandbox, "best", slow)
  with pytest.raises(errors.InputError, match="very busy.*Try again"):
    isolation.check(config({"apps": {}}))
  assert isolation.describe() == "not known (the jail does not answer)"


@pytest.mark.parametrize(
  ("backend", "said"),
  [
    (NONE, "none (namespaces: not permitted)"),
    (sandbox.Backend("bubblewrap", 2), "grade 2: namespaces (bubblewrap)"),
    (
      sandbox.Backend("namespaces", 3),
      "grade 3: namespaces and a filter of system calls (namespaces)",
    ),
  ],
)
def test_isolation_in_a_line(backend, said, monkeypatch):
  monkeypatch.setattr(sandbox, "best", lambda: backend)
  assert isolation.describe() == said
