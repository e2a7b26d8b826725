"""Encoded streams: the same frames however the bytes are cut, and from every safe position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder_svc.decode.make import Beginning, MediaKind
from encoder_svc.decode.source import RawChunk, Refusal, Start
from encoder_svc.resume import ResumeHeader
from encoder_svc.sample import Hole
from tests.unit.encoder_svc.media import CONTAINERS, cut, encode, open_source, reference_frames, run, units

KINDS = list(CONTAINERS)
STREAMS = {kind: encode(kind) for kind in KINDS}
REFERENCE = {kind: reference_frames(kind, data) for kind, data in STREAMS.items()}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1 << 30), largest=st.sampled_from([1, 7, 188, 1000, 1 << 20]))
def test_frames_do_not_depend_on_the_cuts(kind: MediaKind, seed: int, largest: int) -> None:
    events = run(open_source(kind), list(cut(STREAMS[kind], seed, largest)))
    found = units(events)
    assert len(found) == 60
    assert [unit.time.start_us for unit in found] == [index * 40_000 for index in range(60)]
    for unit, expected in zip(found, REFERENCE[kind], strict=True):
        assert np.array_equal(unit.frames[0], expected)
    assert not [event for event in events if isinstance(event, Refusal | Hole)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_start_gives_the_same_remaining_frames(kind: MediaKind) -> None:
    data = STREAMS[kind]
    source = open_source(kind)
    events = run(source, list(cut(data, 3)))
    whole = units(events)
    starts = [event for event in events if isinstance(event, Start)]
    assert len(starts) >= 5
    for start in starts:
        header = ResumeHeader(
            kind=kind, point=start.point, start_header=start.header, origin_us=source.origin_us
        )
        from_us = start.point.time_us + 80_000
        again = open_source(
            kind, from_us=from_us, beginning=Beginning(position=start.point.position, header=header)
        )
        rest = units(run(again, list(cut(data[start.point.position :], 4, offset=start.point.position))))
        expected = [unit for unit in whole if unit.time.start_us >= from_us]
        assert [unit.time for unit in rest] == [unit.time for unit in expected]
        for left, right in zip(rest, expected, strict=True):
            assert np.array_equal(left.frames[0], right.frames[0])


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_without_a_header_begin_where_they_are_told(kind: MediaKind) -> None:
    whole = units(run(open_source(kind), list(cut(STREAMS[kind], 3))))
    at_us = 60_000_000
    later = open_source(kind, from_us=at_us, beginning=Beginning(begins_us=at_us))
    moved = units(run(later, list(cut(STREAMS[kind], 3))))
    assert abs(len(moved) - len(whole)) <= 1
    assert at_us <= moved[0].time.start_us < at_us + 1_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_begins_where_the_bytes_before_it_give_all_frames_before_it(kind: MediaKind) -> None:
    data = encode(kind, 24, b_frames=0)
    source = open_source(kind)
    for chunk in cut(data, 5):
        run(source, [chunk], finish=False)
    run(source, [])
    assert source.decoded_position == source.consumed
    frames = source.take_decoded()
    assert [frame.time_us for frame in frames] == [index * 40_000 for index in range(24)]
    assert source.take_decoded() == []
    for index in (1, 7, 10, 23):
        before = open_source(kind)
        run(before, list(cut(data[: frames[index].position], 6)))
        assert len(before.take_decoded()) == index, "no byte of it, and all of those before"


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_what_begins_before_the_decoded_position_was_told(kind: MediaKind, b_frames: int) -> None:
    """However small the chunks, and whatever the decoder holds back."""
    data = encode(kind, 40, b_frames=b_frames)
    source = open_source(kind)
    run(source, [RawChunk(0, data)])
    frames = sorted((frame.position, frame.time_us) for frame in source.take_decoded())
    source = open_source(kind)
    told, behind = set(), 0
    for at in range(0, len(data), 50):
        run(source, [RawChunk(at, data[at : at + 50])], finish=False)
        position = source.decoded_position
        assert position is not None
        told |= {(frame.position, frame.time_us) for frame in source.take_decoded()}
        assert {frame for frame in frames if frame[0] < position} <= told
        behind = max(behind, sum(position <= start for start, _ in frames if start < source.consumed))
    assert behind <= (6 if b_frames else 2), "and it keeps up with them"
    run(source, [])
    assert source.decoded_position == len(data)
