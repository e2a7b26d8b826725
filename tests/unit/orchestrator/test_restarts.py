"""A service that never gets ready does not eat the machine."""

from __future__ import annotations

import itertools

from orchestrator.backends.restarts import LOOP_FAILURES, LOOP_WAIT_S, restart


def test_the_first_ends_are_taken_lightly() -> None:
    waits = [restart(failures).wait_s for failures in range(1, LOOP_FAILURES)]
    assert waits[0] <= 0.1, "one that was killed is missed by its streams"
    assert all(later == 2 * sooner for sooner, later in itertools.pairwise(waits))
    assert sum(waits) < 20


def test_a_crash_loop_is_broken_and_said_once() -> None:
    said = [restart(failures).reason for failures in range(1, LOOP_FAILURES + 5)]
    assert [bool(reason) for reason in said].count(True) == 1
    assert said[LOOP_FAILURES - 1].startswith("ended 8 times")
    assert {restart(failures).wait_s for failures in range(LOOP_FAILURES, LOOP_FAILURES + 5)} == {LOOP_WAIT_S}
