"""What every tier must do; a new tier is one row in TIERS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from reasoner_svc.store.tiers.base import Tier
from reasoner_svc.store.tiers.ram import RamTier

BUDGET = 1 << 16

TIERS: dict[str, Callable[[], Tier]] = {
    "ram, one slab": lambda: RamTier(BUDGET, slab_bytes=BUDGET),
    "ram, small slabs": lambda: RamTier(BUDGET, slab_bytes=4096),
    "ram, slabs smaller than blocks": lambda: RamTier(BUDGET, slab_bytes=64),
}


@pytest.fixture(params=TIERS.values(), ids=TIERS.keys())
def tier(request: pytest.FixtureRequest) -> Tier:
    made: Tier = request.param()
    return made


def test_an_empty_tier_holds_nothing(tier: Tier) -> None:
    assert (tier.used_bytes, tier.allocated_bytes, tier.capacity_bytes) == (0, 0, BUDGET)
    tier.check_integrity()


def test_bytes_come_back_as_they_were_written(tier: Tier) -> None:
    slots = [tier.take(length) for length in (1000, 1, 4096, 777)]
    for value, slot in enumerate(slots):
        assert slot is not None
        tier.buffer(slot).fill_(value + 1)
    for value, slot in enumerate(slots):
        assert slot is not None
        buffer = tier.buffer(slot)
        assert buffer.dtype == torch.uint8
        assert buffer.shape == (slot.length,)
        assert buffer.is_contiguous()
        assert bool((buffer == value + 1).all())
    tier.check_integrity()


def test_used_bytes_count_what_was_asked_for(tier: Tier) -> None:
    slot = tier.take(1000)
    assert slot is not None
    assert tier.used_bytes == 1000
    assert tier.allocated_bytes >= 1000
    tier.free(slot)
    assert tier.used_bytes == 0


def test_the_budget_holds_to_the_byte(tier: Tier) -> None:
    slots = []
    while (slot := tier.take(1024)) is not None:
        slots.append(slot)
        assert tier.allocated_bytes <= BUDGET
    assert tier.used_bytes == BUDGET, "blocks of a power of two fill the budget"
    assert tier.take(1) is None
    tier.check_integrity()
    tier.free(slots[3])
    assert tier.take(1024) is not None


def test_more_than_the_budget_never_fits(tier: Tier) -> None:
    assert tier.take(BUDGET + 1) is None
    assert not tier.trial().fits(BUDGET + 1)
    assert tier.used_bytes == 0


def test_everything_can_be_taken_at_once_after_everything_was_freed(tier: Tier) -> None:
    slots = [tier.take(1024) for _ in range(BUDGET // 1024)]
    for slot in reversed(slots):
        assert slot is not None
        tier.free(slot)
    assert tier.take(BUDGET) is not None
    tier.check_integrity()


def test_memory_goes_back_when_the_last_slot_does(tier: Tier) -> None:
    slots = [tier.take(3000) for _ in range(4)]
    for slot in slots:
        assert slot is not None
        tier.free(slot)
    assert tier.allocated_bytes == 0


def test_a_trial_sees_what_freeing_would_give_and_changes_nothing(tier: Tier) -> None:
    slots = [tier.take(1024) for _ in range(BUDGET // 1024)]
    trial = tier.trial()
    assert not trial.fits(2048)
    for slot in slots[:2]:
        assert slot is not None
        trial.free(slot)
    assert trial.fits(1024)
    assert tier.take(1024) is None
    tier.check_integrity()


def test_a_slot_is_dead_after_free(tier: Tier) -> None:
    slot, keep = tier.take(100), tier.take(100)
    assert slot is not None
    assert keep is not None
    tier.free(slot)
    with pytest.raises(AssertionError):
        tier.buffer(slot)
    with pytest.raises(AssertionError):
        tier.free(slot)
