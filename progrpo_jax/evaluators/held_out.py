"""Held-out problems: sampled once, then read by every measure.

Sampling costs far more than measuring, so the evaluator draws the samples once
and every measure (`passk.measure`, `entropy.measure`, ...) reads the same
ones. Every evaluation of a run, and of other runs of the same key, uses the
same problems and random numbers: only the policy differs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax.devices import hosts
from progrpo_jax.evaluators import diversity, entropy, passk, rating
from progrpo_jax.evaluators import tolerant as tolerant_lib
from progrpo_jax.models import scoring
from progrpo_jax.rollout import decoding, sampler, turns, verify
from progrpo_jax.rollout import measure as measure_lib
from progrpo_jax.tasks import base

# Folded into the run's PRNG key to get the key of its evaluations.
STREAM = 0x6576616C


@dataclasses.dataclass(frozen=True)
class Samples:
  """G verified samples of each of X problems.

  Attributes:
    rows: problems.
    texts_XG: text of each sample.
    correct_XG: bool, the strict verdict; False where the verifier failed.
    valid_XG: bool, False where the verifier failed.
    entropy_XG: mean entropy over the tokens of each sample, in nats.
    length_XG: number of tokens of each sample, including the stop token.
    tokens_XG: tokens of each sample, without stop tokens.
    vocab_size: size of the tokenizer's vocabulary.
    tolerant_XG: bool, the verdict that forgives a wrong format; None if it was
      not computed.
    extra_XG: additions of the user's reward functions to each saved sample.
    logged: (name, value) of the metrics that these functions log.
  """

  rows: tuple[base.Row, ...]
  texts_XG: tuple[tuple[str, ...], ...]
  correct_XG: np.ndarray
  valid_XG: np.ndarray
  entropy_XG: np.ndarray
  length_XG: np.ndarray
  tokens_XG: tuple[tuple[tuple[int, ...], ...], ...]
  vocab_size: int
  tolerant_XG: np.ndarray | None = None
  extra_XG: tuple[tuple[dict, ...], ...] = ()
  logged: tuple[tuple[str, float], ...] = ()

  @functools.cached_property
  def distinct_correct_X(self) -> np.ndarray:
    """Number of different right answers to each problem."""
    return diversity.distinct_counts(self)


Measure = Callable[[Samples], Iterator[tuple[str, float]]]
MEASURES: tuple[Measure, ...] = (
  passk.measure,
  entropy.measure,
  diversity.measure,
  rating.measure,
)


class HeldOut:
  """Evaluates a policy on the problems of one set."""

  def __init__(
    self,
    name: str,
    *,
    model,
    mesh,
    sampling_mesh,
    tokenizer,
    prompts: Sequence[batch_lib.Prompts],
    pool,
    settings: decoding.Settings,
    chunk: int,
    key,
    measures: Sequence[Measure] = MEASURES,
    tolerant: bool = False,
    left_out: int = 0,
    refused: Mapping[str, int] | None = None,
  ):
    """Prepares an evaluation.

    Args:
      name: name of the set, in metric names.
      model: configuration of the policy.
      mesh: mesh of the policy's parameters.
      sampling_mesh: mesh on which responses are drawn, see `sampler.Engine`.
      tokenizer: tokenizer of the policy.
      prompts: batches of equal size; problems that pad the last batch have a
        negative id and are left out of all measures.
      pool: pool of verifiers.
      settings: sampling settings; `num_generations` samples per problem.
      chunk: number of tokens whose logits may exist at the same time.
      key: PRNG key of all samples.
      measures: functions from `Samples` to (name, value) pairs.
      tolerant: whether to add the verdict that forgives a wrong format; it
        costs up to three more verifications of each wrong sample.
      left_out: number of problems of the set whose prompts are too long.
      refused: {reason: number} of the rows of the set's files that are not
        valid problems.
    """
    self.name = name
    self.model, self.mesh, self.tokenizer = model, mesh, tokenizer
    self.sampling_mesh = sampling_mesh
    self.prompts, self.pool, self.settings = prompts, pool, settings
    # At temperature 0 the entropy is measured at temperature 1.
    self.dist = scoring.Distribution(
      temperature=settings.temperature or 1.0, chunk=chunk
    )
    self.key, self.measures, self.tolerant = key, measures, tolerant
    self.left_out, self.refused = left_out, dict(refused or {})

  @property
  def num_problems(self) -> int:
    """Number of problems tried, without padding."""
    return sum(int((p.ids_P >= 0).sum()) for p in self.prompts)

  def sample(
    self, params, progress=lambda: None, before=lambda: None
  ) -> Samples:
    """Draws and verifies the samples of a policy.

    Args:
      params: all parameters of the policy.
      progress: function called after each batch.
      before: function called before each batch and between two calls of
        decoding, which may raise.
    """
    parts = []
    engine = sampler.Engine(self.model, params, self.sampling_mesh, before)
    for prompts in self.prompts:
      before()
      parts.append(self._sample_batch(engine, prompts))
      progress()
    return Samples(
      **{
        f.name: _join([getattr(p, f.name) for p in parts])
        for f in dataclasses.fields(Samples)
      }
    )

  def run(self, samples: Samples) -> Iterator[tuple[str, float]]:
    """Yields (name, value) of every measure, under `eval/<set>/`."""
    for measure in self.measures:
      for name, value in measure(samples):
        yield f"eval/{self.name}/{name}", value
    for name, value in measure_lib.logged(samples.logged).items():
      yield f"eval/{self.name}/{name}", value
    yield f"eval/{self.name}/left_out", self.left_out

  def records(self, samples: Samples) -> list[dict]:
    """Returns one record per problem, as written to the workdir's files."""
    return [
      dict(
        set=self.name,
        prompt=row.prompt,
        reference=row.reference,
        distinct_correct=int(samples.distinct_correct_X[x]),
        completions=[self._record(samples, x, n) for n in range(len(texts))],
      )
      for x, (row, texts) in enumerate(zip(samples.rows, samples.texts_XG))
    ]

  def _record(self, samples: Samples, x: int, n: int) -> dict:
    """Returns the record of sample n of problem x."""
    record = dict(
      text=samples.texts_XG[x][n],
      correct=bool(samples.correct_XG[x, n]),
      status="ok" if samples.valid_XG[x, n] else "masked",
    )
    if samples.tolerant_XG is not None:
      record["tolerant"] = bool(samples.tolerant_XG[x, n])
    if samples.extra_XG and samples.extra_XG[x][n]:
      record["extra"] = samples.extra_XG[x][n]
    return record

  def _sample_batch(
    self, engine: sampler.Engine, prompts: batch_lib.Prompts
  ) -> Samples:
    """Samples, scores and verifies one batch of problems."""
    n = self.settings.num_generations
    rollout, failed_B = turns.sample(
      engine,
      prompts,
      self.key,
      self.settings,
      self.tokenizer,
      turns.TaskReplies(self.pool),
    )
    sequences = batch_lib.Sequences(
      prompt_NT=prompts.tokens_PT,
      prompt_mask_NT=prompts.mask_PT,
      tokens_NRT=rollout.tokens_BT.reshape(len(prompts), n, -1),
      mask_NRT=rollout.mask_BT.reshape(len(prompts), n, -1),
    )
    # The sampler returns no entropies: score the samples.
    with jax.set_mesh(self.mesh):
      scores = scoring.score(
        self.model, engine.params, sequences, self.dist, prompts=0
      )
    mask_XGT = rollout.mask_BT.reshape(len(prompts), n, -1)
    length_XG = mask_XGT.sum(axis=-1)
    entropy_XG = scores.entropy_NRT.sum(axis=-1) / np.maximum(length_XG, 1)
    # Padding problems are at the end of the batch.
    real = np.flatnonzero(prompts.ids_P >= 0)
    rows = prompts.rows[: len(real)]
    # Each host verifies its share of the problems; all get all verdicts.
    verified = verify.join(
      hosts.share_out(
        functools.partial(
          verify.decode_and_verify, self.pool, self.tokenizer, rows, rollout, n
        ),
        len(rows),
      )
    )
    tolerant_XG = self._tolerant(rows, verified)
    valid_XG = verified.valid_PG & ~failed_B.reshape(len(prompts), n)[real]
    if tolerant_XG is not None:
      tolerant_XG = tolerant_XG & valid_XG
    tokens_XGT = np.asarray(rollout.tokens_BT).reshape(mask_XGT.shape)
    ends = self.settings.stop_ids
    return Samples(
      rows=rows,
      texts_XG=verified.texts_PG,
      correct_XG=verified.correct_PG & valid_XG,
      valid_XG=valid_XG,
      entropy_XG=entropy_XG[real],
      length_XG=length_XG[real],
      tokens_XG=tuple(
        tuple(
          tuple(
            t
            for t in tokens_XGT[x, i][mask_XGT[x, i]].tolist()
            if t not in ends
          )
          for i in range(n)
        )
        for x in real
      ),
      vocab_size=self.tokenizer.vocab_size,
      tolerant_XG=tolerant_XG,
      extra_XG=verified.extra_PG,
      logged=verified.logged,
    )

  def _tolerant(self, rows, verified: verify.Verified) -> np.ndarray | None:
    """Verdicts that forgive a wrong format, or None without that option."""
    if not self.tolerant:
      return None

    def judge(share: slice) -> np.ndarray:
      return tolerant_lib.verify(
        self.pool,
        rows[share],
        verified.texts_PG[share],
        verified.correct_PG[share],
        verified.valid_PG[share],
      )

    return np.concatenate(hosts.share_out(judge, len(rows)))


def _join(values: list):
  """Joins one field of `Samples` over batches."""
  first = values[0]
  if isinstance(first, np.ndarray):
    return np.concatenate(values)
  return sum(values, ()) if isinstance(first, tuple) else first
