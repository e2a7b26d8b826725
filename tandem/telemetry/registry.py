"""Shell. Declared metrics in a Prometheus registry: counted as they happen, or read at a scrape."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import (
    GC_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from tandem import __version__
from tandem.core.meters import Kind, Metric, Sample

# They are a second series for each, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

READ_TIMEOUT_S = 5.0
"""Longest wait for the event loop at a scrape; then the scrape fails, which is an alarm of its own."""
_Key = tuple[str, tuple[tuple[str, str], ...]]
Read = Callable[[], Iterable[Sample]]
"""All samples of the collected metrics; called in the event loop."""


class PrometheusMeters:
    """The metrics of one process. Make it in the event loop that owns what `read` looks at."""

    def __init__(self, metrics: Sequence[Metric], read: Read, *, role: str, model: str) -> None:
        self.registry = CollectorRegistry()
        # First: what `read` finds on its way may be counted, and a scrape goes in order.
        collected = [metric for metric in metrics if metric.collected]
        self.registry.register(_Reader(collected, read, asyncio.get_running_loop()))
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        # By name and labels as they are given: looking a sample up costs more than counting it.
        self._counter_of: dict[_Key, Counter] = {}
        self._histogram_of: dict[_Key, Histogram] = {}
        for metric in metrics:
            if metric.collected:
                continue
            if metric.kind is Kind.COUNTER:
                made = Counter(metric.name, metric.help, metric.labels, registry=self.registry)
                self._counters[metric.name] = made
            else:
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets
                )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(GC_COLLECTOR)
        info = Gauge(
            "tandem_build_info",
            "What runs: always 1.",
            ("role", "model", "version"),
            registry=self.registry,
        )
        info.labels(role=role, model=model, version=__version__).set(1)

    def count(self, metric: Metric, by: float = 1.0, **labels: str) -> None:
        """See `Meters.count`."""
        key = metric.name, tuple(labels.items())
        made = self._counter_of.get(key)
        if made is None:
            declared = self._counters[metric.name]
            made = self._counter_of[key] = declared.labels(**labels) if labels else declared
        made.inc(by)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """See `Meters.observe`."""
        key = metric.name, tuple(labels.items())
        made = self._histogram_of.get(key)
        if made is None:
            declared = self._histograms[metric.name]
            made = self._histogram_of[key] = declared.labels(**labels) if labels else declared
        made.observe(value)


class _Reader(Collector):
    """Reads what is there, in the event loop that owns it, from the thread that serves a scrape."""

    def __init__(self, metrics: Sequence[Metric], read: Read, loop: asyncio.AbstractEventLoop) -> None:
        self._metrics = metrics
        self._read = read
        self._loop = loop

    def describe(self) -> Iterable[Family]:
        """Names alone: nothing is read when it is registered."""
        return [_family(metric) for metric in self._metrics]

    def collect(self) -> Iterator[Family]:
        """Raises TimeoutError when the event loop hangs."""
        families = {metric.name: _family(metric) for metric in self._metrics}
        for sample in self._in_loop():
            families[sample.metric.name].add_metric(sample.labels, sample.value)
        yield from families.values()

    def _in_loop(self) -> list[Sample]:
        done: concurrent.futures.Future[list[Sample]] = concurrent.futures.Future()

        def read() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(list(self._read()))
                except Exception as error:
                    done.set_exception(error)

        self._loop.call_soon_threadsafe(read)
        try:
            return done.result(READ_TIMEOUT_S)
        finally:
            done.cancel()


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    if metric.kind is Kind.COUNTER:
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
