"""What leaves the disk: dropped by its owner, over the budget or a quota, or too old."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reasoner_svc.store.disk.errors import DiskFull
from reasoner_svc.store.disk.leaving import FileFacts, Leave, NoRoom, plan_expiry, plan_room
from reasoner_svc.store.disk.slots import Claim
from tandem.core.errors import DataLost
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tests.unit.reasoner_svc.store_disk.disk_making import CAM, FILE_BYTES, item, items, make_store

SECOND = 1_000_000
OTHER = StreamId("other")


def facts(file: int, written_s: float, *, stream: str = "cam", sink: bool = False) -> FileFacts:
    return FileFacts(StreamId(stream), file, 100, written_s, sink)


def test_the_oldest_files_leave_over_all_streams() -> None:
    files = [facts(1, 1, sink=True), facts(2, 5), facts(3, 9), facts(1, 3, stream="other")]
    plan = plan_room(files, 400, 400, 150, "the budget")
    assert isinstance(plan, Leave)
    assert [(item.stream, item.file) for item in plan.files] == [("other", 1), ("cam", 2)]
    assert plan_room(files, 400, 1000, 150, "the budget") == Leave((), "removed to stay within the budget")
    assert isinstance(plan_room(files, 400, 400, 301, "the budget"), NoRoom), "sinks stay"


def test_a_sink_expires_with_the_last_of_its_stream() -> None:
    files = [facts(1, 1, sink=True), facts(2, 5), facts(3, 9)]
    assert [item.file for item in plan_expiry(files, 16, 10).files] == [2]
    assert [item.file for item in plan_expiry(files, 19, 10).files] == [1, 2, 3]
    assert plan_expiry(files, 1e9, 0).files == ()


def test_dropping_frees_whole_files_and_keeps_the_sink(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    slots = store.append(CAM, items(0, 20))
    before = store.used_bytes
    dropped = store.drop_before(CAM, 12)
    assert dropped.numbers == ((1, 12),)
    assert store.used_bytes == before - dropped.freed_bytes < before
    assert store.read(slots[0], item(0)[0].header).numel()
    with pytest.raises(DataLost):
        store.read(slots[1], item(1)[0].header)
    assert store.sync(CAM) == 19
    store.close_all()
    found = make_store(tmp_path).open(CAM)
    assert [header.key.number for header in found.headers] == [0, *range(12, 20)]
    assert (found.durable, found.missing) == (19, ())


def test_room_is_made_by_deleting_the_oldest_files_of_any_stream(tmp_path: Path) -> None:
    now = [100.0]
    store = make_store(tmp_path, budget_bytes=6 * FILE_BYTES, wall_clock=lambda: now[0])
    store.open(OTHER)
    store.append(OTHER, items(0, 8, "other"))
    store.close(OTHER)
    now[0] = 4e9  # A closed stream is as old as its files are.
    store.open(CAM)
    store.append(CAM, items(0, 12))
    with pytest.raises(DiskFull):
        store.append(CAM, items(12, 40))
    assert store.make_room(100) == []
    left = store.make_room(3 * FILE_BYTES)
    assert [item.stream for item in left] == [OTHER], "it was written long ago"
    assert left[0].dropped is not None
    assert left[0].dropped.numbers[0][0] == 1
    found = store.open(OTHER)
    assert found.headers[0].key.number == 0
    assert [(m.first, m.reason) for m in found.missing] == [(1, "removed to stay within the disk budget")]
    with pytest.raises(DiskFull):
        store.make_room(7 * FILE_BYTES)


def test_a_quota_concerns_one_stream(tmp_path: Path) -> None:
    store = make_store(tmp_path, stream_bytes=2 * FILE_BYTES)
    store.open(CAM)
    store.open(OTHER)
    store.append(OTHER, items(0, 5, "other"))
    store.append(CAM, items(0, 8))
    with pytest.raises(DiskFull):
        store.append(CAM, items(8, 14))
    left = store.make_room(5000, CAM)
    assert [item.stream for item in left] == [CAM]
    assert store.missing(CAM)[0].time == TimeRange(0, store.missing(CAM)[0].time.end_us)  # type: ignore[union-attr]
    store.append(CAM, items(8, 10))
    assert store.sync(CAM) == 9, "what was removed does not hold the durable number back"


def test_old_files_expire_and_closed_streams_go_as_a_whole(tmp_path: Path) -> None:
    now = [1000.0]
    store = make_store(tmp_path, keep_s=100, wall_clock=lambda: now[0])
    store.open(CAM)
    store.append(CAM, items(0, 3))
    store.open(OTHER)
    store.append(OTHER, items(0, 3, "other"))
    now[0] = 1090.0
    store.append(CAM, items(3, 5))
    store.close(OTHER)
    assert store.expire(1050.0) == []
    left = store.expire(1150.0)
    assert [(item.stream, item.dropped and item.dropped.numbers) for item in left] == [(CAM, ((1, 3),))]
    assert store.streams() == [CAM, OTHER], "a closed stream is judged by the times of its files"
    left = store.expire(4e9)
    assert {(item.stream, item.dropped is None) for item in left} == {(CAM, False), (OTHER, True)}
    assert store.streams() == [CAM]
    assert [m.reason for m in store.missing(CAM)] == ["older than 100 s"]


def test_files_set_aside_go_first(tmp_path: Path) -> None:
    store = make_store(tmp_path, fingerprint="f" * 32)
    store.open(CAM)
    store.close_all()
    aside = tmp_path / "s-cam" / "aside"
    aside.mkdir()
    (aside / "00000001.tkv").write_bytes(bytes(5000))
    store = make_store(tmp_path, budget_bytes=6000)
    assert store.used_bytes == 5000
    assert store.make_room(4000) == []
    assert store.used_bytes == 0


def test_what_another_incarnation_left_goes_before_the_quota_costs_anything(tmp_path: Path) -> None:
    first = make_store(tmp_path)
    first.open(CAM, Claim("one"))
    first.append(CAM, items(0, 12))
    first.close_all()
    store = make_store(tmp_path, stream_bytes=8 * FILE_BYTES)
    found = store.open(CAM, Claim("two"))
    assert (found.headers, found.missing, found.durable) == ([], (), -1)
    assert "00000001.tkv" in {aside.name for aside in found.aside}
    store.append(CAM, items(0, 4))
    held = store.stream_bytes(CAM)
    assert store.make_room(8 * FILE_BYTES - held + 1, CAM) == []
    assert store.stream_bytes(CAM) < held
    assert not list((tmp_path / "s-cam" / "aside").glob("*.tkv"))
    assert len(store.missing(CAM)) == 0


def test_what_was_set_aside_leaves_with_its_age(tmp_path: Path) -> None:
    first = make_store(tmp_path)
    first.open(CAM, Claim("one"))
    first.append(CAM, items(0, 12))
    first.close_all()
    store = make_store(tmp_path, keep_s=60)
    store.open(CAM, Claim("two"))
    used = store.used_bytes
    store.expire(time.time())
    assert store.used_bytes == used
    store.expire(time.time() + 61)
    assert store.used_bytes == 0
