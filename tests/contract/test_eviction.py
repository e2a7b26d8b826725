"""What every eviction policy must do, and who leaves first: a new policy is one row in LEAVES."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reasoner_svc.store.directory import Entry
from reasoner_svc.store.plans import Landing
from reasoner_svc.store.policies.names import POLICIES
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.ram import RamTier
from tandem.core.ids import StreamId
from tests.unit.reasoner_svc.making import make_header

CAM = StreamId("cam")
LENGTH = make_header(1).payload_bytes
HELD = 4
"""Visual blocks that fit, beside the sink."""

# Questions, each with the blocks that it retrieved, and the blocks in the order in which they leave then.
QUESTIONS: tuple[tuple[int, ...], ...] = ((1, 2), (1, 2), (1,), (3,))
LEAVES = {
    "lru": [4, 2, 1, 3],  # by the last question that read each; 4 was read by none
    "importance": [4, 3, 2, 1],  # none, one, two and three questions
    "oldest-first": [1, 2, 3, 4],
}


def test_every_policy_has_a_row() -> None:
    assert set(LEAVES) == set(POLICIES)


@pytest.fixture(params=LEAVES)
def policy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def full(policy: str) -> BlockStore:
    """A store whose RAM is full: the sink and blocks 1 to 4."""
    room = (HELD + 1) * LENGTH
    store = BlockStore(RamTier(room, slab_bytes=room), POLICIES[policy]())
    for number in range(HELD + 1):
        assert arrive(store, number) == []
    return store


def arrive(store: BlockStore, number: int) -> list[int]:
    """Store a block; the numbers of those that left for it."""
    plan = store.prepare_store(make_header(number))
    store.complete_store(plan.entry, Landing.LANDED)
    store.publish(plan.entry.key)
    return [header.key.number for header in plan.evicted]


def leaving(store: BlockStore) -> list[int]:
    """In which order the blocks leave when as many new ones come; those stay, being pinned."""
    left = []
    for number in range(HELD + 1, 2 * HELD + 1):
        left += arrive(store, number)
        store.pin(CAM, [number])
    store.check_integrity()
    return left


def test_the_order_is_the_policys(policy: str) -> None:
    store = full(policy)
    for retrieved in QUESTIONS:
        store.use(CAM, retrieved)
    assert leaving(store) == LEAVES[policy]


def test_without_questions_the_oldest_leave(policy: str) -> None:
    assert leaving(full(policy)) == [1, 2, 3, 4]


def test_reading_bytes_is_no_question(policy: str) -> None:
    """Layers are pinned one by one, and guesses are read ahead: neither says that a block matters."""
    store = full(policy)
    for _ in range(9):
        store.unpin(store.pin(CAM, [1]))
    store.use(CAM, [2])
    store.use(CAM, [3])
    store.use(CAM, [4])
    assert leaving(store) == [1, 2, 3, 4]


def test_making_room_costs_the_same_however_much_is_held(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    is_evictable = Entry.evictable.fget  # type: ignore[attr-defined]

    def look(entry: Entry) -> bool:
        looks.append(entry)
        return bool(is_evictable(entry))

    room = 2000 * LENGTH
    store = BlockStore(RamTier(room, slab_bytes=room), POLICIES[policy]())
    for number in range(2000):
        arrive(store, number)
    store.use(CAM, range(1, 2000, 3))
    monkeypatch.setattr(Entry, "evictable", property(look))
    for number in range(2000, 3000):
        assert len(arrive(store, number)) == 1
    assert len(looks) <= 2 * 1000, "a full store looks at all of its blocks for each that comes"
    store.check_integrity()


def test_making_room_costs_the_same_however_differently_blocks_were_read(policy: str) -> None:
    room = 200 * LENGTH
    store = BlockStore(RamTier(room, slab_bytes=room), POLICIES[policy]())
    for number in range(200):
        arrive(store, number)
    for number in range(1, 200):
        store.use(CAM, range(number, 200))
    looks = []

    class Watched(dict[int, Any]):
        def __iter__(self) -> Iterator[int]:
            for reads in super().__iter__():
                looks.append(reads)
                yield reads

    residents = store._directory.residents
    residents._read = Watched(residents._read)
    for number in range(200, 300):
        assert len(arrive(store, number)) == 1
    assert len(looks) <= 2 * 100, "all distinct counts are sorted for each block that comes"
    store.check_integrity()


def test_what_is_pinned_and_the_sink_stay(policy: str) -> None:
    store = full(policy)
    kept = store.pin(CAM, [1, 4])
    left = arrive(store, 5) + arrive(store, 6)
    assert 0 not in left
    assert {1, 4}.isdisjoint(left)
    store.unpin(kept)
    store.check_integrity()
