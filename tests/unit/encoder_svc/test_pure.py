"""The small pure parts: admission, ledger, outbox, fair queue, settings, resume header, timers."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder_svc.admit import ChunkOrder, MediaLimits, PictureOrder, check_bytes, check_raw, check_size
from encoder_svc.config import EncoderConfig, parse_config
from encoder_svc.decode.timing import ContainerTimer, CountingTimer
from encoder_svc.ledger import Ledger, SyncPoint
from encoder_svc.outbox import Outbox
from encoder_svc.resume import (
    MAX_RUNS,
    GeometryRun,
    ResumeHeader,
    decode_resume_header,
    extend_runs,
    geometries_until,
)
from tandem.core.blocks import BlockGeometry
from tandem.core.errors import BadMedia, BadTimestamp, InvalidInput, WrongState
from tandem.core.timeline import Gap, GapReason, TimeRange

LIMITS = MediaLimits()


def geometry(side: int) -> BlockGeometry:
    return BlockGeometry(text_before=1, grid_t=1, grid_h=side, grid_w=side, text_after=1)


# -- admission --


@pytest.mark.parametrize(("width", "height"), [(0, 5), (8000, 5000), (100_000, 1), (20_000, 20_000)])
def test_sizes_over_the_limits_are_refused(width: int, height: int) -> None:
    with pytest.raises(BadMedia):
        check_size(width, height, LIMITS)


def test_8k_is_let_in() -> None:
    check_size(7680, 4320, LIMITS)


def test_bytes_are_judged() -> None:
    with pytest.raises(BadMedia, match="zero bytes"):
        check_bytes(0, LIMITS, "picture")
    with pytest.raises(BadMedia, match="at most"):
        check_bytes(LIMITS.max_message_bytes + 1, LIMITS, "picture")
    with pytest.raises(BadMedia, match="3 a pixel"):
        check_raw(10, 2, 2, LIMITS)


def test_pictures_in_order() -> None:
    order = PictureOrder(0)
    assert not order.admit(0, 100).lost_before
    assert order.admit(0, 100).known
    assert not order.admit(1, 100).lost_before
    assert order.admit(5, 200).lost_before
    with pytest.raises(BadTimestamp, match="goes back"):
        order.admit(6, 150)
    assert order.next_sequence == 7
    assert not order.admit(7, 200).lost_before
    for bad in (-1, 1 << 60):
        with pytest.raises(BadTimestamp, match="range"):
            order.admit(order.next_sequence, bad)


def test_chunks_in_order() -> None:
    order = ChunkOrder(100)
    assert order.admit(90, 20) == (10, 0)
    assert order.admit(90, 20) == (20, 0)
    assert order.admit(150, 10) == (0, 40)
    assert order.next_offset == 160
    with pytest.raises(InvalidInput):
        order.admit(1 << 63, 1)


# -- ledger --


def test_the_watermark_moves_over_what_is_resolved_in_front() -> None:
    ledger = Ledger(watermark_us=0, start=SyncPoint(0, 0), next_block_number=0)
    ledger.sink_published()
    first, second = ledger.add_unit(1000, 5.0), ledger.add_unit(2000, 6.0)
    gap = Gap(TimeRange(2000, 5000), GapReason.SOURCE)
    ledger.add_hole(gap, announced=False)
    ledger.add_point(SyncPoint(10, 900))
    ledger.add_point(SyncPoint(20, 4900))
    ledger.add_point(SyncPoint(30, 5100))
    ledger.publish(second, 2, now_s=7.0)
    assert ledger.standing.watermark_us == 0
    assert not ledger.take_gaps()
    ledger.publish(first, 1, now_s=7.5)
    standing = ledger.standing
    assert (standing.watermark_us, standing.next_block_number, standing.waiting) == (5000, 3, 0)
    assert standing.safe == SyncPoint(20, 4900)
    assert standing.lag_ms == 2500
    assert ledger.take_gaps() == [gap]
    assert ledger.take_gaps() == []


def test_what_was_announced_is_not_reported() -> None:
    ledger = Ledger(watermark_us=0, start=SyncPoint(0, 0), next_block_number=4)
    ledger.add_hole(Gap(TimeRange(0, 50), GapReason.OVERLOAD), announced=True)
    assert ledger.standing.watermark_us == 50
    assert ledger.take_gaps() == []
    serial = ledger.add_unit(80, 0.0)
    ledger.give_up(serial, Gap(TimeRange(50, 80), GapReason.UNDECODABLE))
    assert ledger.standing.next_block_number == 4
    assert len(ledger.take_gaps()) == 1


# -- outbox --


def test_the_outbox_keeps_its_bounds_and_order() -> None:
    outbox: Outbox[str] = Outbox(budget_bytes=100, budget_items=3)
    assert outbox.has_room(1000)  # alone, whatever its size
    outbox.reserve(60)
    assert not outbox.has_room(50)
    with pytest.raises(WrongState):
        outbox.reserve(50)
    outbox.reserve(40)
    outbox.put(1, "a", 60)
    outbox.put(2, "b", 40)
    assert outbox.take(1) == [(1, "a")]
    assert outbox.take(5) == [(2, "b")]
    assert not outbox.has_waiting
    outbox.give_back(1)
    assert outbox.take(5) == [(1, "a")]
    outbox.published(1)
    outbox.published(1)
    outbox.give_back(1)
    assert outbox.held_bytes == 40
    outbox.published(2)
    assert outbox.empty
    outbox.reserve(7)
    outbox.release(7)
    assert outbox.empty


# -- settings --


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_config(["--name", "a b", "--listen", "x", "--run-units", "0", "--orchestrator", "h:1"])
    message = str(caught.value)
    for part in ("--name", "--listen", "--run-units", "--secret-file"):
        assert part in message


def test_defaults_have_no_problems(tmp_path: Path) -> None:
    assert EncoderConfig().problems() == []
    assert parse_config([]) == EncoderConfig()
    secret = tmp_path / "secret"
    config = parse_config(["--secret-file", str(secret), "--lanes", "gloo", "--die-with-parent"])
    assert config.lanes == ("gloo",)
    with pytest.raises(InvalidInput, match="cannot read the secret file"):
        config.read_secret()
    secret.write_bytes(b"short")
    with pytest.raises(InvalidInput, match="16"):
        config.read_secret()
    secret.write_bytes(b"0123456789abcdef\n")
    assert config.read_secret() == b"0123456789abcdef"


# -- resume header --


def test_a_header_survives_the_trip() -> None:
    header = ResumeHeader(
        kind="mp4",
        point=SyncPoint(12345, 6_000_000),
        start_header=b"\0moov",
        origin_us=-77,
        runs=(GeometryRun(0, geometry(2)), GeometryRun(9, geometry(3))),
    )
    assert decode_resume_header(header.encode(), "mp4") == header
    with pytest.raises(InvalidInput):
        decode_resume_header(header.encode(), "ts")


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\1\2\3", b"\xff" * 40, b"\x81\xa1v\x01"])
def test_what_is_not_a_header_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_resume_header(data, "mp4")


def test_runs_of_geometries() -> None:
    runs: list[GeometryRun] = []
    assert extend_runs(runs, 0, geometry(2))
    assert not extend_runs(runs, 1, geometry(2))
    assert extend_runs(runs, 5, geometry(3))
    assert geometries_until(tuple(runs), 7) == [(5, geometry(2)), (2, geometry(3))]
    assert geometries_until(tuple(runs), 3) == [(3, geometry(2))]
    assert geometries_until(tuple(runs[1:]), 7) == [(7, geometry(3))]
    assert geometries_until((), 7) == []
    for unit in range(6, 6 + 2 * MAX_RUNS):
        extend_runs(runs, unit, geometry(2 + unit % 2))
    assert len(runs) == MAX_RUNS
    assert sum(count for count, _ in geometries_until(tuple(runs), 9000)) == 9000


# -- timers --


def test_container_times_start_at_zero_and_never_go_back() -> None:
    timer = ContainerTimer()
    assert timer.time_us(1, 5_000_000) == 0
    assert timer.time_us(2, 5_040_000) == 40_000
    assert timer.time_us(3, None) == 80_000
    with pytest.raises(BadTimestamp):
        timer.time_us(4, 5_010_000)
    assert timer.relative_us(6_000_000) == 1_000_000
    assert ContainerTimer(7_000_000).time_us(1, 6_000_000) is None
    behind = ContainerTimer(begins_us=3_000_000)
    assert behind.time_us(1, 5_000_000) == 3_000_000
    assert behind.origin_us == 2_000_000


def test_counted_times_go_on_where_they_stopped() -> None:
    whole = CountingTimer(29.97)
    times = [whole.time_us(tag, None) for tag in range(100)]
    for start in (0, 30, 99):
        taken_up = CountingTimer(29.97, start_us=times[start] or 0)
        taken_up.begin()
        taken_up.key(7)
        if start:
            assert taken_up.time_us(6, None) is None  # shown before the point, part of what came before
        assert taken_up.time_us(7, None) == times[start]
    whole.lost()
    assert whole.time_us(100, None) == round(101 * 1_000_000 / 29.97, -1) or whole.relative_us(None)
    whole.jump(50_000_000)
    later = whole.time_us(101, None)
    assert later is not None
    assert 50_000_000 <= later < 50_040_000
