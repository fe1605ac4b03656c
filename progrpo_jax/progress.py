"""What a run knows of itself besides its parameters, and how it is watched."""

import contextlib
import dataclasses
import time
from typing import Any, Protocol

import jax

from progrpo_jax import errors
from progrpo_jax.devices import hosts
from progrpo_jax.rollout import groups as groups_lib


class Diverged(errors.RunError):
  """Too many updates in a row were not finite."""


class Preempted(Exception):
  """The run was asked to stop; its last state is to be saved."""


class View(Protocol):
  """What shows a run to people while it goes on."""

  def phase(self, name: str) -> None:
    """A stage of a step begins."""

  def step(self, step: int, metrics: dict[str, float]) -> None:
    """A step is done."""

  def eval(self, step: int, metrics: dict[str, float]) -> None:
    """An evaluation is done."""

  def message(self, text: str) -> None:
    """Something worth a line happened."""


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a run knows of itself besides its parameters.

  Attributes:
    step: steps done.
    position: prompts drawn.
    ref_step: step whose checkpoint is the reference.
    resets: how often the reference was reset.
    num_tokens: response tokens sampled.
    scores: (step, watched validation score) since the last reset.
    kls: (step, KL to the reference) since the last reset.
    kl_shares: (step, share of the KL in the gradient) since the last reset.
    beta: weight of the KL, if it adapts; None until it has.
    entropy_coef: weight of the entropy, if it adapts; None until it has.
    recent: logged metrics of the last steps, for `algos/collapse.py`.
    evals: pass@k of every evaluation, likewise.
    surplus: groups carried over to the next step, or None.
  """

  step: int = 0
  position: int = 0
  ref_step: int = 0
  resets: int = 0
  num_tokens: int = 0
  scores: tuple[tuple[int, float], ...] = ()
  kls: tuple[tuple[int, float], ...] = ()
  kl_shares: tuple[tuple[int, float], ...] = ()
  beta: float | None = None
  entropy_coef: float | None = None
  recent: tuple[dict[str, float], ...] = ()
  evals: tuple[dict[str, float], ...] = ()
  surplus: groups_lib.Groups | None = None

  def to_meta(self) -> dict[str, Any]:
    """The JSON part; the surplus is saved as arrays."""
    return {
        f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        if f.name != "surplus"}

  @classmethod
  def from_meta(cls, meta, surplus) -> "Progress":
    """The inverse of `to_meta`."""
    known = {f.name for f in dataclasses.fields(cls)} - {"surplus"}
    values = {k: v for k, v in meta.items() if k in known}
    for name in ("scores", "kls", "kl_shares"):
      values[name] = tuple(
          (int(s), float(v)) for s, v in values.get(name, ()))
    for name in ("recent", "evals"):
      values[name] = tuple(values.get(name, ()))
    return cls(**values, surplus=surplus)


class Clock:
  """Names the stages of a step, times them, and lets a run stop early."""

  def __init__(self, view: View):
    self.view = view
    self.asked_to_stop = False
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def stage(self, name: str):
    """A stage; its seconds are logged as timing_s/<name>."""
    self.view.phase(name)
    start = time.perf_counter()
    with jax.profiler.TraceAnnotation(name):
      yield
    self.seconds[name] = (
        self.seconds.get(name, 0.0) + time.perf_counter() - start)

  def may_stop(self) -> None:
    """Called where nothing of a step has been applied yet, on every host.

    Raises:
      Preempted: someone asked the run to stop, here or on another host.
    """
    if hosts.any_of(self.asked_to_stop):
      raise Preempted

  def take(self) -> dict[str, float]:
    """Seconds of the stages since the last call, and of all together."""
    seconds, self.seconds = self.seconds, {}
    seconds["step"] = sum(seconds.values())
    return {f"timing_s/{name}": s for name, s in seconds.items()}
