"""Which numbers become visible, and which get room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.frontier import Frontier


def arrive(frontier: Frontier, *numbers: int) -> None:
    for number in numbers:
        frontier.take_room(number)


def test_numbers_become_visible_in_order_whatever_the_order_of_landing() -> None:
    frontier = Frontier()
    arrive(frontier, 0, 1, 2, 3)
    assert frontier.land(2) == []
    assert frontier.land(1) == []
    assert frontier.hidden == 2
    assert frontier.land(0) == [0, 1, 2]
    assert frontier.land(3) == [3]
    assert frontier.next == 4


def test_room_is_given_in_order_only() -> None:
    frontier = Frontier()
    assert not frontier.may_take_room(1)
    assert frontier.may_take_room(0)
    arrive(frontier, 0)
    assert frontier.may_take_room(1)
    assert not frontier.may_take_room(1 << 62)


def test_a_number_that_was_given_up_holds_back_those_behind_it() -> None:
    frontier = Frontier()
    arrive(frontier, 0, 1)
    frontier.give_up(0)
    assert frontier.land(1) == []
    assert not frontier.may_take_room(2)
    arrive(frontier, 0)
    assert frontier.land(0) == [0, 1]


def test_declared_numbers_are_passed_over() -> None:
    frontier = Frontier()
    arrive(frontier, 0)
    assert frontier.land(0) == [0]
    assert frontier.skip(1, 4) == []
    assert frontier.next == 4
    assert frontier.may_take_room(4)


def test_landed_numbers_behind_a_declared_hole_become_visible_with_it() -> None:
    frontier = Frontier()
    arrive(frontier, 0, 1, 2)
    assert frontier.land(0) == [0]
    assert frontier.land(2) == []
    frontier.give_up(1)
    assert frontier.skip(0, 2) == [2]


def test_a_new_writer_voids_what_is_not_visible() -> None:
    frontier = Frontier()
    arrive(frontier, 0, 1, 2)
    assert frontier.land(0) == [0]
    frontier.land(2)
    frontier.restart()
    assert frontier.next == 1
    assert frontier.hidden == 0
    assert not frontier.may_take_room(2)


@given(st.permutations(range(8)))
def test_every_order_shows_each_number_once_and_in_order(order: list[int]) -> None:
    frontier = Frontier()
    arrive(frontier, *range(8))
    seen = [number for landed in order for number in frontier.land(landed)]
    assert seen == list(range(8))
    assert frontier.hidden == 0
