from __future__ import annotations

import numpy as np
import pytest

from tandem.core.errors import InvalidInput
from tandem.load.arrivals import Arrivals, arrival_times


def times(how: Arrivals, seed: int = 3, **options: float) -> np.ndarray:
    options = {"start_s": 10.0, "end_s": 2010.0, "rate": 5.0, **options}
    return np.array(arrival_times(how, np.random.default_rng(seed), **options))


@pytest.mark.parametrize("how", Arrivals)
def test_times_ascend_inside_their_interval_and_keep_their_rate(how: Arrivals) -> None:
    found = times(how, burstiness=2.0)
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 10.0
    assert found[-1] < 2010.0
    assert len(found) == pytest.approx(10_000, rel=0.05)
    assert (found == times(how, burstiness=2.0)).all(), "the same seed, the same times"
    assert found[0] != times(how, seed=4, burstiness=2.0)[0]


@pytest.mark.parametrize(
    ("how", "burstiness", "variation"),
    [
        (Arrivals.CONSTANT, 1.0, 0.0),
        (Arrivals.POISSON, 9.0, 1.0),
        (Arrivals.GAMMA, 4.0, 4.0),
        (Arrivals.GAMMA, 0.25, 0.25),
    ],
)
def test_gaps_vary_as_was_asked(how: Arrivals, burstiness: float, variation: float) -> None:
    gaps = np.diff(times(how, burstiness=burstiness))
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(variation, rel=0.15, abs=1e-9)


def test_a_ramp_has_more_at_its_end() -> None:
    found = times(Arrivals.RAMP, rate=1.0, rate_end=9.0)
    quarters = np.histogram(found, bins=4, range=(10.0, 2010.0))[0]
    assert quarters == pytest.approx([1000, 2000, 3000, 4000], rel=0.1)
    falling = times(Arrivals.RAMP, rate=9.0, rate_end=0.0)
    assert np.histogram(falling, bins=2, range=(10.0, 2010.0))[0] == pytest.approx([6750, 2250], rel=0.1)


def test_no_time_and_no_rate_have_no_arrivals() -> None:
    assert not times(Arrivals.POISSON, rate=0.0).size
    assert not times(Arrivals.CONSTANT, end_s=10.0).size
    assert not times(Arrivals.RAMP, rate=0.0, rate_end=0.0).size


@pytest.mark.parametrize(
    "options", [{"rate": -1.0}, {"rate": float("inf")}, {"burstiness": 0.0}, {"rate": 1e6}]
)
def test_what_cannot_be_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        times(Arrivals.GAMMA, **options)
