"""Tickets of a pair are taken in rising order only, and pairs are not remembered for ever."""

from __future__ import annotations

from kv_transfer.base import EpochGuard
from tandem.core.ids import Epoch
from tandem.core.tickets import Ticket


def ticket(pair: str, epoch: int, not_after_s: int) -> Ticket:
    return Ticket(
        pair_id=pair,
        epoch=Epoch(epoch),
        encoder_id="e",
        reasoner_id="r",
        not_after_unix_s=not_after_s,
        nonce=b"0" * 16,
    )


def test_an_epoch_does_not_come_back() -> None:
    guard = EpochGuard()
    assert guard.admit(ticket("a", 5, 100), 0.0)
    assert not guard.admit(ticket("a", 5, 100), 1.0)
    assert not guard.admit(ticket("a", 4, 100), 1.0)
    assert guard.admit(ticket("b", 4, 100), 1.0)
    assert guard.admit(ticket("a", 6, 100), 1.0)


def test_a_pair_is_forgotten_when_none_of_its_tickets_is_valid_any_more() -> None:
    guard = EpochGuard()
    for number in range(1000):
        assert guard.admit(ticket(f"pair-{number}", 1, number), float(number))
    assert len(guard) < 70, "what is remembered follows the life of tickets, not of the process"
    assert guard.admit(ticket("long", 7, 5000), 1000.0)
    assert guard.admit(ticket("other", 1, 4000), 3000.0)
    assert not guard.admit(ticket("long", 7, 5000), 3000.0)
