"""How many attempts a second a crowd makes, and what is remembered of it."""

from __future__ import annotations

import heapq
import math

import pytest

from orchestrator.crowd import MAX_TENANTS, MEMORY_S, SPACING_S, Crowd


@pytest.mark.parametrize("waiting", [1, 20, 200, 2000])
def test_attempts_grow_with_the_root_of_those_who_wait(waiting: int) -> None:
    crowd, due, attempts = Crowd(), [0.0] * waiting, 0
    while due[0] < 600.0:
        now_s = heapq.heappop(due)
        attempts += now_s >= 300.0
        heapq.heappush(due, now_s + 1.0 + crowd.refuse("a", now_s))
    expected = math.sqrt(waiting / (MEMORY_S * SPACING_S))
    assert 0.7 * expected < attempts / 300 + 0.2 < 1.1 * expected + 0.5


def test_tenants_are_remembered_to_a_limit_and_apart() -> None:
    crowd = Crowd()
    for _ in range(50):
        crowd.refuse("flood", 0.0)
    assert crowd.refuse("calm", 0.0) == 0.0
    assert crowd.refuse("flood", 0.0) == pytest.approx(5.0)
    for _ in range(5):
        crowd.admit("flood")
    assert crowd.refuse("flood", 0.0) < 0.3, "there is room again"
    crowd.admit("nobody")
    assert crowd.refuse("flood", 300.0) < 0.01, "it fades"
    for number in range(2 * MAX_TENANTS):
        crowd.refuse(f"t{number}", 301.0)
    assert crowd.refuse("flood", 301.0) == 0.0, "the one that was refused longest ago is forgotten"
