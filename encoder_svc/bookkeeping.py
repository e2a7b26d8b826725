"""Pure. What a session must remember to report, and to let another encoder go on: ledger, runs, headers.

Knows neither links nor decoders. Event loop's thread only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from encoder_svc.ledger import Ledger, SyncPoint
from encoder_svc.messages import Opening, Report
from encoder_svc.resume import (
    GeometryRun,
    ResumeHeader,
    check_start_header,
    decode_resume_header,
    extend_runs,
)
from tandem.core.blocks import BlockGeometry
from tandem.core.timeline import Gap


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a session begins."""

    position: int
    from_us: int | None
    """None for a new stream."""
    next_block_number: int
    header: ResumeHeader | None
    begins_us: int = 0
    """Stream time of the first frame, where there is no header."""

    @staticmethod
    def of(opening: Opening) -> Origin:
        """From the opening. Raises InvalidInput when its header cannot be read."""
        resume = opening.resume
        if resume is None:
            return Origin(0, None, 0, None)
        header = decode_resume_header(resume.decoder_header, opening.kind) if resume.decoder_header else None
        return Origin(resume.position, resume.from_us, resume.next_block_number, header, resume.begins_us)


class Book:
    """The book of one session."""

    def __init__(self, kind: str, origin: Origin) -> None:
        self._kind = kind
        self._origin = origin
        self._start_headers: dict[int, bytes] = {}
        header = origin.header
        # Geometries are of blocks that the reasoner holds; when it holds none, numbering begins anew.
        self._runs: list[GeometryRun] = list(header.runs) if header and origin.next_block_number else []
        self._next_unit = max(origin.next_block_number - 1, 0)
        start = SyncPoint(origin.position, 0)
        if header is not None and header.point.position == origin.position:
            start = header.point
            self._start_headers[start.position] = header.start_header
        self.ledger = Ledger(
            watermark_us=origin.from_us or 0, start=start, next_block_number=origin.next_block_number
        )
        self._sent_header = origin.header.encode() if origin.header else b""
        self._packed: tuple[SyncPoint, int, bytes] | None = None
        """The header as last packed, with its point and origin; None once its runs have changed."""
        self._told: Report | None = None

    @property
    def runs(self) -> tuple[GeometryRun, ...]:
        """Geometries of all units so far."""
        return tuple(self._runs)

    def add_unit(self, end_us: int, arrived_s: float) -> int:
        """A unit goes to the model. Returns its serial."""
        return self.ledger.add_unit(end_us, arrived_s)

    def made(self, geometry: BlockGeometry) -> None:
        """The next unit's block is there. Not before: a unit that was left out has none, and no number."""
        if extend_runs(self._runs, self._next_unit, geometry):
            self._packed = None
        self._next_unit += 1

    def add_start(self, point: SyncPoint, header: bytes) -> None:
        """A fresh decoder could start here. Raises BadMedia for a header that is too long to be kept."""
        check_start_header(header)
        if point.position not in self._start_headers:
            self._start_headers[point.position] = header
            self.ledger.add_point(point)

    def report(self, *, decoded_us: int, consumed: int, origin_us: int) -> Report:
        """The present state; gaps and header only when they are new since the last call."""
        standing = self.ledger.standing
        gaps: tuple[Gap, ...] = tuple(self.ledger.take_gaps())
        return Report(
            watermark_us=standing.watermark_us,
            decoded_us=max(decoded_us, standing.watermark_us),
            safe_position=standing.safe.position,
            decoder_header=self._changed_header(standing.safe, origin_us),
            next_block_number=standing.next_block_number,
            gaps=gaps,
            lag_ms=standing.lag_ms,
            consumed_position=consumed,
            frames_waiting=standing.waiting,
        )

    def is_news(self, report: Report) -> bool:
        """True when a report says anything that the last such report did not."""
        plain = dataclasses.replace(report, gaps=(), decoder_header=None, decoded=())
        is_more = report.gaps or report.decoded or report.decoder_header is not None
        if plain == self._told and not is_more:
            return False
        self._told = plain
        return True

    def _changed_header(self, safe: SyncPoint, origin_us: int) -> bytes | None:
        encoded = self._header(safe, origin_us)
        if encoded == self._sent_header:
            return None
        self._sent_header = encoded
        for position in [known for known in self._start_headers if known < safe.position]:
            del self._start_headers[position]
        return encoded

    def _header(self, safe: SyncPoint, origin_us: int) -> bytes:
        if self._kind == "pictures":
            # Pictures stand for themselves: only the runs matter, and change seldom.
            return self._pack(SyncPoint(0, 0), b"", 0) if self._runs else b""
        if safe.position not in self._start_headers:
            return self._sent_header
        return self._pack(safe, self._start_headers[safe.position], origin_us)

    def _pack(self, point: SyncPoint, start_header: bytes, origin_us: int) -> bytes:
        if self._packed is None or self._packed[:2] != (point, origin_us):
            header = ResumeHeader(
                kind=self._kind, point=point, start_header=start_header, origin_us=origin_us, runs=self.runs
            )
            self._packed = (point, origin_us, header.encode())
        return self._packed[2]
