"""Room inside slabs."""

from __future__ import annotations

import pytest

from reasoner_svc.store.extents import ALIGN_BYTES, Extents
from reasoner_svc.store.tiers.base import Slot

A = ALIGN_BYTES


def test_slots_of_one_slab_lie_behind_each_other() -> None:
    room = Extents(budget_bytes=10 * A, slab_bytes=4 * A)
    assert [room.take(A) for _ in range(2)] == [Slot(0, 0, A), Slot(0, A, A)]
    assert room.allocated_bytes == 4 * A


def test_odd_lengths_take_whole_units_and_say_their_own_length() -> None:
    room = Extents(budget_bytes=4 * A, slab_bytes=4 * A)
    assert room.take(1) == Slot(0, 0, 1)
    assert room.take(A + 1) == Slot(0, A, A + 1)
    assert room.take(A) == Slot(0, 3 * A, A)
    assert room.take(1) is None


def test_the_budget_is_never_passed() -> None:
    room = Extents(budget_bytes=5 * A + 7, slab_bytes=2 * A)
    taken = [room.take(A) for _ in range(6)]
    assert taken[-1] is None
    assert None not in taken[:-1]
    assert room.allocated_bytes == 5 * A


def test_a_large_block_gets_a_slab_of_its_own_size() -> None:
    room = Extents(budget_bytes=10 * A, slab_bytes=2 * A)
    assert room.take(7 * A) == Slot(0, 0, 7 * A)
    assert room.take(4 * A) is None
    assert room.take(3 * A) == Slot(1, 0, 3 * A)


def test_holes_join_again() -> None:
    room = Extents(budget_bytes=4 * A, slab_bytes=4 * A)
    slots = [room.take(A) for _ in range(4)]
    for index in (2, 0, 1):
        slot = slots[index]
        assert slot is not None
        room.free(slot)
    assert room.take(3 * A) == Slot(0, 0, 3 * A)


def test_an_empty_slab_is_given_up_and_its_bytes_may_become_another_size() -> None:
    room = Extents(budget_bytes=4 * A, slab_bytes=2 * A)
    small = [room.take(A) for _ in range(4)]
    assert not room.fits(3 * A)
    for slot in small:
        assert slot is not None
        room.free(slot)
    assert room.allocated_bytes == 0
    assert room.take(4 * A) == Slot(2, 0, 4 * A)


def test_a_trial_changes_nothing() -> None:
    room = Extents(budget_bytes=2 * A, slab_bytes=2 * A)
    first, second = room.take(A), room.take(A)
    assert first is not None
    trial = room.trial()
    trial.free(first)
    assert trial.fits(A)
    assert not room.fits(A)
    assert second is not None


def test_freeing_twice_is_noticed() -> None:
    room = Extents(budget_bytes=4 * A, slab_bytes=4 * A)
    first, _ = room.take(A), room.take(A)
    assert first is not None
    room.free(first)
    with pytest.raises(AssertionError, match="freed twice"):
        room.free(first)
