"""Pure. What is measured: how a metric is declared, and the two calls that measure.

Every process declares its metrics in one file (`metrics.py` of its package); `tandem.telemetry` puts them
into a registry and serves it. Code that measures knows only `Meters`, and the default one does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

LABELS = frozenset({"role", "model", "tier", "reason", "outcome"})
"""All that a sample may be told apart by. Never a stream or a question: their number has no bound."""

TTFT_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0)
"""Buckets of the time to a first token or thought, and of everything that a person waits for."""
STEP_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Of the time between two tokens."""
LAG_S = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Of how far something is behind the live edge."""
WORK_S = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Of what a machine does: a transfer, a forward pass, a decoded picture."""
REPAIR_S = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
"""Of the time until something that broke works again."""
TOKENS = tuple(float(4**power) for power in range(1, 11))
BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. Made by `counter`, `gauge` or `histogram`."""

    name: str
    """Whole, with its unit; a counter's ends with ``_total``."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    collected: bool = False
    """Read from what is there when somebody scrapes, not counted as it happens."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a collected metric, now."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()
    """Values, in the order of the metric's labels."""


def counter(name: str, text: str, *labels: str, collected: bool = False) -> Metric:
    """A count that only grows."""
    return Metric(name=name, kind=Kind.COUNTER, help=text, labels=labels, collected=collected)


def gauge(name: str, text: str, *labels: str) -> Metric:
    """What is there now; always collected."""
    return Metric(name=name, kind=Kind.GAUGE, help=text, labels=labels, collected=True)


def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    """How often values fell into which bucket."""
    return Metric(name=name, kind=Kind.HISTOGRAM, help=text, labels=labels, buckets=buckets)


class Meters(Protocol):
    """Where values go. Any thread; never waits, never raises for what is declared."""

    def count(self, metric: Metric, by: float = 1.0, **labels: str) -> None:
        """It happened, `by` times or for so much."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """One value of a histogram."""
        ...


class NoMeters:
    """Nobody looks."""

    def count(self, metric: Metric, by: float = 1.0, **labels: str) -> None:
        """Nothing."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Nothing."""


NO_METERS = NoMeters()


def problems(metrics: Iterable[Metric]) -> list[str]:
    """What breaks the rules that every metric follows; for the guard of them all."""
    found, seen = [], set()
    for metric in metrics:
        if metric.name in seen:
            found.append(f"{metric.name} is declared twice")
        seen.add(metric.name)
        if not metric.name.startswith("tandem_"):
            found.append(f"{metric.name} does not begin with tandem_")
        if (metric.kind is Kind.COUNTER) != metric.name.endswith("_total"):
            found.append(f"{metric.name}: counters, and only they, end with _total")
        if wrong := set(metric.labels) - LABELS:
            found.append(f"{metric.name} has labels {', '.join(sorted(wrong))}")
        if (metric.kind is Kind.HISTOGRAM) != bool(metric.buckets):
            found.append(f"{metric.name}: histograms, and only they, have buckets")
        if not metric.help.endswith("."):
            found.append(f"{metric.name}: its help is no sentence")
    return found
