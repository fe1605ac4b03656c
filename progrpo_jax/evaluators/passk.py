"""pass@k: how often at least one of k samples is right.

Estimates in numpy float64 on the host: they are exact ratios of binomials,
for n in the hundreds, computed once per evaluation.
"""

from collections.abc import Iterator

import numpy as np


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


def bootstrap(
    values_X, *, resamples: int = 2000, seed: int, level: float = 0.95,
) -> tuple[float, float, float]:
  """Mean over problems with a percentile interval.

  Problems are drawn anew, not samples: the interval says how far the mean
  would move on other problems of the same kind.

  Args:
    values_X: one value per problem, its pass@k for example.
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


def paired_bootstrap(
    a_X, b_X, *, resamples: int = 2000, seed: int, level: float = 0.95,
) -> tuple[float, float, float]:
  """Mean of a - b over the same problems with a percentile interval.

  Both are resampled together, so that what makes a problem hard for both
  cancels.

  Args:
    a_X: one value per problem.
    b_X: the value of the other run on the same problem.
    resamples: as for `bootstrap`.
    seed: as for `bootstrap`.
    level: as for `bootstrap`.

  Returns:
    (mean difference, low, high).

  Raises:
    ValueError: the shapes differ, or as for `bootstrap`.
  """
  a_X, b_X = np.asarray(a_X, np.float64), np.asarray(b_X, np.float64)
  if a_X.shape != b_X.shape:
    raise ValueError(
        f"paired values must match, got shapes {a_X.shape} and {b_X.shape}")
  return bootstrap(a_X - b_X, resamples=resamples, seed=seed, level=level)


def measure(samples) -> Iterator[tuple[str, float]]:
  """pass@k of held-out samples for k = 1, 2, 4, ... up to n.

  Yields:
    `pass@k`, its interval `pass@k/low` and `pass@k/high`, and `num_problems`
    and `num_samples` that they rest on. A sample that the verifier itself
    failed on is not counted; a problem with fewer than k others is left out
    of pass@k.
  """
  valid_X = np.asarray(samples.valid_XN, bool).sum(axis=1)
  correct_X = (samples.correct_XN & samples.valid_XN).sum(axis=1)
  k = 1
  while k <= samples.correct_XN.shape[1]:
    enough = valid_X >= k
    if enough.any():
      values = pass_at_k(valid_X[enough], correct_X[enough], k)
      mean, low, high = bootstrap(values, seed=k)
      yield f"pass@{k}", mean
      yield f"pass@{k}/low", low
      yield f"pass@{k}/high", high
    k *= 2
  yield "num_problems", len(samples.rows)
  yield "num_samples", samples.correct_XN.shape[1]
