"""What a directory says after it was left in a bad state."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest
import torch

from bench._disk_faults import Fault, FaultyFiles
from reasoner_svc.store.disk.errors import DiskFull, SyncFailed
from reasoner_svc.store.disk.slots import DiskSlot, Fsync, FsyncPolicy
from reasoner_svc.store.disk.store import DiskStore, Recovered
from tests.unit.reasoner_svc.store_disk.disk_making import CAM, item, items, make_store


def left_behind(tmp_path: Path, *, synced: int, end: int) -> tuple[Path, list[DiskSlot]]:
    """As a killed process leaves it: blocks below `synced` are catalogued, the others only written."""
    store = make_store(tmp_path / "live")
    store.open(CAM)
    slots = store.append(CAM, items(0, synced))
    store.sync(CAM)
    slots += store.append(CAM, items(synced, end))
    shutil.copytree(tmp_path / "live", tmp_path / "left")
    store.close_all()
    return tmp_path / "left", slots


def data(root: Path, number: int) -> Path:
    return root / "s-cam" / f"{number:08d}.tkv"


def numbers(found: Recovered) -> list[int]:
    return [header.key.number for header in found.headers]


def check_readable(store: DiskStore, found: Recovered) -> None:
    for slot, header, reps in zip(found.slots, found.headers, found.representatives, strict=True):
        block, expected = item(header.key.number)
        assert header == block.header
        assert torch.equal(store.read(slot, header), block.payload)
        assert torch.equal(reps, expected)


def test_what_was_written_but_not_catalogued_is_adopted(tmp_path: Path) -> None:
    root, _ = left_behind(tmp_path, synced=6, end=14)
    store = make_store(root)
    found = store.open(CAM)
    assert numbers(found) == list(range(14))
    assert (found.durable, found.missing) == (13, ())
    check_readable(store, found)


def test_a_torn_tail_is_cut_off_and_appending_goes_on(tmp_path: Path) -> None:
    root, slots = left_behind(tmp_path, synced=6, end=8)
    path = data(root, slots[7].file)
    os.truncate(path, slots[7].start + 10)
    store = make_store(root)
    found = store.open(CAM)
    assert numbers(found) == list(range(7))
    assert [(m.first, m.end) for m in found.missing] == [(7, 8)]
    assert path.stat().st_size < slots[7].start
    [slot] = store.append(CAM, [item(7)])
    assert slot == slots[7], "in the same place"
    assert store.sync(CAM) == 7
    assert store.missing(CAM) == ()


def test_a_truncated_file_loses_only_its_end(tmp_path: Path) -> None:
    root, slots = left_behind(tmp_path, synced=12, end=12)
    assert slots[2].file == slots[3].file
    os.truncate(data(root, slots[3].file), slots[3].start)
    store = make_store(root)
    found = store.open(CAM)
    assert [(m.first, m.reason) for m in found.missing] == [(3, "its data file is cut off")]
    assert set(numbers(found)) == set(range(12)) - set(range(3, found.missing[0].end))
    assert found.durable == 11
    check_readable(store, found)
    [slot] = store.append(CAM, [item(3)])
    assert slot.file > slots[-1].file or slot.file == slots[-1].file


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    root, slots = left_behind(tmp_path, synced=12, end=12)
    data(root, slots[1].file).unlink()
    found = make_store(root).open(CAM)
    assert found.missing[0].first == 1
    assert found.missing[0].reason == "its data file is gone"
    assert numbers(found)[0] == 0


def test_without_its_catalogue_a_directory_is_read_from_the_data(tmp_path: Path) -> None:
    root, slots = left_behind(tmp_path, synced=12, end=12)
    for path in (root / "s-cam").glob("catalogue*"):
        path.unlink()
    with data(root, slots[3].file).open("r+b") as file:  # Blocks behind a damaged one are still found.
        file.seek(slots[3].start)
        file.write(b"damage")
    store = make_store(root)
    found = store.open(CAM)
    assert numbers(found) == [n for n in range(12) if n != 3]
    assert found.missing[0].reason.startswith("layer 0 of block 3")
    check_readable(store, found)


@pytest.mark.parametrize("where", [0, 60, 6000])
def test_a_damaged_catalogue_is_set_aside_and_made_anew(tmp_path: Path, where: int) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    store.append(CAM, items(0, 12))
    store.close_all()
    with (tmp_path / "s-cam" / "catalogue.sqlite").open("r+b") as file:
        file.seek(where)
        file.write(os.urandom(3000))
    store = make_store(tmp_path)
    found = store.open(CAM)
    assert numbers(found) == list(range(12))
    assert [aside.name for aside in found.aside] == ["catalogue.sqlite"]
    assert (tmp_path / "s-cam" / "aside" / "catalogue.sqlite.reason").read_text()
    check_readable(store, found)


def test_a_row_that_vanished_or_changed_is_noticed(tmp_path: Path) -> None:
    for number, change in enumerate(
        ("DELETE FROM blocks WHERE number = 4", "UPDATE blocks SET reps = zeroblob(128) WHERE number = 4")
    ):
        root = tmp_path / str(number)
        store = make_store(root)
        store.open(CAM)
        store.append(CAM, items(0, 6))
        store.close_all()
        with sqlite3.connect(root / "s-cam" / "catalogue.sqlite") as database:
            database.execute(change)
        database.close()
        store = make_store(root)
        found = store.open(CAM)
        assert numbers(found) == list(range(6))
        assert len(found.aside) == 1
        check_readable(store, found)
        store.close_all()


def test_another_models_files_are_set_aside_and_their_blocks_missing(tmp_path: Path) -> None:
    root, _ = left_behind(tmp_path, synced=8, end=8)
    store = make_store(root, fingerprint="f" * 32)
    found = store.open(CAM)
    assert found.headers == []
    assert [(m.first, m.end, m.reason) for m in found.missing] == [(0, 8, "the block is of another model")]
    assert {aside.name for aside in found.aside} >= {"catalogue.sqlite", "00000001.tkv", "00000002.tkv"}
    assert not list((root / "s-cam").glob("*.tkv"))
    store.close_all()
    again = make_store(root, fingerprint="f" * 32).open(CAM)
    assert (again.missing, again.aside) == (found.missing, ()), "said once, remembered"


def test_a_file_of_another_version_is_set_aside(tmp_path: Path) -> None:
    root, slots = left_behind(tmp_path, synced=12, end=12)
    with data(root, slots[1].file).open("r+b") as file:
        file.seek(4)
        file.write(b"\x07")
    found = make_store(root).open(CAM)
    assert "version 7" in found.missing[0].reason
    assert [aside.name for aside in found.aside] == [data(root, slots[1].file).name]
    assert 0 in numbers(found)


def test_a_copy_of_a_file_under_another_number_is_not_read_twice(tmp_path: Path) -> None:
    root, slots = left_behind(tmp_path, synced=12, end=12)
    shutil.copy(data(root, slots[1].file), data(root, 77))
    found = make_store(root).open(CAM)
    assert numbers(found) == list(range(12))
    assert [aside.name for aside in found.aside] == ["00000077.tkv"]


def faulty(tmp_path: Path, fault: Fault, at: int, lasting: int = 1) -> FaultyFiles:
    return FaultyFiles(fault, at, lasting, tmp_path, tmp_path.with_name("copy"), Random(3))


def refusing_from_now(files: FaultyFiles, lasting: int = 1) -> None:
    files.at, files.lasting = files.step + 1, lasting


@pytest.mark.parametrize("fault", [Fault.FULL, Fault.BROKEN, Fault.SHORT])
def test_a_full_disk_keeps_what_got_in_and_goes_on_later(tmp_path: Path, fault: Fault) -> None:
    files = faulty(tmp_path, fault, at=0)
    store = make_store(tmp_path, files=files)
    store.open(CAM)
    store.append(CAM, items(0, 3))
    refusing_from_now(files)
    with pytest.raises(DiskFull) as caught:
        store.append(CAM, items(3, 6))
    stored = len(caught.value.stored)
    assert store.append(CAM, items(3 + stored, 6))
    assert store.sync(CAM) == 5
    store.close_all()
    store = make_store(tmp_path)
    found = store.open(CAM)
    assert numbers(found) == list(range(6))
    check_readable(store, found)


def test_after_a_failed_fsync_the_blocks_are_forgotten_and_may_come_anew(tmp_path: Path) -> None:
    files = faulty(tmp_path, Fault.BROKEN, at=0)
    store = make_store(tmp_path, files=files, fsync=FsyncPolicy(Fsync.INTERVAL))
    store.open(CAM)
    store.append(CAM, items(0, 3))
    store.sync(CAM)
    store.append(CAM, items(3, 5))
    refusing_from_now(files)
    with pytest.raises(SyncFailed) as caught:
        store.sync(CAM)
    assert caught.value.forgotten == (3, 4)
    assert store.durable(CAM) == 2
    store.append(CAM, items(3, 5))
    assert store.sync(CAM) == 4
    store.close_all()
    store = make_store(tmp_path)
    check_readable(store, found := store.open(CAM))
    assert numbers(found) == list(range(5))


def test_a_catalogue_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    files = faulty(tmp_path, Fault.FULL, at=0)
    store = make_store(tmp_path, files=files, fsync=FsyncPolicy(Fsync.NEVER))
    store.open(CAM)
    store.append(CAM, items(0, 3))
    refusing_from_now(files)
    with pytest.raises(DiskFull):
        store.sync(CAM)
    assert store.durable(CAM) == -1
    assert store.sync(CAM) == 2
