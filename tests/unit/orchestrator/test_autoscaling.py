"""How many pods there should be: what is needed, when it is acted upon, and what never happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.autoscaling import Action, Autoscaler, Bounds, Decision, Pace
from orchestrator.membership import Role
from orchestrator.scaling_needs import Goals, Seen, Top, need, slope

PACE = Pace(up_s=15, down_s=600, start_s=60, drain_s=300)


def seen(replicas: int | None = 2, role: Role = Role.ENCODER, **fields: Any) -> Seen:
    ready = fields.pop("ready", replicas or 0)
    streams = fields.pop("streams", 3)
    top = fields.pop("top", Top(name=f"p-{(replicas or 1) - 1}", is_ready=True, streams=streams))
    return Seen(role=role, replicas=replicas, ready=ready, top=top, **fields)


def run(decider: Autoscaler, one: Seen, seconds: float, start_s: float = 0.0) -> list[tuple[float, Decision]]:
    """Looks every five seconds at what stays the same; those that were not to hold."""
    found = []
    for step in range(int(seconds // 5) + 1):
        decision = decider.decide(one, start_s + 5 * step)
        if decision.action is not Action.HOLD:
            found.append((start_s + 5 * step, decision))
            break
    return found


@pytest.mark.parametrize(
    ("one", "needed", "why"),
    [
        (seen(2, load=1.39), 2, "a load of 1.39"),
        (seen(2, load=1.41), 3, "a load of 1.41"),
        (seen(2, load=0.0), 1, "a load of 0.00"),
        (seen(2, load=1.0, refusals=3, refused_load=1.5), 4, "3 refused"),
        (seen(2, load=0.2, refusals=1, refused_load=0.1), 3, "1 refused"),
        (seen(3, ready=2, load=0.2, refusals=1, refused_load=0.1), 1, "a load of 0.20"),
        (seen(2, load=1.0, lag_s=1.0, lag_slope=0.3), 5, "grows by 0.30"),
        (seen(2, load=1.0, lag_s=0.1, lag_slope=0.05), 2, "a load"),
        (seen(2, load=1.0, lag_s=9.0), 3, "does not shrink"),
        (seen(2, load=1.0, lag_s=9.0, lag_slope=-0.5), 2, "a load"),
        (seen(2, load=1.0, lag_s=99.0, lag_slope=5.0), 12, "grows"),
        (seen(2, Role.REASONER, load=1.0, attainment=0.5), 4, "only 50% of answers"),
        (seen(4, Role.REASONER, load=1.0, attainment=0.9), 5, "only 90% of answers"),
        (seen(2, Role.REASONER, load=1.0, attainment=0.96), 2, "a load"),
        (seen(2, Role.REASONER, load=1.0, attainment=None), 2, "a load"),
        (seen(3, Role.REASONER, ready=2, load=1.0, attainment=0.1), 2, "a load"),
    ],
)
def test_what_is_needed(one: Seen, needed: int, why: str) -> None:
    count, reason = need(one, Goals(), PACE.start_s)
    assert count == needed
    assert why in reason


def test_more_is_wanted_for_a_while_before_there_is_more() -> None:
    decider = Autoscaler(Bounds(most=8), Goals(), PACE)
    (found,) = run(decider, seen(2, load=2.0), 100)
    assert found == (15, Decision(Action.UP, 3, found[1].reason))
    assert "a load of 2.00" in found[1].reason


def test_a_moment_of_less_starts_the_wait_anew() -> None:
    decider = Autoscaler(Bounds(most=8), Goals(), PACE)
    for at_s in (0, 5, 10):
        assert decider.decide(seen(2, load=2.0), at_s).action is Action.HOLD
    assert decider.decide(seen(2, load=1.0), 15).action is Action.HOLD
    assert decider.decide(seen(2, load=2.0), 20).action is Action.HOLD
    assert decider.decide(seen(2, load=2.0), 35).action is Action.UP


def test_steps_are_bounded() -> None:
    assert run(Autoscaler(Bounds(most=50), Goals(), PACE), seen(2, load=20.0), 60)[0][1].replicas == 4
    assert run(Autoscaler(Bounds(most=50), Goals(), PACE), seen(10, load=30.0), 60)[0][1].replicas == 20
    assert run(Autoscaler(Bounds(most=3), Goals(), PACE), seen(2, load=20.0), 60)[0][1].replicas == 3
    held = Autoscaler(Bounds(most=2), Goals(), PACE)
    assert not run(held, seen(2, load=20.0), 60)
    assert "2 is the most" in held.decide(seen(2, load=20.0), 65).reason


def test_a_pod_is_drained_and_removed_when_it_is_empty() -> None:
    decider = Autoscaler(Bounds(), Goals(), PACE)
    ((at_s, drain),) = run(decider, seen(3, load=0.5), 2000)
    assert (at_s, drain.action, drain.pod, drain.replicas) == (600, Action.DRAIN, "p-2", 3)
    assert decider.draining == "p-2"
    assert decider.decide(seen(3, load=0.5, streams=1), 610).action is Action.HOLD
    down = decider.decide(seen(3, load=0.5, streams=0), 620)
    assert (down.action, down.replicas, down.pod) == (Action.DOWN, 2, "p-2")
    # And the next one waits as long.
    ((next_s, _),) = run(decider, seen(2, load=0.5), 2000, start_s=625)
    assert next_s == 625 + 600


def test_what_is_needed_again_takes_streams_again() -> None:
    decider = Autoscaler(Bounds(), Goals(), PACE)
    run(decider, seen(3, load=0.5), 2000)
    undo = decider.decide(seen(3, load=2.0), 605)
    assert (undo.action, undo.pod) == (Action.UNDO, "p-2")
    assert "needed again" in undo.reason
    assert not decider.draining
    assert not run(decider, seen(3, load=0.5), 590, start_s=610), "not again at once"


def test_streams_that_do_not_leave_end_the_drain() -> None:
    decider = Autoscaler(Bounds(), Goals(), PACE)
    run(decider, seen(3, load=0.5), 2000)
    ((at_s, undo),) = run(decider, seen(3, load=0.5, streams=2), 2000, start_s=605)
    assert at_s > 600 + PACE.drain_s
    assert (undo.action, undo.reason) == (Action.UNDO, "2 streams did not leave it in 300 s")


def test_somebody_else_scales_meanwhile() -> None:
    decider = Autoscaler(Bounds(), Goals(), PACE)
    run(decider, seen(3, load=0.5), 2000)
    undo = decider.decide(seen(5, load=0.5), 605)
    assert (undo.action, undo.pod) == (Action.UNDO, "p-2")


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (seen(None, load=0.1), "not known"),
        (seen(3, load=0.1, is_settled=False), "expected to attach"),
        (seen(0, load=0.0), "turns scaling off"),
        (seen(3, ready=0, load=0.0), "none is ready"),
        (seen(3, ready=2, load=0.1), "not the time to remove one"),
        (seen(3, load=0.1, top=None), "is not known"),
        (seen(1, load=0.0), "a load of 0.00"),
    ],
)
def test_what_is_not_known_removes_no_pod(one: Seen, why: str) -> None:
    decider = Autoscaler(Bounds(), Goals(), PACE)
    assert not run(decider, one, 3000)
    assert why in decider.decide(one, 3005).reason


def test_a_pod_that_never_got_ready_can_go() -> None:
    stuck = Top(name="p-2", is_ready=False, streams=0)
    decider = Autoscaler(Bounds(), Goals(), PACE)
    ((_, drain),) = run(decider, seen(3, ready=2, load=0.3, top=stuck), 3000)
    assert drain.action is Action.DRAIN
    assert decider.decide(seen(3, ready=2, load=0.3, top=stuck), 3000).action is Action.DOWN


def test_bounds_count_at_once() -> None:
    up = Autoscaler(Bounds(least=3, most=5), Goals(), PACE).decide(seen(1, load=0.1), 0)
    assert (up.action, up.replicas) == (Action.UP, 3)
    down = Autoscaler(Bounds(least=1, most=2), Goals(), PACE).decide(seen(4, load=3.0), 0)
    assert (down.action, down.pod) == (Action.DRAIN, "p-3")


def test_a_gap_in_what_is_known_starts_the_wait_anew() -> None:
    decider = Autoscaler(Bounds(), Goals(), PACE)
    assert not run(decider, seen(3, load=0.1), 590)
    decider.decide(seen(None), 595)
    ((at_s, _),) = run(decider, seen(3, load=0.1), 2000, start_s=600)
    assert at_s == 1200


def test_slope() -> None:
    assert slope([]) == slope([(0, 1), (1, 2)]) == 0.0
    assert slope([(0, 1), (5, 2), (10, 3)]) == pytest.approx(0.2)
    assert slope([(3, 1), (3, 2), (3, 3)]) == 0.0


one_look = st.fixed_dictionaries(
    {
        "load": st.floats(0, 20),
        "ready_less": st.integers(0, 3),
        "streams": st.integers(0, 3),
        "refusals": st.integers(0, 5),
        "lag_s": st.floats(0, 100),
        "lag_slope": st.floats(-2, 2),
        "known": st.sampled_from([True] * 9 + [False]),
    }
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=30)
@given(st.lists(one_look, min_size=40, max_size=120), st.integers(1, 4), st.integers(4, 8), st.integers(1, 9))
def test_whatever_is_seen(looks: list[dict[str, Any]], least: int, most: int, start: int) -> None:
    """Never out of bounds, never a pod with streams, never more than one at a time, never unsaid why."""
    decider = Autoscaler(Bounds(least=least, most=most), Goals(), Pace(up_s=10, down_s=20, drain_s=30))
    replicas, drained = start, ""
    for step, look in enumerate(looks):
        one = seen(
            replicas if look["known"] else None,
            ready=max(replicas - look["ready_less"], 0),
            **{key: look[key] for key in ("load", "streams", "refusals", "lag_s", "lag_slope")},
        )
        decision = decider.decide(one, 5.0 * step)
        assert decision.reason
        match decision.action:
            case Action.UP:
                assert replicas < decision.replicas <= max(most, least)
                replicas = decision.replicas
            case Action.DRAIN:
                assert not drained
                drained = decision.pod
                assert drained == f"p-{replicas - 1}"
            case Action.DOWN:
                assert decision.pod == drained
                assert one.top is not None
                assert one.top.streams == 0
                assert decision.replicas == replicas - 1 >= least
                replicas, drained = decision.replicas, ""
            case Action.UNDO:
                assert decision.pod == drained
                drained = ""
            case Action.HOLD:
                pass


def test_a_pod_is_not_kept_empty_while_nothing_is_known() -> None:
    """An API that is away for an hour must not cost a pod for an hour."""
    decider = Autoscaler(Bounds(least=1, most=8), pace=PACE)
    drained = run(decider, seen(3, load=0.2), PACE.down_s + 5)
    assert [each.action for _, each in drained] == [Action.DRAIN]
    at_s = drained[0][0]
    nothing = seen(None)
    assert decider.decide(nothing, at_s + PACE.drain_s).action is Action.HOLD
    undone = decider.decide(nothing, at_s + PACE.drain_s + 5)
    assert (undone.action, undone.pod) == (Action.UNDO, "p-2")
    assert decider.draining == ""
