"""Pure: what is said of many values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

QUANTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


def distribution(values: Iterable[float], scale: float = 1.0) -> dict[str, Any]:
    """Count, mean, quantiles and extremes, times `scale`; only the count when there are none.

    Quantiles are exact, and are values that occurred (no interpolation between them).
    """
    array = np.fromiter(values, dtype=float) * scale
    if not array.size:
        return {"n": 0}
    found = np.percentile(array, list(QUANTILES.values()), method="higher")
    return {
        "n": int(array.size),
        "mean": float(array.mean()),
        "min": float(array.min()),
        **{name: float(value) for name, value in zip(QUANTILES, found, strict=True)},
        "max": float(array.max()),
    }


def at_a_moment(lags: Iterable[float]) -> tuple[float, float, float]:
    """Median, 95th percentile and most of what all streams have now; zeros where there are none."""
    array = np.fromiter(lags, dtype=float)
    if not array.size:
        return 0.0, 0.0, 0.0
    p50, p95, most = np.percentile(array, [50, 95, 100]).tolist()
    return p50, p95, most


def histogram_distribution(histogram: Any) -> dict[str, Any]:
    """The same of a histogram of microseconds, in milliseconds."""
    count = histogram.get_total_count()
    if not count:
        return {"n": 0}
    return {
        "n": count,
        "mean": histogram.get_mean_value() / 1000,
        "min": histogram.get_min_value() / 1000,
        **{name: histogram.get_value_at_percentile(at) / 1000 for name, at in QUANTILES.items()},
        "max": histogram.get_max_value() / 1000,
    }
