"""Shell: puts coded packets into an MPEG transport stream without decoding them, a piece a packet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tandem.client.sources.extra import need


def with_times(packets: Iterable[Any], fps: float) -> Iterator[Any]:
    """The packets of a video, each with both of its times.

    Matroska files tell no decoding time for the first packets of a stream that reorders its frames: they
    wait here for the first time that is told and count back from it. AVI files tell only decoding times.
    """
    waiting: list[Any] = []
    step = 1
    for packet in packets:
        if not packet.size:
            continue  # the demuxer's flush
        step = packet.duration or round(1 / (fps * packet.time_base)) or 1
        if packet.dts is None:
            waiting.append(packet)
            continue
        yield from _count_back(waiting, packet.dts, step)
        waiting = []
        yield _shown(packet)
    first = min((packet.pts for packet in waiting if packet.pts is not None), default=0)
    yield from _count_back(waiting, first + len(waiting) * step, step)


def _count_back(packets: list[Any], until: int, step: int) -> Iterator[Any]:
    for distance, packet in zip(range(len(packets), 0, -1), packets, strict=True):
        packet.dts = until - distance * step
        yield _shown(packet)


def _shown(packet: Any) -> Any:
    if packet.pts is None:
        packet.pts = packet.dts
    return packet


class _Sink:
    """A file that a muxer writes to and that is emptied after each packet."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        """Called by the muxer."""
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self._bytes)
        self._bytes.clear()
        return data


class TransportStream:
    """An MPEG transport stream with one video.

    Of the packings that carry timestamps it is the one that a new decoder can join at any key frame, and
    that needs no look at the next packet to write this one.
    """

    def __init__(self, template: Any) -> None:
        self._sink = _Sink()
        self._container = need("av").open(self._sink, "w", format="mpegts")
        self._stream = self._container.add_stream_from_template(template)

    def add(self, packet: Any) -> bytes:
        """The bytes for `packet`; the first ones start with the stream's tables."""
        packet.stream = self._stream
        self._container.mux(packet)
        return self._sink.take()

    def close(self) -> bytes:
        """The closing bytes, if any."""
        self._container.close()
        return self._sink.take()
