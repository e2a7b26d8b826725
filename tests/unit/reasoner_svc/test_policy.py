"""Who leaves: fewest, oldest, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator

from reasoner_svc.store.directory import Directory, Entry
from reasoner_svc.store.disk.slots import DiskSlot
from reasoner_svc.store.extents import ALIGN_BYTES, Extents
from reasoner_svc.store.policies.oldest_first import OldestFirst
from reasoner_svc.store.residents import Residents
from reasoner_svc.store.room import NoRoom, Room, plan_room
from tandem.core.ids import StreamId
from tests.unit.reasoner_svc.making import make_header

LENGTH = make_header(1).payload_bytes


class NewestFirst:
    name = "newest-first"

    def order(self, residents: Residents) -> Iterator[Entry]:
        return reversed(list(residents.by_arrival()))


def full(blocks: int) -> tuple[Directory, Extents]:
    """A sink and visual blocks that fill their budget."""
    assert LENGTH % ALIGN_BYTES == 0
    room, directory = Extents(blocks * LENGTH, blocks * LENGTH), Directory()
    for number in range(blocks):
        slot = room.take(LENGTH)
        assert slot is not None
        entry = directory.add(make_header(number), slot)
        directory.land(entry)
        directory.publish(entry)
    return directory, room


def victims(plan: Room | NoRoom) -> list[int]:
    assert isinstance(plan, Room), plan
    return [entry.key.number for entry in plan.victims]


def test_nobody_leaves_while_there_is_room() -> None:
    directory, room = full(3)
    assert victims(plan_room(LENGTH, Extents(LENGTH, LENGTH), directory.residents, OldestFirst())) == []
    assert not room.fits(LENGTH)
    assert len(directory) == 3


def test_the_oldest_leave_and_the_sink_stays() -> None:
    directory, room = full(4)
    plan = plan_room(2 * LENGTH, room.trial(), directory.residents, OldestFirst())
    assert victims(plan) == [1, 2]


def test_pinned_blocks_stay() -> None:
    directory, room = full(4)
    pinned = directory.find(make_header(1).key)
    assert pinned is not None
    directory.pin(pinned)
    plan = plan_room(LENGTH, room.trial(), directory.residents, OldestFirst())
    assert victims(plan) == [2]


def test_victims_go_on_until_the_hole_is_whole() -> None:
    directory, room = full(5)
    pinned = directory.find(make_header(2).key)
    assert pinned is not None
    directory.pin(pinned)
    plan = plan_room(2 * LENGTH, room.trial(), directory.residents, OldestFirst())
    assert victims(plan) == [1, 3, 4], "1 alone leaves no hole of two blocks"


def test_all_or_nothing() -> None:
    directory, room = full(3)
    plan = plan_room(3 * LENGTH, room.trial(), directory.residents, OldestFirst())
    assert isinstance(plan, NoRoom)
    assert "no room" in plan.reason
    assert len(directory) == 3
    assert not room.fits(LENGTH)


def test_another_order_is_another_class() -> None:
    directory, room = full(4)
    plan = plan_room(LENGTH, room.trial(), directory.residents, NewestFirst())
    assert victims(plan) == [3]


def test_what_is_not_on_disk_yet_waits_for_it() -> None:
    directory, room = full(4)
    written = directory.find(make_header(2).key)
    assert written is not None
    written.disk = DiskSlot(StreamId("cam"), 1, 64, LENGTH)
    waiting = {make_header(number).key for number in range(4) if number != 2}
    plan = plan_room(LENGTH, room.trial(), directory.residents, OldestFirst(), waiting=waiting)
    assert victims(plan) == [2]
    plan = plan_room(2 * LENGTH, room.trial(), directory.residents, OldestFirst(), waiting=waiting)
    assert isinstance(plan, NoRoom)
    assert "wait to be written" in plan.reason
