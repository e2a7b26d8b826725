"""Pure. What is traced: spans whose times are known, and the text that carries one to another process.

A *context* is a W3C ``traceparent``; an empty one means that nothing is recorded, and costs nothing. Times
are those of the process's monotonic clock, in seconds. `tandem.telemetry.tracing` has the real tracer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

METADATA_KEY = "traceparent"
_CONTEXT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

Attribute = str | int | float | bool


class Span(Protocol):
    """Something that takes time."""

    @property
    def context(self) -> str:
        """What children, here or elsewhere, are begun with; empty when it is not recorded."""
        ...

    def note(self, attributes: dict[str, Attribute]) -> None:
        """Say more of it."""
        ...

    def end(self, at_s: float, error: str = "") -> None:
        """It is over; `error` is the code of what went wrong."""
        ...


class Tracer(Protocol):
    """Begins spans. Any thread; never waits."""

    @property
    def is_on(self) -> bool:
        """False when nothing is recorded."""
        ...

    def begin(
        self, name: str, at_s: float, parent: str = "", attributes: dict[str, Attribute] | None = None
    ) -> Span:
        """A span that began at `at_s`; without a parent it is the root of a trace."""
        ...

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        ...


class _NoSpan:
    context = ""

    def note(self, attributes: dict[str, Attribute]) -> None:
        """Nothing."""

    def end(self, at_s: float, error: str = "") -> None:
        """Nothing."""


class NoTracer:
    """Nothing is recorded."""

    is_on = False

    def begin(
        self, name: str, at_s: float, parent: str = "", attributes: dict[str, Attribute] | None = None
    ) -> Span:
        """A span that leaves no trace."""
        return NO_SPAN

    def close(self) -> None:
        """Nothing waits."""


NO_SPAN: Span = _NoSpan()
NO_TRACER: Tracer = NoTracer()


def span(
    tracer: Tracer,
    name: str,
    start_s: float,
    end_s: float,
    parent: str,
    attributes: dict[str, Attribute] | None = None,
) -> str:
    """Record a child that is over already; returns its context. Nothing without a parent."""
    if not parent:
        return ""
    made = tracer.begin(name, start_s, parent, attributes)
    made.end(max(end_s, start_s))
    return made.context


def to_metadata(context: str) -> tuple[tuple[str, str], ...]:
    """For a gRPC call."""
    return ((METADATA_KEY, context),) if context else ()


def from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The context that a call brought; empty when it brought none that can be read."""
    for key, value in metadata or ():
        if key == METADATA_KEY and isinstance(value, str):
            return checked(value)
    return ""


def checked(context: str) -> str:
    """The same, or empty when it is not one: it came from somebody else."""
    return context if len(context) == 55 and _CONTEXT.fullmatch(context) else ""
