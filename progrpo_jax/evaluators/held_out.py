"""Held-out problems: sampled once, measured by every plug-in.

Samples cost far more than what is read off them, so the evaluator draws them
and each measure (`passk.measure`, `entropy.measure`, ...) reads the same ones.
The same problems and the same random numbers serve every evaluation of a run
and every method beside it: what differs is the policy.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax.devices import hosts, sharding
from progrpo_jax.evaluators import diversity, entropy, passk, rating
from progrpo_jax.evaluators import tolerant as tolerant_lib
from progrpo_jax.models import scoring
from progrpo_jax.rollout import sampler, verify
from progrpo_jax.tasks import base

# Folded into the run's key for all evaluations.
STREAM = 0x6576616C


@dataclasses.dataclass(frozen=True)
class Samples:
  """n verified samples of each of X problems.

  Attributes:
    rows: the problems.
    texts_XN: the samples.
    correct_XN: bool; False where the verifier failed.
    valid_XN: bool, False where the verifier failed.
    entropy_XN: mean entropy over each sample's tokens, in nats.
    length_XN: tokens of each sample.
    tokens_XN: the tokens themselves, without one that ends the sample.
    vocab_size: of the tokenizer.
    tolerant_XN: bool, the verdict that looks past a missed format; None where
      it was not asked for.
  """

  rows: tuple[base.Row, ...]
  texts_XN: tuple[tuple[str, ...], ...]
  correct_XN: np.ndarray
  valid_XN: np.ndarray
  entropy_XN: np.ndarray
  length_XN: np.ndarray
  tokens_XN: tuple[tuple[tuple[int, ...], ...], ...]
  vocab_size: int
  tolerant_XN: np.ndarray | None = None


Measure = Callable[[Samples], Iterator[tuple[str, float]]]
MEASURES: tuple[Measure, ...] = (
    passk.measure, entropy.measure, diversity.measure, rating.measure)


class HeldOut:
  """Evaluates a policy on the problems of one set."""

  def __init__(
      self, name: str, *, model, mesh, tokenizer,
      prompts: Sequence[batch_lib.Prompts], pool,
      settings: sampler.Settings, chunk: int, key,
      measures: Sequence[Measure] = MEASURES, tolerant: bool = False,
      left_out: int = 0, refused: Mapping[str, int] | None = None):
    """Prepares an evaluation.

    Args:
      name: of the set, in metric names.
      model: configuration of the policy.
      mesh: of the devices.
      tokenizer: of the policy.
      prompts: batches of one size; a problem that fills up the last batch
        has a negative id and is left out of all measures.
      pool: verifies.
      settings: how to sample, `num_generations` samples a problem.
      chunk: tokens whose logits may exist at one time.
      key: for all samples.
      measures: read the samples.
      tolerant: give each sample a verdict that looks past a missed format
        too; it costs up to three verifications of each wrong sample.
      left_out: problems of the set whose prompts are too long to be tried.
      refused: why rows of the set's files are no problems -> how many.
    """
    self.name = name
    self.model, self.mesh, self.tokenizer = model, mesh, tokenizer
    self.prompts, self.pool, self.settings = prompts, pool, settings
    # At temperature 0 the entropy is that of the distribution at 1.
    self.dist = scoring.Distribution(
        temperature=settings.temperature or 1.0, chunk=chunk)
    self.key, self.measures, self.tolerant = key, measures, tolerant
    self.left_out, self.refused = left_out, dict(refused or {})

  @property
  def num_problems(self) -> int:
    """Problems that are tried."""
    return sum(int((p.ids_P >= 0).sum()) for p in self.prompts)

  def sample(self, params, progress=lambda: None) -> Samples:
    """Draws and verifies the samples of a policy."""
    parts = []
    for prompts in self.prompts:
      parts.append(self._sample_batch(params, prompts))
      progress()
    return Samples(**{
        f.name: _join([getattr(p, f.name) for p in parts])
        for f in dataclasses.fields(Samples)})

  def run(self, samples: Samples) -> Iterator[tuple[str, float]]:
    """Yields (name, value) of every measure, under `eval/<set>/`."""
    for measure in self.measures:
      for name, value in measure(samples):
        yield f"eval/{self.name}/{name}", value
    yield f"eval/{self.name}/left_out", self.left_out

  def records(self, samples: Samples) -> list[dict]:
    """One record a problem, for the files that people browse."""
    return [
        dict(
            set=self.name, prompt=row.prompt, reference=row.reference,
            completions=[
                self._record(samples, x, n) for n in range(len(texts))])
        for x, (row, texts) in enumerate(zip(samples.rows, samples.texts_XN))]

  def _record(self, samples: Samples, x: int, n: int) -> dict:
    """What is kept of one sample."""
    record = dict(
        text=samples.texts_XN[x][n], correct=bool(samples.correct_XN[x, n]),
        status="ok" if samples.valid_XN[x, n] else "masked")
    if samples.tolerant_XN is not None:
      record["tolerant"] = bool(samples.tolerant_XN[x, n])
    return record

  def _sample_batch(self, params, prompts: batch_lib.Prompts) -> Samples:
    n = self.settings.num_generations
    rollout = sampler.sample(
        self.model, params, prompts, self.key, self.settings, self.mesh)
    sequences = sharding.put_rows(batch_lib.Sequences(
        prompt_NT=prompts.tokens_PT, prompt_mask_NT=prompts.mask_PT,
        tokens_NRT=rollout.tokens_BT.reshape(len(prompts), n, -1),
        mask_NRT=rollout.mask_BT.reshape(len(prompts), n, -1)), self.mesh)
    with jax.set_mesh(self.mesh):
      scores = scoring.score(
          self.model, params, sequences, self.dist, prompts=False)
    mask_XNT = rollout.mask_BT.reshape(len(prompts), n, -1)
    length_XN = mask_XNT.sum(axis=-1)
    entropy_XN = sharding.fetch(scores.entropy_NRT).sum(axis=-1) / np.maximum(
        length_XN, 1)
    # Fillers stand at the end.
    real = np.flatnonzero(prompts.ids_P >= 0)
    rows = prompts.rows[:len(real)]
    texts, _, correct_XN, valid_XN, _, tolerant_XN = verify.join(
        hosts.share_out(
            functools.partial(self._judge, rows, rollout), len(rows)))
    tokens_XNT = np.asarray(rollout.tokens_BT).reshape(mask_XNT.shape)
    ends = self.settings.stop_ids
    return Samples(
        rows=rows, texts_XN=texts, correct_XN=correct_XN, valid_XN=valid_XN,
        entropy_XN=entropy_XN[real], length_XN=length_XN[real],
        tokens_XN=tuple(
            tuple(
                tuple(t for t in tokens_XNT[x, i][mask_XNT[x, i]].tolist()
                      if t not in ends)
                for i in range(n))
            for x in real),
        vocab_size=self.tokenizer.vocab_size, tolerant_XN=tolerant_XN)

  def _judge(self, rows, rollout: batch_lib.Rollout, share: slice):
    """Returns `verify.decode_and_verify` of a share, and tolerant verdicts."""
    judged = verify.decode_and_verify(
        self.pool, self.tokenizer, rows, rollout,
        self.settings.num_generations, share)
    if not self.tolerant:
      return *judged, None
    texts, _, correct_XN, valid_XN, _ = judged
    return *judged, tolerant_lib.verify(
        self.pool, rows[share], texts, correct_XN, valid_XN)


def _join(values: list):
  """One field of all batches, from that of each."""
  first = values[0]
  if isinstance(first, np.ndarray):
    return np.concatenate(values)
  return sum(values, ()) if isinstance(first, tuple) else first
