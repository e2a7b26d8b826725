"""Pure. The decoder header: what one encoder asks to be kept so that another can go on where it stopped.

Knows no decoder. To everyone else it is opaque bytes; inside it is one msgpack map, at most 1 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from encoder_svc.ledger import SyncPoint
from tandem.core.blocks import BlockGeometry
from tandem.core.errors import BadMedia, Incompatible, InvalidInput
from tandem.core.versions import Spoken, unread

VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_RUNS = 4096
"""Most changes of picture size that are kept; older ones are joined, at worst shifting positions together."""

_MAX_RUN_BYTES = 1 + 6 * 9
"""One run packed: an array of six numbers."""
MAX_START_BYTES = MAX_HEADER_BYTES - MAX_RUNS * _MAX_RUN_BYTES - 256
"""Longest `ResumeHeader.start_header`: with it and all runs a header is never above `MAX_HEADER_BYTES`."""


@dataclass(frozen=True, slots=True)
class GeometryRun:
    """From this unit on, units have this geometry."""

    first_unit: int
    geometry: BlockGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeHeader:
    """All that cannot be found out from the media and the blocks."""

    kind: str
    """Kind of media, as `encoder_svc.source` names it."""
    point: SyncPoint
    """Where a fresh decoder starts."""
    start_header: bytes = b""
    """What the fresh demuxer is given first."""
    origin_us: int = 0
    """Container time of stream time 0."""
    runs: tuple[GeometryRun, ...] = ()
    """Geometries of all units so far."""

    def encode(self) -> bytes:
        """As bytes: at most `MAX_HEADER_BYTES`. Raises BadMedia when `start_header` is too long."""
        check_start_header(self.start_header)
        runs = [[r.first_unit, *_geometry_fields(r.geometry)] for r in self.runs]
        fields = {
            "v": VERSION,
            "kind": self.kind,
            "at": self.point.position,
            "time": self.point.time_us,
            "start": self.start_header,
            "origin": self.origin_us,
            "runs": runs,
        }
        data: bytes = msgpack.packb(fields)
        return data


def decode_resume_header(data: bytes, kind: str) -> ResumeHeader:
    """Read a header.

    Raises:
        InvalidInput: it is none, or of another kind of media.
        Incompatible: of another version.
    """
    try:
        if len(data) > MAX_HEADER_BYTES:
            raise ValueError("too long")
        fields = msgpack.unpackb(data, max_array_len=MAX_RUNS, max_map_len=16, max_ext_len=0)
        if fields["v"] != VERSION:
            raise Incompatible(unread("a decoder header", fields["v"], Spoken(VERSION, VERSION)))
        if fields["kind"] != kind:
            raise ValueError(f"it is of {fields['kind']!r}")
        header = ResumeHeader(
            kind=kind,
            point=SyncPoint(_count(fields["at"]), _count(fields["time"])),
            start_header=_bytes(fields["start"]),
            origin_us=_integer(fields["origin"]),
            runs=tuple(_run(item) for item in fields["runs"]),
        )
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise InvalidInput(f"not a decoder header for {kind}: {error}") from error
    return header


def check_start_header(header: bytes) -> None:
    """Raise BadMedia for a container's beginning that is too long to be kept for another encoder."""
    if len(header) > MAX_START_BYTES:
        raise BadMedia(
            f"the container's header has {len(header)} bytes, at most {MAX_START_BYTES} can be kept"
        )


def extend_runs(runs: list[GeometryRun], unit: int, geometry: BlockGeometry) -> bool:
    """Note a unit's geometry. True when a new run began."""
    if runs and runs[-1].geometry == geometry:
        return False
    runs.append(GeometryRun(unit, geometry))
    if len(runs) > MAX_RUNS:
        runs[:2] = [GeometryRun(runs[0].first_unit, runs[1].geometry)]
    return True


def geometries_until(runs: tuple[GeometryRun, ...], units: int) -> list[tuple[int, BlockGeometry]]:
    """(count, geometry) for the units ``[0, units)``; the first run reaches back to unit 0."""
    counted: list[tuple[int, BlockGeometry]] = []
    for index, run in enumerate(runs):
        first = run.first_unit if index else 0
        end = runs[index + 1].first_unit if index + 1 < len(runs) else units
        if min(end, units) > first:
            counted.append((min(end, units) - first, run.geometry))
    return counted


def _geometry_fields(geometry: BlockGeometry) -> list[int]:
    return [geometry.text_before, geometry.grid_t, geometry.grid_h, geometry.grid_w, geometry.text_after]


def _run(item: object) -> GeometryRun:
    if not isinstance(item, list) or len(item) != 6:
        raise ValueError("a run has six numbers")
    unit, before, t, h, w, after = (_count(value) for value in item)
    geometry = BlockGeometry(text_before=before, grid_t=t, grid_h=h, grid_w=w, text_after=after)
    return GeometryRun(unit, geometry)


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a number")
    return value


def _count(value: object) -> int:
    if _integer(value) < 0:
        raise ValueError(f"{value!r} is negative")
    return _integer(value)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes were expected")
    return value
