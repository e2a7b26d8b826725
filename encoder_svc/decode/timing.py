"""Pure. Stream time of decoded frames: from the container's clock, or by counting.

Knows no codec. Both kinds start at 0 with the first frame that can be shown; a resumed stream goes on where
the resume header says. Times that go back are reported, never passed on.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from encoder_svc.admit import MAX_PTS_US
from tandem.core.errors import BadTimestamp
from tandem.core.timeline import MICROSECONDS

DEFAULT_FRAME_US = 40_000
"""Step for a frame without a time whose neighbours do not tell: 25 frames a second."""


class FrameTimer(Protocol):
    """Gives each frame that comes out of the decoder its stream time."""

    @property
    def origin_us(self) -> int:
        """Container time of stream time 0."""
        ...

    def begin(self) -> None:
        """Decoding starts afresh."""
        ...

    def key(self, tag: int) -> None:
        """The packet of this tag is a key packet."""
        ...

    def time_us(self, tag: int, container_us: int | None) -> int | None:
        """Stream time of the next frame; None when it must not be used. Raises BadTimestamp."""
        ...

    def relative_us(self, container_us: int | None) -> int | None:
        """Stream time of a packet that gave no frame, if it is known."""
        ...

    def lost(self, frames: int = 1) -> None:
        """This many frames could not be decoded."""
        ...

    def jump(self, time_us: int) -> None:
        """Frames are missing; the next one stands at `time_us` or later."""
        ...


class ContainerTimer:
    """Times of the container, moved so that the first frame stands at 0, or where it is told to begin."""

    def __init__(self, origin_us: int | None = None, begins_us: int = 0) -> None:
        self._origin_us, self._begins_us = origin_us, begins_us
        self._last_us: int | None = None
        self._step_us = DEFAULT_FRAME_US

    @property
    def origin_us(self) -> int:
        """Container time of stream time 0."""
        return self._origin_us or 0

    def begin(self) -> None:
        """Nothing to do: times are absolute."""

    def key(self, tag: int) -> None:
        """Nothing to do: times are absolute."""

    def time_us(self, tag: int, container_us: int | None) -> int | None:
        """Stream time of the next frame. Raises BadTimestamp when it goes back or out of range."""
        if container_us is None:
            container_us = self.origin_us + (0 if self._last_us is None else self._last_us + self._step_us)
        if self._origin_us is None:
            self._origin_us = container_us - self._begins_us
        time_us = container_us - self._origin_us
        if self._last_us is None and time_us < 0:
            return None  # before the point where the stream is taken up
        if not 0 <= time_us <= MAX_PTS_US:
            raise BadTimestamp(f"frame time {time_us} us is out of range (0 to {MAX_PTS_US})")
        if self._last_us is not None:
            if time_us < self._last_us:
                raise BadTimestamp(f"frame time goes back from {self._last_us} us to {time_us} us")
            self._step_us = time_us - self._last_us or self._step_us
        self._last_us = time_us
        return time_us

    def relative_us(self, container_us: int | None) -> int | None:
        """Stream time of a packet that gave no frame, if it is known."""
        if container_us is None or self._origin_us is None:
            return None
        return container_us - self._origin_us

    def lost(self, frames: int = 1) -> None:
        """Nothing to do: times are absolute."""

    def jump(self, time_us: int) -> None:
        """Nothing to do: times are absolute."""


class CountingTimer:
    """Frames of a stream without times stand at ``index / fps``.

    After a fresh start in mid-stream, frames that are shown before the first key frame belong to what came
    before and are left out.
    """

    def __init__(self, fps: float, start_us: int = 0) -> None:
        self._fps = Fraction(fps).limit_denominator(1001)
        self._index = self._index_at(start_us)
        self._awaited: set[int] | None = None

    @property
    def origin_us(self) -> int:
        """There is no container clock."""
        return 0

    def begin(self) -> None:
        """Decoding starts afresh."""
        self._awaited = set() if self._index else None

    def key(self, tag: int) -> None:
        """The packet of this tag is a key packet: the first one that gives a frame ends the waiting."""
        if self._awaited is not None:
            self._awaited.add(tag)

    def time_us(self, tag: int, container_us: int | None) -> int | None:
        """Stream time of the next frame; None for frames before a fresh start."""
        if self._awaited is not None:
            if tag not in self._awaited:
                return None
            self._awaited = None
        self._index += 1
        return round((self._index - 1) * MICROSECONDS / self._fps)

    def relative_us(self, container_us: int | None) -> int | None:
        """Where the next frame will stand."""
        return round(self._index * MICROSECONDS / self._fps)

    def lost(self, frames: int = 1) -> None:
        """Frames could not be decoded: the next one stands that many steps later."""
        self._index += frames

    def jump(self, time_us: int) -> None:
        """The next frame stands at `time_us` or just after it."""
        self._index = max(self._index, self._index_at(time_us))

    def _index_at(self, time_us: int) -> int:
        """The first index whose time, rounded as above, is at least `time_us`."""
        index = max(int(time_us * self._fps / MICROSECONDS) - 1, 0)
        while round(index * MICROSECONDS / self._fps) < time_us:
            index += 1
        return index
