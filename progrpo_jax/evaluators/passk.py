"""pass@k: how often at least one of k samples is right.

Estimates in numpy float64 on the host: they are exact ratios of binomials,
for n in the hundreds, computed once per evaluation.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from progrpo_jax.evaluators import intervals

# Samples with a verdict and right ones among them, of each problem by its
# name; none where the verifier failed on all of them.
Counts = Mapping[Hashable, tuple[int, int]]

# A mean over fewer of the problems than this is no number of the set:
# verifiers fail more on some problems than on others.
ENOUGH = 0.98


def pass_at_k(n, c, k) -> np.ndarray:
  """Unbiased estimate of pass@k from n samples of which c are right.

  1 - C(n - c, k) / C(n, k), as the product over j < k of
  (n - c - j) / (n - j), in which nothing can overflow; exactly 1 where fewer
  than k samples are wrong. (1 - (1 - c/n)^k is biased downwards.)

  See "Evaluating Large Language Models Trained on Code"
  (https://arxiv.org/abs/2107.03374), eq. 1.

  Args:
    n: samples of each problem.
    c: right ones among them.
    k: samples that may be tried. The three broadcast against each other.

  Returns:
    float64 of the broadcast shape; the mean over problems is the caller's.

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
  # The factor at j = n - c is 0, and with it the product from there on. The
  # maximum keeps the division defined past n, where no factor counts.
  factors = np.where(j < k, (n - c - j) / np.maximum(n - j, 1), 1.0)
  return 1.0 - np.prod(factors, axis=-1)


def powers(n: int) -> list[int]:
  """The k that are reported of n samples: 1, 2, 4, ... up to n."""
  return [2**i for i in range(n.bit_length())] if n > 0 else []


def curve(n_X, c_X) -> np.ndarray:
  """pass@k of each problem for every k up to the most samples of one.

  The estimates of `pass_at_k` in one running product. Beyond half of the
  samples they rest on few independent draws, and k = n on a single one.

  Args:
    n_X: samples of each problem, a number or one per problem.
    c_X: right ones among them.

  Returns:
    float64 [X, K]; column k - 1 is pass@k, NaN where a problem has fewer
    than k samples.

  Raises:
    ValueError: no problems, no samples, or not 0 <= c <= n.
  """
  c_X = np.asarray(c_X)
  if c_X.ndim != 1 or not c_X.size:
    raise ValueError(f"c_X takes one count per problem, got shape {c_X.shape}")
  n_X = np.broadcast_to(n_X, c_X.shape)
  if n_X.max() < 1 or np.any((c_X < 0) | (c_X > n_X)):
    raise ValueError(
        f"pass@k needs 0 <= c <= n and a sample, got c={c_X} with n={n_X}")
  j = np.arange(n_X.max())
  left_XK = n_X[:, None] - j
  wrong_XK = np.maximum(left_XK - c_X[:, None], 0)
  values_XK = 1.0 - np.cumprod(wrong_XK / np.maximum(left_XK, 1), axis=1)
  return np.where(left_XK > 0, values_XK, np.nan)


def histogram(n_X, c_X, bins: int = 10) -> np.ndarray:
  """Problems by their pass@1, in bins of equal width over [0, 1].

  In whole numbers, as 3 of 10 must not fall on either side of 0.3 by
  rounding. A bin holds its lower end; the last one also holds 1.

  Args:
    n_X: samples of each problem, a number or one per problem, at least 1.
    c_X: right ones among them.
    bins: how many.

  Returns:
    int [bins], the number of problems in each.

  Raises:
    ValueError: `bins` is below 1, or not 0 <= c <= n with n >= 1.
  """
  n_X, c_X = np.broadcast_arrays(n_X, c_X)
  if bins < 1:
    raise ValueError(f"a histogram needs at least 1 bin, got {bins}")
  if np.any(n_X < 1) or np.any((c_X < 0) | (c_X > n_X)):
    raise ValueError(
        f"pass@1 needs 0 <= c <= n and n >= 1, got c={c_X} with n={n_X}")
  where_X = np.minimum(c_X * bins // n_X, bins - 1)
  return np.bincount(where_X.ravel(), minlength=bins)


def bound(pass1_X, k, *, n=None) -> np.ndarray:
  """Upper bound on the mean pass@k, from mean and variance of pass@1.

  E[pass@k] <= 1 - ((1 - E rho)^2 + Var rho)^(k/2), rho the pass@1 of a
  problem; equality at k = 2. It says how much a policy that is sure of itself
  on every problem, right or wrong (a large variance), can gain by sampling.

  See "Assessing Diversity Collapse in Reasoning" by Dang et al., quoted as
  eq. 5 of "ProRL" (https://arxiv.org/abs/2505.24864). By Jensen's inequality
  it holds for k >= 2 only; at k = 1 its direction would be reversed.

  Args:
    pass1_X: pass@1 of each problem.
    k: >= 2; an array gives a bound for each.
    n: samples behind each pass@1 (a number or one per problem). Estimates
      vary more than what they estimate, by rho (1 - rho) / n on average; with
      n given that part, estimated without bias as the mean of
      c (n - c) / (n^2 (n - 1)), is subtracted, down to a variance of 0. None
      for exact values.

  Returns:
    float64, the shape of k.

  Raises:
    ValueError: k < 2, n < 2, or values that are not shares of problems.
  """
  rho_X = np.asarray(pass1_X, np.float64)
  k = np.asarray(k)
  if np.any(k < 2):
    raise ValueError(f"the bound holds for k >= 2 only, got k={k}")
  if rho_X.ndim != 1 or not rho_X.size:
    raise ValueError(
        f"pass1_X takes one value per problem, got shape {rho_X.shape}")
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
  """The bound where only the mean pass@2 is known.

  (1 - E rho)^2 + Var rho = E (1 - rho)^2 = 1 - E pass@2, so that the bound is
  1 - (1 - pass@2)^(k/2).

  Args:
    pass2: mean pass@2 over problems.
    k: >= 2; an array gives a bound for each.

  Returns:
    float64, the shape of k.

  Raises:
    ValueError: k < 2, or pass2 outside [0, 1].
  """
  k = np.asarray(k)
  if np.any(k < 2):
    raise ValueError(f"the bound holds for k >= 2 only, got k={k}")
  if not 0 <= pass2 <= 1:
    raise ValueError(f"pass@2 must lie in [0, 1], got {pass2}")
  return 1.0 - (1.0 - pass2) ** (k / 2)


def bootstrap(
    values_X, *, resamples: int = 2000, seed: int, level: float = 0.95,
) -> tuple[float, float, float]:
  """Mean over problems with a percentile interval, of values without bounds.

  Problems are drawn anew, not samples: the interval says how far the mean
  would move on other problems of the same kind. For values in [0, 1] such as
  pass@k there is `intervals.mean`, which also holds at the edges.

  Args:
    values_X: one value per problem, the number of its different right answers
      for example.
    resamples: sets of problems to draw.
    seed: the same seed gives the same interval.
    level: share of the resampled means inside the interval.

  Returns:
    (mean, low, high).

  Raises:
    ValueError: no problems, values that are not finite, or a level outside
      (0, 1).
  """
  values_X = np.asarray(values_X, np.float64)
  if values_X.ndim != 1 or not values_X.size:
    raise ValueError(
        f"bootstrap takes one value per problem, got shape {values_X.shape}")
  if not np.all(np.isfinite(values_X)):
    raise ValueError("bootstrap got values that are not finite")
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1), got {level}")
  generator = np.random.default_rng(seed)
  size = values_X.size
  # One set at a time: all indices at once are [resamples, X].
  means = [
      values_X[generator.integers(size, size=size)].mean()
      for _ in range(resamples)]
  tail = (1 - level) / 2
  low, high = np.quantile(means, [tail, 1 - tail])
  return float(values_X.mean()), float(low), float(high)


def per_problem(counts: Counts, k: int) -> dict[Hashable, float]:
  """pass@k of each problem that has at least k samples.

  Args:
    counts: {problem: (samples, right ones)}.
    k: samples that may be tried.

  Returns:
    {problem: estimate}, in the order of counts.
  """
  enough = {name: nc for name, nc in counts.items() if nc[0] >= k}
  if not enough:
    return {}
  n_X, c_X = np.array(list(enough.values())).T
  return dict(zip(enough, pass_at_k(n_X, c_X, k).tolist()))


def mean_of(runs: Sequence[Mapping[Hashable, float]]) -> dict[Hashable, float]:
  """Mean over runs (seeds) of the problems that all of them have."""
  shared = [name for name in runs[0] if all(name in run for run in runs)]
  return {
      name: float(np.mean([run[name] for run in runs])) for name in shared}


def difference(
    a: Mapping[Hashable, float], b: Mapping[Hashable, float], *,
    level: float = 0.95,
) -> intervals.Interval:
  """Mean of a - b over the problems of both; see `intervals.difference`.

  Args:
    a: {problem: value}, its pass@k from `per_problem` for example.
    b: the values of the other run. Problems are matched by name, whatever
      their order; those of one run only are left out.
    level: share of intervals that hold the true mean.

  Returns:
    (mean difference, low, high).

  Raises:
    ValueError: no problem is in both, or values outside [0, 1].
  """
  shared = sorted((name for name in a if name in b), key=repr)
  if not shared:
    raise ValueError(
        f"no problem is in both: {len(a)} in one and {len(b)} in the other")
  return intervals.difference(
      [a[name] for name in shared], [b[name] for name in shared], level=level)


def measure(samples) -> Iterator[tuple[str, float]]:
  """pass@k of held-out samples for k = 1, 2, 4, ... up to n.

  Samples that the verifier itself failed on are masked, and a problem takes
  part with those that it has left, if there are k. Which are masked is not
  left to chance: long programs and odd answers are, and they come of hard
  problems. Where less than `ENOUGH` of the problems take part, there is no
  pass@k but two bounds on it.

  Yields:
    `pass@k`, its interval `pass@k/low` and `pass@k/high`, or in the place of
    these three `pass@k/at_least` and `pass@k/at_most`, the mean over all
    problems with the masked samples of those that lack some taken for wrong
    ones and for right ones; `pass@k/num_problems`, how many take part; and
    `num_problems` and `num_samples` that were tried. Where the samples have a
    tolerant verdict, all this again by it, as `tolerant/pass@k` and so on.
  """
  yield from _measure(samples.correct_XN, samples.valid_XN)
  if samples.tolerant_XN is not None:
    for name, value in _measure(samples.tolerant_XN, samples.valid_XN):
      yield f"tolerant/{name}", value
  yield "num_problems", len(samples.rows)
  yield "num_samples", samples.correct_XN.shape[1]


def _measure(correct_XN, valid_XN) -> Iterator[tuple[str, float]]:
  """pass@k of one verdict, with its interval or its bounds."""
  valid_XN = np.asarray(valid_XN, bool)
  correct_X = (correct_XN & valid_XN).sum(axis=1)
  valid_X, number = valid_XN.sum(axis=1), valid_XN.shape[1]
  for k in powers(number):
    takes_part = valid_X >= k
    yield f"pass@{k}/num_problems", int(takes_part.sum())
    if is_enough(takes_part.sum(), len(takes_part)):
      mean, low, high = intervals.mean(
          pass_at_k(valid_X[takes_part], correct_X[takes_part], k))
      yield f"pass@{k}", mean
      yield f"pass@{k}/low", low
      yield f"pass@{k}/high", high
      continue
    # The masked samples of the problems that lack some as wrong, as right.
    n_X = np.where(takes_part, valid_X, number)
    for name, right_X in (
        ("at_least", correct_X), ("at_most", correct_X + n_X - valid_X)):
      yield f"pass@{k}/{name}", float(pass_at_k(n_X, right_X, k).mean())


def is_enough(count: int, of: int) -> bool:
  """Whether a mean over `count` problems stands for a set of so many."""
  return 0 < ENOUGH * of <= count
