"""What leaves the disk is counted by reason, and so is what is found damaged there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kv_transfer.block import BlockCorrupt
from reasoner_svc.store.disk.measured import MeasuredDisk
from reasoner_svc.store.disk.slots import Fsync, FsyncPolicy
from tandem.core.ids import StreamId
from tests.contract.recording import Recorder
from tests.unit.reasoner_svc.making import FINGERPRINT, LAYOUT
from tests.unit.reasoner_svc.store_disk.disk_making import CAM, FILE_BYTES, item, items

OTHER = StreamId("other")


def make(root: Path, meters: Recorder, **options: Any) -> MeasuredDisk:
    settings = {"budget_bytes": 1 << 30, "file_bytes": FILE_BYTES, "fsync": FsyncPolicy(Fsync.NEVER)}
    return MeasuredDisk(root, fingerprint=FINGERPRINT, layout=LAYOUT, meters=meters, **settings | options)


def test_blocks_that_leave_are_counted_by_reason(tmp_path: Path) -> None:
    disk = make(tmp_path / "budget", Recorder(), budget_bytes=6 * FILE_BYTES)
    disk.open(CAM)
    disk.append(CAM, items(0, 12))
    assert disk.left == {"budget": 0, "quota": 0, "age": 0}
    (left,) = disk.make_room(5 * FILE_BYTES)
    assert left.dropped is not None
    gone = sum(end - first for first, end in left.dropped.numbers)
    assert disk.left == {"budget": gone, "quota": 0, "age": 0}
    assert gone > 0

    disk = make(tmp_path / "quota", Recorder(), stream_bytes=2 * FILE_BYTES)
    disk.open(CAM)
    disk.append(CAM, items(0, 8))
    disk.make_room(5000, CAM)
    assert disk.left["quota"] > 0

    now = [1000.0]
    disk = make(tmp_path / "age", Recorder(), keep_s=100, wall_clock=lambda: now[0])
    disk.open(OTHER)
    disk.append(OTHER, items(0, 3, "other"))
    disk.close(OTHER)
    disk.expire(4e9)
    assert disk.left["age"] == 1, "a closed stream that went as a whole"


def test_damage_is_counted(tmp_path: Path) -> None:
    meters = Recorder()
    disk = make(tmp_path, meters)
    disk.open(CAM)
    (slot,) = disk.append(CAM, [item(1)])
    header = item(1)[0].header
    disk.read(slot, header)
    assert not meters.counts
    with (tmp_path / "s-cam" / f"{slot.file:08d}.tkv").open("r+b") as file:
        file.seek(slot.start)
        byte = file.read(1)[0]
        file.seek(slot.start)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BlockCorrupt):
        disk.read(slot, header)
    assert meters.counts == {("tandem_kv_checksum_failures_total", ("disk",)): 1}
