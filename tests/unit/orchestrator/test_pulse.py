"""When a process that beats is taken to be frozen."""

from __future__ import annotations

from orchestrator.pulse import FROZEN_S, START_S, Pulse


def looked(pulse: Pulse, first_s: float, last_s: float) -> bool:
    """Looking once a second; True when it was frozen at any time."""
    at_s, found = first_s, False
    while at_s <= last_s:
        found |= pulse.is_frozen(at_s)
        at_s += 1.0
    return found


def test_silence_after_a_beat_is_a_freeze_and_a_start_has_more_time() -> None:
    pulse = Pulse(0.0)
    assert not looked(pulse, 0.0, START_S)
    pulse.beat(START_S)
    assert not looked(pulse, START_S, START_S + FROZEN_S)
    assert looked(pulse, START_S + FROZEN_S + 1, START_S + FROZEN_S + 1)
    assert looked(Pulse(0.0), 0.0, START_S + 1)


def test_our_own_pause_is_not_held_against_it() -> None:
    pulse = Pulse(0.0)
    pulse.beat(1.0)
    assert not pulse.is_frozen(2.0)
    assert not pulse.is_frozen(500.0)
    assert not looked(pulse, 501.0, 500.0 + FROZEN_S - 1)
    assert looked(pulse, 500.0 + FROZEN_S, 501.0 + FROZEN_S)
