"""Pure. NAL units of H.264 and H.265 in Annex B framing: finding them, and what they say about starting.

Knows no bit streams beyond the NAL header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_START_CODE = b"\0\0\1"
_H264_IDR = 5
_H264_SETS = (7, 8)
_H265_RANDOM_ACCESS = range(16, 22)
_H265_SETS = (32, 33, 34)
MAX_SETS = 64
"""Most distinct parameter sets that are kept; a stream has two or three."""


@dataclass(frozen=True, slots=True)
class NalUnit:
    """One NAL unit inside a buffer, without its start code: ``buffer[start:end]``."""

    kind: int
    start: int
    end: int


def nal_units(data: bytes, codec: str) -> Iterator[NalUnit]:
    """NAL units of an Annex B buffer; `codec` is "h264" or "hevc"."""
    at = data.find(_START_CODE)
    while at >= 0:
        start = at + len(_START_CODE)
        at = data.find(_START_CODE, start)
        end = len(data) if at < 0 else at
        if start < end:
            head = data[start]
            yield NalUnit(head & 0x1F if codec == "h264" else head >> 1 & 0x3F, start, end)


def is_random_access(kind: int, codec: str) -> bool:
    """True for slices of pictures that a fresh decoder can start with."""
    return kind == _H264_IDR if codec == "h264" else kind in _H265_RANDOM_ACCESS


class ParameterSets:
    """The distinct parameter sets seen so far, in order of last appearance."""

    def __init__(self, codec: str, known: bytes = b"") -> None:
        self._codec = codec
        self._kinds = _H264_SETS if codec == "h264" else _H265_SETS
        self._sets: dict[bytes, None] = {}
        self._joined: bytes | None = b""
        self.scan(known)

    def scan(self, data: bytes) -> bool:
        """Take in the sets of one packet. True when the packet holds a picture one can start with."""
        starts = False
        for unit in nal_units(data, self._codec):
            if unit.kind in self._kinds:
                self._keep(data[unit.start : unit.end].rstrip(b"\0"))
            starts = starts or is_random_access(unit.kind, self._codec)
        return starts

    def joined(self) -> bytes:
        """All sets in Annex B framing."""
        if self._joined is None:
            self._joined = b"".join(b"\0" + _START_CODE + item for item in self._sets)
        return self._joined

    def _keep(self, item: bytes) -> None:
        if self._sets and next(reversed(self._sets)) == item:
            return
        self._sets.pop(item, None)
        self._sets[item] = None
        while len(self._sets) > MAX_SETS:
            del self._sets[next(iter(self._sets))]
        self._joined = None
