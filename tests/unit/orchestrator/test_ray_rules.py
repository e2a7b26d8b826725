"""What is done about an actor, and when leftovers of dead runs go."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.backends.ray_plan import run_name
from orchestrator.backends.ray_rules import LEFT_S, PATIENCE_S, Do, Leftovers, Seen, decide, waiting

ANSWERS: dict[str, Any] = {
    "exists": True,
    "create_in_s": 0.0,
    "digest": "now",
    "has_group": True,
    "has_room": True,
    "silent_s": 0.0,
    "is_ready": True,
}
LONG_S = PATIENCE_S + 1
LOST = {"digest": None, "silent_s": LONG_S, "is_ready": False}


@pytest.mark.parametrize(
    ("seen", "do", "reason"),
    [
        ({}, Do.NOTHING, "answers"),
        ({"is_ready": False}, Do.NOTHING, "answers"),
        ({"digest": "former"}, Do.ADOPT, "other settings"),
        ({"exists": False}, Do.CREATE, "no actor"),
        ({"exists": False, "create_in_s": 0.5}, Do.NOTHING, "another in 0.5 s"),
        ({"create_in_s": 0.5}, Do.NOTHING, "answers"),
        ({"exists": False, **LOST}, Do.CREATE, "no actor"),
        (LOST, Do.REPLACE, "silent for 21 s"),
        (LOST | {"silent_s": PATIENCE_S}, Do.NOTHING, "so far"),
        (LOST | {"is_ready": True}, Do.NOTHING, "beats"),
        (LOST | {"has_room": False}, Do.NOTHING, "no room"),
        (LOST | {"has_room": False, "has_group": False}, Do.REPLACE, "group is gone"),
    ],
)
def test_one_actor(seen, do, reason):
    decision = decide(Seen(**ANSWERS | seen), "now")
    assert decision.do is do
    assert reason in decision.reason


def test_a_person_is_told_what_is_missing():
    said = waiting("encoder-0", (("CPU", 2.0), ("GPU", 1.0)), {"CPU": 8.0})
    assert said == "encoder-0 waits for a node with 2 CPU and 1 GPU (free in the whole cluster: 8 CPU, 0 GPU)"


def test_what_a_dead_run_reserved_goes_after_a_while():
    mine, dead, alive = (run_name(secret) for secret in (b"mine", b"dead", b"alive"))
    present = [f"{run}.encoders.0" for run in (mine, dead, alive)] + ["of-somebody-else"]
    leftovers = Leftovers(mine)
    assert leftovers.due(0.0, present, {alive}) == []
    assert leftovers.due(LEFT_S, present, {alive}) == []
    assert leftovers.due(LEFT_S + 1, present, {alive}) == [f"{dead}.encoders.0"]


def test_a_run_that_is_just_starting_keeps_its_room():
    other = run_name(b"other")
    leftovers, present = Leftovers(run_name(b"mine")), [f"{other}.encoders.0"]
    leftovers.due(0.0, present, set())
    assert leftovers.due(LEFT_S + 1, present, {other}) == []
    assert leftovers.due(LEFT_S + 2, present, set()) == [], "its time begins anew"
    assert leftovers.due(2 * LEFT_S + 3, present, set()) == present
