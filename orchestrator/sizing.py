"""Pure. What so many streams need: the numbers of `sizing_needs`, and how many services they come to.

What a unit costs in time is no formula: it is measured (`--unit-ms`), or nothing is said of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.sizing_needs import Needs
from orchestrator.sizing_wish import Line, Wish
from tandem.core.errors import InvalidInput
from tandem.core.model_shape import ModelShape
from tandem.core.overload import MAX_SHARE

TIERS = ("block", "traffic", "device", "RAM", "disk", "services")
"""In the order in which they are told."""
MAX_RUNNING = 32
"""Questions that hold device memory at once at a reasoner."""
ENCODER_STREAMS, REASONER_STREAMS = 256, 1024
"""Most streams of a service, unless `--max-streams` says otherwise."""
DEVICE_SHARE = 0.9
"""Of a device's memory that is planned: the rest is for activations and what torch keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """The plan."""

    wish: Wish
    lines: tuple[Line, ...]
    window_units: int
    view_tokens: int
    encoders: int
    reasoners: int

    def value(self, key: str) -> float:
        """One of the numbers."""
        return next(line.value for line in self.lines if line.key == key)

    @property
    def gpus(self) -> int:
        """One for each service, where there are any."""
        return self.encoders + self.reasoners if self.wish.device_bytes else 0

    @property
    def streams_a_reasoner(self) -> int:
        """Of the one that has most."""
        return math.ceil(self.wish.streams / self.reasoners)

    @property
    def streams_an_encoder(self) -> int:
        """Of the one that has most."""
        return math.ceil(self.wish.streams / self.encoders)


def size(shape: ModelShape, wish: Wish) -> Sizing:
    """Plan for a wish. Raises InvalidInput where the model does not fit the device at all."""
    needs = Needs(shape, wish)
    encoders, reasoners = _encoders(needs), _reasoners(needs)
    return Sizing(
        wish=wish,
        lines=tuple(sorted(needs.lines, key=lambda line: TIERS.index(line.tier))),
        window_units=needs.window,
        view_tokens=needs.view,
        encoders=encoders,
        reasoners=reasoners,
    )


def _encoders(needs: Needs) -> int:
    """How many encoders, by time and by memory."""
    wish = needs.wish
    counts = {"streams": math.ceil(wish.streams / ENCODER_STREAMS)}
    why = [f"{wish.streams} streams / {ENCODER_STREAMS}"]
    if wish.unit_ms:
        capacity = MAX_SHARE / (wish.unit_ms / 1000)
        needs.add(
            "encoder_units_per_second",
            "traffic",
            "what one encoder may promise",
            capacity,
            "1/s",
            f"{MAX_SHARE} / {wish.unit_ms:g} ms",
        )
        # Whole streams, and each where it fits: as many as a promise has room for.
        a_service = max(1, math.floor(capacity / needs.units_a_stream + 1e-9))
        counts["time"] = math.ceil(wish.streams / a_service)
        why.append(f"{wish.streams} streams / {a_service} by time")
    if wish.device_bytes:
        a_service = _streams_of(needs, "encoder", needs.weights, needs.window_device)
        counts["memory"] = math.ceil(wish.streams / a_service)
        why.append(f"{wish.streams} streams / {a_service} by memory")
    count = max(counts.values())
    needs.add("encoders", "services", "encoders", count, "", f"most of: {'; '.join(why)}")
    return count


def _reasoners(needs: Needs) -> int:
    """How many reasoners, by memory and by questions."""
    wish = needs.wish
    running = math.ceil(needs.at_once / MAX_RUNNING)
    counts = [math.ceil(wish.streams / REASONER_STREAMS), running]
    why = [f"{wish.streams} streams / {REASONER_STREAMS}", f"{needs.at_once:g} questions / {MAX_RUNNING}"]
    if wish.device_bytes:
        questions = min(max(1, math.ceil(needs.at_once)), MAX_RUNNING) * needs.question
        a_service = _streams_of(needs, "reasoner", needs.weights + wish.pool_bytes + questions, needs.run)
        counts.append(math.ceil(wish.streams / a_service))
        why.append(f"{wish.streams} streams / {a_service} by memory")
    count = max(counts)
    needs.add("reasoners", "services", "reasoners", count, "", f"most of: {'; '.join(why)}")
    return count


def _streams_of(needs: Needs, role: str, fixed: int, each: int) -> int:
    room = DEVICE_SHARE * needs.wish.device_bytes
    fits = math.floor((room - fixed) / each)
    if fits < 1:
        raise InvalidInput(
            f"not one stream fits: {role}s have {room / 1e9:.1f} GB ({DEVICE_SHARE:g} of a device), weights "
            f"and the like take {fixed / 1e9:.1f} GB, a stream {each / 1e9:.2f} GB; give a larger "
            "--gpu-memory, a smaller --window, --recent or --size, or another --dtype"
        )
    return fits
