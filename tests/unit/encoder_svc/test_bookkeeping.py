"""What a session's book keeps for another encoder: bounded, and packed only when it changed."""

from __future__ import annotations

import pytest

from encoder_svc import resume
from encoder_svc.bookkeeping import Book, Origin
from encoder_svc.ledger import SyncPoint
from encoder_svc.resume import MAX_HEADER_BYTES, MAX_RUNS, decode_resume_header
from tandem.core.blocks import BlockGeometry
from tandem.core.errors import BadMedia
from tandem.core.timeline import Gap, GapReason, TimeRange


def geometry(width: int) -> BlockGeometry:
    return BlockGeometry(text_before=1, grid_t=1, grid_h=2, grid_w=width, text_after=1)


def test_a_beginning_that_no_other_encoder_could_take_up_is_refused_at_once() -> None:
    book = Book("mp4", Origin(0, None, 0, None))
    with pytest.raises(BadMedia, match="bytes"):
        book.add_start(SyncPoint(10, 0), bytes(MAX_HEADER_BYTES))


def test_the_longest_header_that_is_kept_can_be_read_again() -> None:
    book = Book("mp4", Origin(0, None, 0, None))
    book.add_start(SyncPoint(0, 0), bytes(resume.MAX_START_BYTES))
    for unit in range(2 * MAX_RUNS):
        book.add_unit(unit, 0.0)
        book.made(geometry(1_000_000_000_000 + unit))
    packed = book.report(decoded_us=0, consumed=0, origin_us=-(1 << 62)).decoder_header
    assert packed is not None
    assert len(packed) <= MAX_HEADER_BYTES
    assert len(decode_resume_header(packed, "mp4").runs) == MAX_RUNS


def test_a_header_is_packed_once_for_many_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book("pictures", Origin(0, None, 0, None))
    book.add_unit(1, 0.0)
    book.made(geometry(2))
    calls = 0
    real = resume.ResumeHeader.encode

    def counted(header: resume.ResumeHeader) -> bytes:
        nonlocal calls
        calls += 1
        return real(header)

    monkeypatch.setattr(resume.ResumeHeader, "encode", counted)
    first = book.report(decoded_us=0, consumed=0, origin_us=0).decoder_header
    assert first is not None
    for _ in range(5):
        assert book.report(decoded_us=0, consumed=0, origin_us=0).decoder_header is None
    assert calls == 1
    book.add_unit(2, 0.0)
    book.made(geometry(3))
    assert book.report(decoded_us=0, consumed=0, origin_us=0).decoder_header not in {None, first}
    assert calls == 2


def test_a_unit_that_was_left_out_has_no_number() -> None:
    book = Book("pictures", Origin(0, None, 0, None))
    left_out = book.add_unit(1, 0.0)
    for end_us in (2, 3):
        book.add_unit(end_us, 0.0)
    book.ledger.give_up(left_out, Gap(TimeRange(0, 1), GapReason.OVERLOAD))
    book.made(geometry(2))
    book.made(geometry(3))
    assert [(run.first_unit, run.geometry.grid_w) for run in book.runs] == [(0, 2), (1, 3)]
    assert book.report(decoded_us=0, consumed=0, origin_us=0).gaps == (
        Gap(TimeRange(0, 1), GapReason.OVERLOAD),
    )
