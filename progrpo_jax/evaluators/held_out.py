"""Held-out problems: sampled once, measured by every plug-in.

Samples cost far more than what is read off them, so the evaluator draws them
and each measure (`passk.measure`, `entropy.measure`, ...) reads the same ones.
The same problems and the same random numbers serve every evaluation of a run
and every method beside it: what differs is the policy.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import data as data_lib
from progrpo_jax import sampler, scoring, sharding
from progrpo_jax.evaluators import diversity, entropy, passk
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
  """

  rows: tuple[base.Row, ...]
  texts_XN: tuple[tuple[str, ...], ...]
  correct_XN: np.ndarray
  valid_XN: np.ndarray
  entropy_XN: np.ndarray
  length_XN: np.ndarray


Measure = Callable[[Samples], Iterator[tuple[str, float]]]
MEASURES: tuple[Measure, ...] = (
    passk.measure, entropy.measure, diversity.measure)


class HeldOut:
  """Evaluates a policy on the problems of one set."""

  def __init__(
      self, name: str, *, model, mesh, tokenizer,
      prompts: Sequence[batch_lib.Prompts], pool,
      settings: sampler.Settings, chunk: int, key,
      measures: Sequence[Measure] = MEASURES):
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
    """
    self.name = name
    self.model, self.mesh, self.tokenizer = model, mesh, tokenizer
    self.prompts, self.pool, self.settings = prompts, pool, settings
    # At temperature 0 the entropy is that of the distribution at 1.
    self.dist = scoring.Distribution(
        temperature=settings.temperature or 1.0, chunk=chunk)
    self.key, self.measures = key, measures

  def sample(self, params, progress=lambda: None) -> Samples:
    """Draws and verifies the samples of a policy."""
    parts = []
    for prompts in self.prompts:
      parts.append(self._sample_batch(params, prompts))
      progress()
    joined = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in dataclasses.fields(Samples) if f.name.endswith("_XN")
        and f.name != "texts_XN"}
    return Samples(
        rows=sum((p.rows for p in parts), ()),
        texts_XN=sum((p.texts_XN for p in parts), ()), **joined)

  def run(self, samples: Samples) -> Iterator[tuple[str, float]]:
    """Yields (name, value) of every measure, under `eval/<set>/`."""
    for measure in self.measures:
      for name, value in measure(samples):
        yield f"eval/{self.name}/{name}", value

  def records(self, samples: Samples) -> list[dict]:
    """One record a problem, for the files that people browse."""
    return [
        dict(
            set=self.name, prompt=row.prompt, reference=row.reference,
            completions=[
                dict(text=t, correct=bool(c)) for t, c in zip(texts, right)])
        for row, texts, right in zip(
            samples.rows, samples.texts_XN, samples.correct_XN)]

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
    entropy_XN = np.asarray(scores.entropy_NRT).sum(axis=-1) / np.maximum(
        length_XN, 1)
    real = np.flatnonzero(prompts.ids_P >= 0)
    rows = tuple(prompts.rows[i] for i in real)
    texts = data_lib.texts(self.tokenizer, rollout, n)
    texts = tuple(texts[i] for i in real)
    _, correct_XN, valid_XN = data_lib.verify(self.pool, rows, texts)
    return Samples(
        rows=rows, texts_XN=texts, correct_XN=correct_XN, valid_XN=valid_XN,
        entropy_XN=entropy_XN[real], length_XN=length_XN[real])
