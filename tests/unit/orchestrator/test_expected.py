"""Streams that were refused and are expected again, as the autoscaler counts them."""

from __future__ import annotations

import pytest

from orchestrator.capacity import EncoderRoom, Held, ReasonerRoom
from orchestrator.expected import GRACE_S, Expected
from orchestrator.membership import Role
from tandem.core.ids import StreamId

WISH = Held(tenant="default", fps=2.0)
ENCODERS = {"encoder-0": EncoderRoom(name="encoder-0", fingerprint="f", unit_seconds=0.1, native_fps=2.0)}
REASONERS = {"reasoner-0": ReasonerRoom(name="reasoner-0", fingerprint="f")}


def at(expected: Expected, role: Role, now_s: float) -> tuple[int, float]:
    return expected.at(role, now_s, ENCODERS, REASONERS)


def test_each_waits_for_what_it_lacks_until_soon_after_it_should_have_come() -> None:
    expected = Expected(10)
    expected.refuse(StreamId("a"), WISH, Role.ENCODER, 5.0)
    expected.refuse(StreamId("b"), WISH, Role.ENCODER, 9.0)
    expected.refuse(StreamId("c"), WISH, Role.REASONER, 9.0)
    count, load = at(expected, Role.ENCODER, 0.0)
    one = at(expected, Role.ENCODER, 5.0 + GRACE_S)
    assert (count, one[0], at(expected, Role.REASONER, 0.0)[0]) == (2, 1, 1)
    assert load == pytest.approx(2 * one[1])
    assert at(expected, Role.ENCODER, 9.0 + GRACE_S) == (0, 0.0)


def test_who_comes_again_counts_once_and_who_is_let_in_no_more() -> None:
    expected = Expected(10)
    for comes_s in (5.0, 10.0):
        expected.refuse(StreamId("a"), WISH, Role.ENCODER, comes_s)
    assert at(expected, Role.ENCODER, 7.0)[0] == 1
    expected.admit(StreamId("a"))
    assert at(expected, Role.ENCODER, 7.0) == (0, 0.0)


def test_no_more_are_remembered_than_could_ever_be_let_in() -> None:
    expected = Expected(3)
    for number in range(1000):
        expected.refuse(StreamId(f"s{number}"), WISH, Role.ENCODER, 5.0)
    assert at(expected, Role.ENCODER, 0.0)[0] == 3


def test_with_no_service_left_each_still_counts() -> None:
    expected = Expected(3)
    expected.refuse(StreamId("a"), WISH, Role.ENCODER, 5.0)
    count, load = expected.at(Role.ENCODER, 0.0, {}, {})
    assert count == 1
    assert load >= 0.0
