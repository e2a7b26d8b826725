"""The life of a stream: every state knows what every event means."""

import itertools

import pytest

from orchestrator.stream import TABLE, Action, Event, State, advance


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(State)
    for state, event in itertools.product(State, Event):
        assert advance(state, event).state in State


def test_nothing_happens_after_the_end() -> None:
    for event in Event:
        step = advance(State.CLOSED, event)
        assert (step.state, step.actions) == (State.CLOSED, ())


def test_every_open_state_can_end_and_then_frees_everything() -> None:
    for state in set(State) - {State.CLOSED}:
        for event in (Event.EXPIRED, Event.FORGOTTEN, Event.FAILED):
            step = advance(state, event)
            assert step.state is State.CLOSED
            assert Action.RELEASE in step.actions


def test_a_client_coming_and_going_changes_no_state() -> None:
    for state in set(State) - {State.CLOSED}:
        assert advance(state, Event.CLIENT_LOST).state is state
        assert advance(state, Event.CLIENT_BACK).state is state


def test_every_state_is_reached_from_opening() -> None:
    reached, new = {State.OPENING}, [State.OPENING]
    while new:
        state = new.pop()
        following = {advance(state, event).state for event in Event} - reached
        reached |= following
        new += following
    assert reached == set(State)


@pytest.mark.parametrize("state", [State.OPENING, State.LIVE, State.RECOVERING, State.ENDED])
def test_a_lost_service_leads_to_a_new_placement(state: State) -> None:
    step = advance(state, Event.SERVICE_LOST)
    assert Action.PLACE in step.actions
    assert advance(step.state, Event.PLACED).state is State.LIVE
