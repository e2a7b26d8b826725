"""Stop texts across the borders of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.decode.stop import StopMatcher, check_stops
from tandem.core.errors import BadQuestion


def feed(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    """All text that comes out, and whether a stop text ended it."""
    matcher, text = StopMatcher(stops), ""
    for piece in pieces:
        released = matcher.push(piece)
        text += released.text
        if released.stopped:
            return text, True
    return text + matcher.finish(), False


def test_without_stop_texts_everything_comes_out_at_once() -> None:
    matcher = StopMatcher(())
    assert matcher.push("hello").text == "hello"
    assert matcher.finish() == ""


def test_a_stop_text_over_three_tokens_leaves_nothing_of_itself() -> None:
    assert feed(("END",), ["red. E", "N", "D of it"]) == ("red. ", True)


def test_what_might_become_a_stop_text_is_held_back_and_let_out_later() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.push("the EN").text == "the "
    assert matcher.push("TRY").text == "ENTRY"


def test_what_is_held_back_comes_out_when_the_answer_ends() -> None:
    assert feed(("END",), ["the EN"]) == ("the EN", False)


def test_the_earliest_of_several_stop_texts_wins() -> None:
    assert feed(("later", "soon"), ["so so soon, later"]) == ("so so ", True)


def test_a_stop_text_at_the_very_beginning_leaves_an_empty_answer() -> None:
    assert feed(("\n",), ["\nmore"]) == ("", True)


def test_a_stop_text_that_begins_with_its_own_end() -> None:
    assert feed(("aab",), ["a", "a", "a", "b"]) == ("a", True)


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("ab", max_size=3), max_size=12),
)
def test_equals_searching_the_whole_text(stops: list[str], pieces: list[str]) -> None:
    """The literal meaning: cut the text the moment its growing prefix holds a stop text."""
    expected, stopped, whole = "", False, ""
    for piece in pieces:
        whole += piece
        found = [at for stop in stops if (at := whole.find(stop)) >= 0]
        if found:
            expected, stopped = whole[: min(found)], True
            break
    else:
        expected = whole
    assert feed(tuple(stops), pieces) == (expected, stopped)


@pytest.mark.parametrize("stops", [["x"] * 9, [""], ["x" * 65]])
def test_unusable_stop_texts_are_refused(stops: list[str]) -> None:
    with pytest.raises(BadQuestion):
        check_stops(stops)


def test_usable_stop_texts_pass() -> None:
    assert check_stops(["x" * 64] * 8) == ("x" * 64,) * 8
