"""pass@k: the probability that at least one of k samples is correct.

Computed on the host in numpy float64, once per evaluation: the estimates are
ratios of binomials for n in the hundreds.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from progrpo_jax.evaluators import intervals
from progrpo_jax.evaluators import samples as samples_lib

# {problem: (samples with a verdict, correct samples)}; (0, 0) where the
# verifier failed on every sample.
Counts = Mapping[Hashable, tuple[int, int]]

# Smallest share of a set's problems whose mean stands for the set. Verifiers
# fail more often on hard problems, so a mean over fewer problems is biased.
ENOUGH = 0.98


def pass_at_k(n, c, k) -> np.ndarray:
  """Unbiased estimate of pass@k from n samples of which c are correct.

  1 - C(n - c, k) / C(n, k), computed as 1 - prod_{j < k} (n - c - j) / (n - j),
  which cannot overflow; exactly 1 if fewer than k samples are wrong. (The
  simpler 1 - (1 - c/n)^k is biased downwards.)

  See "Evaluating Large Language Models Trained on Code"
  (https://arxiv.org/abs/2107.03374), eq. 1.

  Args:
    n: number of samples.
    c: number of correct samples.
    k: number of samples that may be tried. n, c and k are broadcast.

  Returns:
    float64 of the broadcast shape, not averaged over problems.

  Raises:
    ValueError: not 1 <= k <= n or not 0 <= c <= n.
  """
  n, c, k = np.broadcast_arrays(n, c, k)
  if np.any((k < 1) | (k > n)):
    raise ValueError(f"pass@k needs 1 <= k <= n, got k={k} with n={n}")
  if np.any((c < 0) | (c > n)):
    raise ValueError(f"pass@k needs 0 <= c <= n, got c={c} with n={n}")
  j = np.arange(np.max(k, initial=0))
  n, c, k = n[..., None], c[..., None], k[..., None]
  # If k > n - c, the factor at j = n - c is 0 and so is the product. The
  # maximum avoids dividing by 0 at j >= n, where factors are not used.
  factors = np.where(j < k, (n - c - j) / np.maximum(n - j, 1), 1.0)
  return 1.0 - np.prod(factors, axis=-1)


def powers(n: int) -> list[int]:
  """Returns the k reported for n samples: 1, 2, 4, ... up to n."""
  return [2**i for i in range(n.bit_length())] if n > 0 else []


def curve(n_X, c_X) -> np.ndarray:
  """pass@k of each problem for k = 1, 2, ... up to the largest n.

  The same estimates as `pass_at_k`, from one running product. For k above n / 2
  they rest on few independent draws; k = n is a single draw.

  Args:
    n_X: number of samples, one for all problems or one per problem.
    c_X: number of correct samples of each problem.

  Returns:
    float64 [X, K]; column k - 1 is pass@k, NaN where a problem has fewer
    than k samples.

  Raises:
    ValueError: there are no problems or samples, or not 0 <= c <= n.
  """
  c_X = np.asarray(c_X)
  if c_X.ndim != 1 or not c_X.size:
    raise ValueError(f"c_X takes one count per problem, got shape {c_X.shape}")
  n_X = np.broadcast_to(n_X, c_X.shape)
  if n_X.max() < 1 or np.any((c_X < 0) | (c_X > n_X)):
    raise ValueError(
      f"pass@k needs 0 <= c <= n and a sample, got c={c_X} with n={n_X}"
    )
  # Factor j is the chance that draw j + 1 is wrong if all before it were:
  # `wrong` of the `left` samples.
  j = np.arange(n_X.max())
  left_XK = n_X[:, None] - j
  wrong_XK = np.maximum(left_XK - c_X[:, None], 0)
  values_XK = 1.0 - np.cumprod(wrong_XK / np.maximum(left_XK, 1), axis=1)
  return np.where(left_XK > 0, values_XK, np.nan)


def histogram(n_X, c_X, bins: int = 10) -> np.ndarray:
  """Histogram of problems by pass@1, with bins of equal width over [0, 1].

  A bin includes its lower end; the last bin also includes 1.

  Args:
    n_X: number of samples, one for all problems or one per problem, at least
      1.
    c_X: number of correct samples of each problem.
    bins: number of bins.

  Returns:
    int [bins], number of problems in each bin.

  Raises:
    ValueError: `bins` is below 1, or not 0 <= c <= n with n >= 1.
  """
  n_X, c_X = np.broadcast_arrays(n_X, c_X)
  if bins < 1:
    raise ValueError(f"a histogram needs at least 1 bin, got {bins}")
  if np.any(n_X < 1) or np.any((c_X < 0) | (c_X > n_X)):
    raise ValueError(
      f"pass@1 needs 0 <= c <= n and n >= 1, got c={c_X} with n={n_X}"
    )
  # Integer arithmetic: 3 of 10 must not land beside 0.3 by rounding.
  where_X = np.minimum(c_X * bins // n_X, bins - 1)
  return np.bincount(where_X.ravel(), minlength=bins)


def bound(pass1_X, k, *, n=None) -> np.ndarray:
  """Upper bound on the mean pass@k from the mean and variance of pass@1.

  E[pass@k] <= 1 - ((1 - E rho)^2 + Var rho)^(k/2), with rho the pass@1 of a
  problem; equality at k = 2. The bound is low if the variance is large: a
  policy that is certain on every problem, correct or not, gains little from
  sampling.

  See "Assessing Diversity Collapse in Reasoning" by Dang et al., quoted as
  eq. 5 of "ProRL" (https://arxiv.org/abs/2505.24864). By Jensen's inequality
  it holds for k >= 2 only; at k = 1 the inequality is reversed.

  Args:
    pass1_X: pass@1 of each problem.
    k: number of samples, >= 2; an array gives one bound per k.
    n: number of samples behind each pass@1 (one for all problems or one per
      problem); None if pass@1 is exact. Estimates vary by rho (1 - rho) / n
      more than the true values, on average; the unbiased estimate of this, the
      mean of c (n - c) / (n^2 (n - 1)), is subtracted from the variance, down
      to 0.

  Returns:
    float64 of the shape of k.

  Raises:
    ValueError: k < 2, n < 2, or `pass1_X` is not one value in [0, 1] per
      problem.
  """
  rho_X = np.asarray(pass1_X, np.float64)
  k = np.asarray(k)
  if np.any(k < 2):
    raise ValueError(f"the bound holds for k >= 2 only, got k={k}")
  if rho_X.ndim != 1 or not rho_X.size:
    raise ValueError(
      f"pass1_X takes one value per problem, got shape {rho_X.shape}"
    )
  if not np.all((rho_X >= 0) & (rho_X <= 1)):
    raise ValueError("pass1_X holds values outside [0, 1]")
  variance = rho_X.var()
  if n is not None:
    n = np.asarray(n)
    if np.any(n < 2):
      raise ValueError(f"the correction needs n >= 2 samples, got n={n}")
    # c (n - c) / (n^2 (n - 1)) with c = n rho.
    variance = max(variance - np.mean(rho_X * (1 - rho_X) / (n - 1)), 0.0)
  return 1.0 - ((1.0 - rho_X.mean()) ** 2 + variance) ** (k / 2)


def bound_from_pass2(pass2: float, k) -> np.ndarray:
  """The bound of `bound`, from the mean pass@2 alone.

  (1 - E rho)^2 + Var rho = E (1 - rho)^2 = 1 - E pass@2, so the bound is
  1 - (1 - pass@2)^(k/2). With the unbiased pass@2 of n samples the sampling
  noise in the variance is corrected for. A measured pass@k may still lie above
  the bound, by the noise of both.

  Args:
    pass2: mean pass@2 over problems.
    k: number of samples, >= 2; an array gives one bound per k.

  Returns:
    float64 of the shape of k.

  Raises:
    ValueError: k < 2, or `pass2` is outside [0, 1].
  """
  k = np.asarray(k)
  if np.any(k < 2):
    raise ValueError(f"the bound holds for k >= 2 only, got k={k}")
  if not 0 <= pass2 <= 1:
    raise ValueError(f"pass@2 must lie in [0, 1], got {pass2}")
  return 1.0 - (1.0 - pass2) ** (k / 2)


def bootstrap(
  values_X, *, resamples: int = 2000, seed: int, level: float = 0.95
) -> tuple[float, float, float]:
  """Mean over problems with a bootstrap interval, for unbounded values.

  Problems are resampled, not samples: the interval says how far the mean would
  move on other problems of the same kind. For values in [0, 1], such as
  pass@k, use `intervals.mean`, which is also valid near 0 and 1.

  Args:
    values_X: one value per problem, such as its number of different correct
      answers.
    resamples: number of bootstrap resamples.
    seed: seed of the resampling.
    level: confidence level of the percentile interval.

  Returns:
    (mean, low, high).

  Raises:
    ValueError: there are no problems, values are not finite, or the level is
      outside (0, 1).
  """
  values_X = np.asarray(values_X, np.float64)
  if values_X.ndim != 1 or not values_X.size:
    raise ValueError(
      f"bootstrap takes one value per problem, got shape {values_X.shape}"
    )
  if not np.all(np.isfinite(values_X)):
    raise ValueError("bootstrap got values that are not finite")
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1), got {level}")
  generator = np.random.default_rng(seed)
  size = values_X.size
  # One resample at a time: all at once would need [resamples, X] indices.
  means = [
    values_X[generator.integers(size, size=size)].mean()
    for _ in range(resamples)
  ]
  tail = (1 - level) / 2
  low, high = np.quantile(means, [tail, 1 - tail])
  return float(values_X.mean()), float(low), float(high)


def per_problem(counts: Counts, k: int) -> dict[Hashable, float]:
  """pass@k of each problem that has at least k samples.

  Args:
    counts: {problem: (samples, correct samples)}.
    k: number of samples that may be tried.

  Returns:
    {problem: estimate}, in the order of `counts`.
  """
  enough = {name: nc for name, nc in counts.items() if nc[0] >= k}
  if not enough:
    return {}
  n_X, c_X = np.array(list(enough.values())).T
  return dict(zip(enough, pass_at_k(n_X, c_X, k).tolist()))


def mean_of(runs: Sequence[Mapping[Hashable, float]]) -> dict[Hashable, float]:
  """Mean over runs (seeds) for each problem that every run has.

  Args:
    runs: {problem: value} of each run, at least one.

  Returns:
    {problem: mean value}, in the order of the first run.
  """
  shared = [name for name in runs[0] if all(name in run for run in runs)]
  return {name: float(np.mean([run[name] for run in runs])) for name in shared}


def difference(
  a: Mapping[Hashable, float],
  b: Mapping[Hashable, float],
  *,
  level: float = 0.95,
) -> intervals.Interval:
  """Mean of a - b over shared problems; see `intervals.difference`.

  Problems are matched by name; problems of only one run are left out.

  Args:
    a: {problem: value} of one run, such as pass@k from `per_problem`.
    b: {problem: value} of the other run.
    level: confidence level of the interval.

  Returns:
    (mean difference, low, high).

  Raises:
    ValueError: no problem is in both, or a value is outside [0, 1].
  """
  shared = sorted((name for name in a if name in b), key=repr)
  if not shared:
    raise ValueError(
      f"no problem is in both: {len(a)} in one and {len(b)} in the other"
    )
  return intervals.difference(
    [a[name] for name in shared], [b[name] for name in shared], level=level
  )


def measure(samples: samples_lib.Samples) -> Iterator[tuple[str, float]]:
  """Measures pass@k of held-out samples for k = 1, 2, 4, ... up to n.

  Samples on which the verifier failed are masked; a problem takes part if it
  has at least k samples left. Masking is not random: long programs and odd
  answers are masked more often, and they come from hard problems. If fewer
  than `ENOUGH` of the problems take part, two bounds replace pass@k.

  Args:
    samples: held-out samples.

  Yields:
    For each k `pass@k/num_problems`, the number of problems that take part,
    and either `pass@k` with its interval `pass@k/low` and `pass@k/high`, or
    the bounds `pass@k/at_least` and `pass@k/at_most`: means over all problems
    with the masked samples of problems that lack samples counted as wrong and
    as correct. With tolerant verdicts, the same names under `tolerant/`. Then
    `num_problems` and `num_samples`, the numbers tried.
  """
  yield from _measure(samples.correct_XG, samples.valid_XG)
  if samples.tolerant_XG is not None:
    for name, value in _measure(samples.tolerant_XG, samples.valid_XG):
      yield f"tolerant/{name}", value
  yield "num_problems", len(samples.rows)
  yield "num_samples", samples.correct_XG.shape[1]


def _measure(correct_XG, valid_XG) -> Iterator[tuple[str, float]]:
  """Yields pass@k of one verdict with its interval, or its bounds."""
  valid_XG = np.asarray(valid_XG, bool)
  correct_X = (correct_XG & valid_XG).sum(axis=1)
  valid_X, number = valid_XG.sum(axis=1), valid_XG.shape[1]
  for k in powers(number):
    takes_part = valid_X >= k
    yield f"pass@{k}/num_problems", int(takes_part.sum())
    if is_enough(takes_part.sum(), len(takes_part)):
      mean, low, high = intervals.mean(
        pass_at_k(valid_X[takes_part], correct_X[takes_part], k)
      )
      yield f"pass@{k}", mean
      yield f"pass@{k}/low", low
      yield f"pass@{k}/high", high
      continue
    # Problems with k samples keep theirs; the others count all n samples, the
    # masked ones as wrong (at_least) or as correct (at_most).
    n_X = np.where(takes_part, valid_X, number)
    for name, right_X in (
      ("at_least", correct_X),
      ("at_most", correct_X + n_X - valid_X),
    ):
      yield f"pass@{k}/{name}", float(pass_at_k(n_X, right_X, k).mean())


def is_enough(count: int, of: int) -> bool:
  """Returns whether a mean over `count` problems stands for all `of`."""
  return 0 < ENOUGH * of <= count
