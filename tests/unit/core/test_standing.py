"""When a standing question counts as having become true."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.core.errors import BadQuestion
from tandem.core.standing import NOTHING_SEEN, AnswerMatch, StandingQuestion, checked, says
from tandem.wire.standing import standing_from_proto, standing_to_proto


def standing(**options: Any) -> StandingQuestion:
    return StandingQuestion(**{"question_id": "door", "text": "Is it open?", "expect": "yes", **options})


def alerts(pattern: str, **options: Any) -> list[int]:
    """Seconds at which a sequence of checks, one a second, alerts."""
    asked, state, found = standing(**options), NOTHING_SEEN, []
    for second, sign in enumerate(pattern):
        state, alert = checked(state, asked, second * 10**6, is_true=sign == "+")
        found += [second] * alert
    return found


@pytest.mark.parametrize(
    ("pattern", "options", "expected"),
    [
        ("-----", {}, []),
        ("--+++--++", {}, [2, 7]),
        ("+", {}, [0]),
        ("+-+-+", {}, [0, 2, 4]),
        ("+-+-++-++", {"confirm": 2}, [5, 8]),
        ("+-+-+--+", {"release": 2}, [0, 7]),
        ("+-+-+--+", {"min_interval_ms": 3000}, [0, 4, 7]),
        ("++-+-++--++", {"confirm": 2, "release": 2}, [1, 10]),
    ],
)
def test_alerts_once_an_onset(pattern: str, options: dict[str, int], expected: list[int]) -> None:
    assert alerts(pattern, **options) == expected


def test_what_an_answer_says() -> None:
    assert says("Yes, it is.", standing())
    assert not says("Yesterday.", standing())
    assert says("a RED star came", standing(expect="red star"))
    assert not says("a red, then a star", standing(expect="red star"))
    assert says(" Yes! ", standing(match=AnswerMatch.WHOLE))
    assert not says("yes it is", standing(match=AnswerMatch.WHOLE))
    assert not says("", standing())


@pytest.mark.parametrize(
    "wrong",
    [
        {"question_id": ""},
        {"question_id": "x" * 41},
        {"expect": "?!"},
        {"expect": "x" * 201},
        {"every_ms": 50},
        {"every_ms": 10**8},
        {"confirm": 17},
        {"release": -1},
        {"min_interval_ms": 10**9},
        {"max_tokens": 33},
    ],
)
def test_limits(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadQuestion, match=next(iter(wrong)) if "question_id" not in wrong else "id"):
        standing(**wrong)


def test_over_the_wire() -> None:
    asked = standing(
        match=AnswerMatch.WHOLE, every_ms=200, confirm=2, release=3, min_interval_ms=5, max_tokens=4
    )
    message = standing_to_proto(asked)
    assert standing_from_proto(message) == asked
    message.match = 9  # type: ignore[assignment]
    with pytest.raises(BadQuestion, match="AnswerMatch"):
        standing_from_proto(message)
