"""What seeds say: mean and spread, differences paired by seed, and how many seeds a difference needs. The tests are scipy's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
LEVEL = 0.05
"""Probability below which a difference is not put down to chance, after the correction."""
POWER = 0.8
"""Probability with which so many seeds find the difference, where it is as large as it was measured."""
MOST_SEEDS = 10_000
"""Seeds beyond which nobody goes."""
NO_SPREAD = 1e-9
"""Standard deviation below which differences are equal but for rounding."""


@dataclass(frozen=True)
class Sample:
    """Values of several seeds, in the order of the seeds: their mean, and their sample standard deviation, None of a single one."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation, None of a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """Differences of two rows, paired by seed.

    Attributes:
        n: how many seeds both have.
        mean: of the differences.
        low, high: the 95 % interval of the mean by Student's t; None of a single seed, and where all differences are one that is not 0,
            whose spread cannot be estimated.
        p: of the paired t test, two-sided; 1 where all differences are 0, None where there is no interval.
        p_holm: the same, corrected for all rows of a table that are compared with one; None where `p` is.
        seeds_needed: seeds with which a paired t test finds a difference of this size and spread in four of five studies; None where there
            is no interval, for a difference of 0, and beyond MOST_SEEDS.
    """

    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    seeds_needed: int | None = None

    @property
    def significant(self) -> bool:
        """Return whether the corrected p value is below LEVEL."""
        return self.p_holm is not None and self.p_holm < LEVEL


def difference(these: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """Return the difference of values by seed, over the seeds that both have; None where they have none in common.

    Args:
        these: from a seed to a value.
        others: what is subtracted.
    """
    from scipy.stats import t, ttest_rel

    seeds = sorted(these.keys() & others.keys())
    first, second = [these[seed] for seed in seeds], [others[seed] for seed in seeds]
    values = [one - other for one, other in zip(first, second, strict=True)]
    if not values:
        return None
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Difference(n, mean)
    spread = statistics.stdev(values)
    if spread < NO_SPREAD:
        return Difference(n, mean, mean, mean, 1.0) if abs(mean) < NO_SPREAD else Difference(n, mean)
    low, high = t.interval(CONFIDENCE, n - 1, loc=mean, scale=spread / math.sqrt(n))
    p = float(ttest_rel(first, second).pvalue)
    return Difference(n, mean, float(low), float(high), p, seeds_needed=seeds_needed(mean, spread))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm for as many comparisons as there are, in the order given."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def power(effect: float, seeds: int) -> float:
    """Return the probability that a paired t test, two-sided, finds a difference.

    Args:
        effect: the mean of the differences, in standard deviations of them.
        seeds: how many there are, 2 or more.
    """
    from scipy.stats import ncf, t

    critical = t.ppf(1 - LEVEL / 2, seeds - 1)
    return float(
        ncf.sf(critical**2, 1, seeds - 1, effect**2 * seeds)
    )  # of t squared: scipy's noncentral t is NaN for many seeds


def seeds_needed(mean: float, spread: float) -> int | None:
    """Return the fewest seeds with which a difference is found with the probability POWER; None beyond MOST_SEEDS.

    Args:
        mean: of the differences.
        spread: their standard deviation, above 0.
    """
    effect = mean / spread
    if power(effect, MOST_SEEDS) < POWER:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle) >= POWER else (middle, high)
    return high
