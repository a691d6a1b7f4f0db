"""The statistics of a study: equal to scipy's, and careful where seeds are few or alike."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from angularkd.studies.statistics import POWER, Sample, difference, holm, power, seeds_needed

THESE = {0: 0.91, 1: 0.93, 2: 0.90, 3: 0.95, 4: 0.92}
OTHERS = {0: 0.90, 1: 0.90, 2: 0.91, 3: 0.92, 4: 0.90}


def test_mean_and_sample_deviation() -> None:
    sample = Sample(tuple(THESE.values()))
    assert sample.mean == pytest.approx(np.mean(list(THESE.values())))
    assert sample.std == pytest.approx(np.std(list(THESE.values()), ddof=1))
    assert Sample((0.5,)).std is None and Sample((0.5,)).mean == 0.5


def test_a_paired_difference_is_scipys() -> None:
    found = difference(THESE, OTHERS)
    test = stats.ttest_rel(list(THESE.values()), list(OTHERS.values()))
    interval = test.confidence_interval(0.95)
    assert found is not None and found.n == 5
    assert found.mean == pytest.approx(np.mean(np.subtract(list(THESE.values()), list(OTHERS.values()))))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(test.pvalue)
    assert found.p_holm is None and not found.significant, "it is corrected where the others are known"


def test_seeds_are_paired_whatever_their_order_and_what_one_lacks_is_left_out() -> None:
    found = difference({3: 0.95, 9: 0.1, 0: 0.91, 1: 0.93}, {1: 0.90, 0: 0.90, 3: 0.92, 7: 0.9})
    assert found is not None and found.n == 3
    assert found.mean == pytest.approx(statistics.mean([0.01, 0.03, 0.03]))
    assert difference({0: 0.9}, {1: 0.9}) is None


def test_one_seed_has_a_difference_and_nothing_else() -> None:
    found = difference({0: 0.9}, {0: 0.8})
    assert found is not None and found.mean == pytest.approx(0.1) and found.n == 1
    assert (found.low, found.high, found.p, found.seeds_needed) == (None, None, None, None)


def test_equal_seeds_differ_by_nothing_and_a_constant_difference_has_no_spread_to_judge_by() -> None:
    same = difference(THESE, dict(THESE))
    assert same is not None and (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    shifted = difference({0: 0.2 + 0.1, 1: 0.5}, {0: 0.2, 1: 0.4})  # equal but for rounding
    assert shifted is not None and shifted.mean == pytest.approx(0.1)
    assert shifted.p is None and shifted.low is None and not shifted.significant


def test_holm_on_a_made_case() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's step-down by hand
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_holm_keeps_the_familywise_error() -> None:
    """Of studies in which nothing differs, at most one in twenty calls anything significant."""
    rng = np.random.default_rng(0)
    scratch, others = rng.normal(0.9, 0.01, (2000, 1, 5)), rng.normal(0.9, 0.01, (2000, 4, 5))
    p_values = stats.ttest_rel(others, np.broadcast_to(scratch, others.shape), axis=2).pvalue
    wrong = [min(holm(list(study))) < 0.05 for study in p_values]
    assert np.mean(wrong) < 0.055 < np.mean(p_values.min(axis=1) < 0.05), "which is more without the correction"


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 10), (0.5, 34), (2.0, 5), (0.2, 199)])
def test_power_is_that_of_the_noncentral_t(effect, seeds) -> None:
    """The counts are those of G*Power for a paired t test, two-sided, 5 %, 80 %."""
    assert seeds_needed(effect, 1.0) == seeds
    assert power(effect, seeds) >= POWER > power(effect, seeds - 1)
    if effect * math.sqrt(seeds) < 5:
        critical, shift = stats.t.ppf(0.975, seeds - 1), effect * math.sqrt(seeds)
        both = stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift)
        assert power(effect, seeds) == pytest.approx(both)


def test_power_by_simulation() -> None:
    rng = np.random.default_rng(1)
    found = stats.ttest_1samp(rng.normal(0.8, 1.0, (4000, 8)), 0, axis=1).pvalue < 0.05
    assert power(0.8, 8) == pytest.approx(found.mean(), abs=0.025)


def test_a_difference_that_nobody_can_find_needs_more_seeds_than_there_are() -> None:
    assert seeds_needed(1e-6, 1.0) is None
    assert seeds_needed(-1.0, 1.0) == seeds_needed(1.0, 1.0)
    assert seeds_needed(50.0, 1.0) == 2
