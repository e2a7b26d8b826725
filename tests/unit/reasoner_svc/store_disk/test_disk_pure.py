"""The disk tier's pure parts: number sets, losses, heads, runs of reads."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.header import HeaderCorrupt, HeaderUnsupported
from reasoner_svc.store.disk.coalesce import Piece, coalesce
from reasoner_svc.store.disk.format import (
    FILE_HEAD_BYTES,
    FileHead,
    decode_file_head,
    decode_record_head,
    encode_file_head,
    encode_record,
)
from reasoner_svc.store.disk.losses import contiguous_end, settle, unknown
from reasoner_svc.store.disk.numbers import NumberSet, ranges_of
from reasoner_svc.store.disk.slots import Identity, Lost
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tests.unit.reasoner_svc.making import FINGERPRINT, LAYOUT, make_block

IDENTITY = Identity(StreamId("cam"), FINGERPRINT, LAYOUT)
CHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 8)), max_size=20)


@given(CHANGES)
def test_a_number_set_is_a_set(changes: list[tuple[bool, int, int]]) -> None:
    ours, plain = NumberSet(), set[int]()
    for add, first, length in changes:
        (ours.add if add else ours.remove)(first, first + length)
        (plain.update if add else plain.difference_update)(range(first, first + length))
        assert list(ours) == ranges_of(plain)
        assert len(ours) == len(plain)
        assert [n for n in range(50) if n in ours] == sorted(plain)
        assert ours.holes(5, 25) == ranges_of(set(range(5, 25)) - plain)


def test_losses_are_joined_split_and_forgotten() -> None:
    lost = [
        Lost(5, 8, TimeRange(50, 80), "gone"),
        Lost(8, 9, TimeRange(80, 90), "gone"),
        Lost(6, 7, None, "again"),
    ]
    assert settle(lost, NumberSet(), 0) == (Lost(5, 9, TimeRange(50, 90), "gone"),)
    assert settle(lost[:1], NumberSet([(6, 7)]), 0) == (Lost(5, 6, None, "gone"), Lost(7, 8, None, "gone"))
    assert settle(lost, NumberSet(), 9) == ()
    assert [(item.first, item.end) for item in unknown(lost, NumberSet([(0, 3)]), 0, 11)] == [(3, 5), (9, 11)]
    assert contiguous_end(NumberSet([(0, 5)]), lost, 0) == 9
    assert contiguous_end(NumberSet([(0, 1), (7, 9)]), [], 7) == 9
    assert contiguous_end(NumberSet([(1, 5)]), [], 0) == 0


def test_heads_are_read_back_and_distrusted() -> None:
    head = FileHead(IDENTITY, 7, sink=False)
    data = encode_file_head(head)
    assert len(data) == FILE_HEAD_BYTES
    assert decode_file_head(data) == head
    with pytest.raises(HeaderUnsupported):
        decode_file_head(data[:4] + b"\x02" + data[5:])
    for damaged in (data[:100], b"x" + data[1:], data[:20] + b"\xff" + data[21:], b""):
        with pytest.raises(HeaderCorrupt):
            decode_file_head(damaged)
    record, lead = encode_record(make_block(3).header, bytes(128), 5)
    assert decode_record_head(lead) == record
    assert len(lead) == record.payload_at
    assert record.payload_at % 64 == record.length % 64 == 0
    for at in range(64):
        with pytest.raises((HeaderCorrupt, HeaderUnsupported)):
            decode_record_head(lead[:at] + bytes([lead[at] ^ 1]) + lead[at + 1 :])


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 3000), st.integers(1, 100)), max_size=30))
def test_runs_cover_every_piece_once(places: list[tuple[int, int, int]]) -> None:
    pieces = [Piece(StreamId("a"), file, at, length, i) for i, (file, at, length) in enumerate(places)]
    runs = coalesce(pieces, gap_bytes=64, max_bytes=500, max_pieces=4)
    assert sorted(piece for run in runs for piece in run) == sorted(pieces)
    for run in runs:
        assert len(run) <= 4
        assert run[-1].start + run[-1].length - run[0].start <= 500
        for one, following in itertools.pairwise(run):
            assert one.file == following.file
            assert 0 <= following.start - (one.start + one.length) <= 64
