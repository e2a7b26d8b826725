"""Meters and a tracer that remember what they were told, for tests that look at the calls themselves."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from tandem.core.meters import Kind, Metric
from tandem.core.tracing import Attribute

Key = tuple[str, tuple[str, ...]]


class Recorder:
    """Counts by name and label values; values of histograms in order. Refuses what is not declared so."""

    def __init__(self) -> None:
        self.counts: Counter[Key] = Counter()
        self.values: dict[Key, list[float]] = {}

    def count(self, metric: Metric, by: float = 1.0, **labels: str) -> None:
        assert metric.kind is Kind.COUNTER
        assert not metric.collected
        self.counts[self._key(metric, labels)] += by  # type: ignore[assignment]

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.kind is Kind.HISTOGRAM
        self.values.setdefault(self._key(metric, labels), []).append(value)

    @staticmethod
    def _key(metric: Metric, labels: dict[str, str]) -> Key:
        assert set(labels) == set(metric.labels), metric.name
        return metric.name, tuple(labels[name] for name in metric.labels)


@dataclass
class Recorded:
    """A span that was begun."""

    name: str
    start_s: float
    parent: str
    context: str
    attributes: dict[str, Attribute] = field(default_factory=dict)
    end_s: float | None = None
    error: str = ""

    def note(self, attributes: dict[str, Attribute]) -> None:
        self.attributes |= attributes

    def end(self, at_s: float, error: str = "") -> None:
        assert self.end_s is None, f"{self.name} ended twice"
        assert at_s >= self.start_s
        self.end_s, self.error = at_s, error


class RecordingTracer:
    """Spans in the order in which they began."""

    is_on = True

    def __init__(self) -> None:
        self.spans: list[Recorded] = []
        self._numbers = itertools.count(1)

    def begin(
        self, name: str, at_s: float, parent: str = "", attributes: dict[str, Attribute] | None = None
    ) -> Recorded:
        context = f"00-{'a' * 32}-{next(self._numbers):016x}-01"
        self.spans.append(Recorded(name, at_s, parent, context, dict(attributes or {})))
        return self.spans[-1]

    def close(self) -> None:
        pass
