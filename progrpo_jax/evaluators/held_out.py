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
from progrpo_jax.evaluators import samples as samples_lib
from progrpo_jax.evaluators import tolerant as tolerant_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import scoring
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import decoding, sampler, turns, verify
from progrpo_jax.rollout import measure as measure_lib
from progrpo_jax.text import tokenizer as tokenizer_lib

# Folded into the run's PRNG key to get the key of its evaluations.
STREAM = 0x6576616C

Measure = Callable[[samples_lib.Samples], Iterator[tuple[str, float]]]
MEASURES: tuple[Measure, ...] = (
  passk.measure,
  entropy.measure,
  diversity.measure,
  rating.measure,
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the evaluations of all sets have in common.

  Attributes:
    model: configuration of the policy.
    mesh: mesh of the policy's parameters.
    sampling_mesh: mesh on which responses are drawn, see `sampler.Engine`.
    tokenizer: tokenizer of the policy.
    pool: pool of verifiers.
    sampling: sampling settings; `num_generations` samples per problem.
    chunk: number of tokens whose logits may exist at the same time.
    key: PRNG key of all samples.
    measures: functions from `Samples` to (name, value) pairs.
    tolerant: whether to add the verdict that forgives a wrong format; it costs
      up to three more verifications of each wrong sample.
  """

  model: model_config.ModelConfig
  mesh: jax.sharding.Mesh
  sampling_mesh: jax.sharding.Mesh
  tokenizer: tokenizer_lib.Tokenizer
  pool: pool_lib.Pool
  sampling: decoding.Settings
  chunk: int
  key: jax.Array
  measures: Sequence[Measure] = MEASURES
  tolerant: bool = False


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Evaluates a policy on the problems of one set.

  Attributes:
    name: name of the set, in metric names.
    settings: policy, sampling and measures, those of all sets.
    prompts: batches of equal size; problems that pad the last batch have a
      negative id and are left out of all measures.
    left_out: number of problems of the set whose prompts are too long.
    refused: {reason: number} of the rows of the set's files that are not valid
      problems.
  """

  name: str
  settings: Settings
  prompts: Sequence[batch_lib.Prompts]
  left_out: int = 0
  refused: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @property
  def num_problems(self) -> int:
    """Number of problems tried, without padding."""
    return sum(int((p.ids_P >= 0).sum()) for p in self.prompts)

  def sample(
    self, params, progress=lambda: None, before=lambda: None
  ) -> samples_lib.Samples:
    """Draws and verifies the samples of a policy.

    Args:
      params: all parameters of the policy.
      progress: function called after each batch.
      before: function called before each batch and between two calls of
        decoding, which may raise.
    """
    parts = []
    engine = sampler.Engine(
      self.settings.model, params, self.settings.sampling_mesh, before
    )
    for prompts in self.prompts:
      before()
      parts.append(self._sample_batch(engine, prompts))
      progress()
    return samples_lib.Samples(
      **{
        f.name: _join([getattr(p, f.name) for p in parts])
        for f in dataclasses.fields(samples_lib.Samples)
      }
    )

  def run(self, samples: samples_lib.Samples) -> Iterator[tuple[str, float]]:
    """Yields (name, value) of every measure, under `eval/<set>/`."""
    for measure in self.settings.measures:
      for name, value in measure(samples):
        yield f"eval/{self.name}/{name}", value
    for name, value in measure_lib.logged(samples.logged).items():
      yield f"eval/{self.name}/{name}", value
    yield f"eval/{self.name}/left_out", self.left_out

  def records(self, samples: samples_lib.Samples) -> list[dict]:
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

  def _record(self, samples: samples_lib.Samples, x: int, n: int) -> dict:
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
  ) -> samples_lib.Samples:
    """Samples, scores and verifies one batch of problems."""
    settings = self.settings
    n = settings.sampling.num_generations
    rollout, failed_B = turns.sample(
      engine,
      prompts,
      settings.key,
      settings.sampling,
      settings.tokenizer,
      turns.TaskReplies(settings.pool),
    )
    sequences = batch_lib.Sequences(
      prompt_NT=prompts.tokens_PT,
      prompt_mask_NT=prompts.mask_PT,
      tokens_NRT=rollout.tokens_BT.reshape(len(prompts), n, -1),
      mask_NRT=rollout.mask_BT.reshape(len(prompts), n, -1),
    )
    # The sampler returns no entropies: score the samples. At temperature 0 the
    # entropy is measured at temperature 1.
    dist = scoring.Distribution(
      temperature=settings.sampling.temperature or 1.0, chunk=settings.chunk
    )
    with jax.set_mesh(settings.mesh):
      scores = scoring.score(
        settings.model, engine.params, sequences, dist, prompt_stride=0
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
          verify.decode_and_verify,
          settings.pool,
          settings.tokenizer,
          rows,
          rollout,
          n,
        ),
        len(rows),
      )
    )
    tolerant_XG = self._tolerant(rows, verified)
    valid_XG = verified.valid_PG & ~failed_B.reshape(len(prompts), n)[real]
    correct_XG = verified.correct_PG & valid_XG
    if tolerant_XG is not None:
      tolerant_XG = tolerant_XG & valid_XG
    tokens_XGT = np.asarray(rollout.tokens_BT).reshape(mask_XGT.shape)
    ends = settings.sampling.stop_ids
    return samples_lib.Samples(
      rows=rows,
      texts_XG=verified.texts_PG,
      correct_XG=correct_XG,
      valid_XG=valid_XG,
      distinct_correct_X=diversity.distinct_counts(
        rows, verified.texts_PG, correct_XG
      ),
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
      vocab_size=settings.tokenizer.vocab_size,
      tolerant_XG=tolerant_XG,
      extra_XG=verified.extra_PG,
      logged=verified.logged,
    )

  def _tolerant(self, rows, verified: verify.Verified) -> np.ndarray | None:
    """Verdicts that forgive a wrong format, or None without that option."""
    if not self.settings.tolerant:
      return None

    def judge(share: slice) -> np.ndarray:
      return tolerant_lib.verify(
        self.settings.pool,
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
