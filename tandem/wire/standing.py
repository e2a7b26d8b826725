"""Pure: standing questions, to and from their message."""

from __future__ import annotations

from tandem.core.errors import BadQuestion
from tandem.core.standing import AnswerMatch, StandingQuestion
from tandem.wire.gen.tandem.v1 import types_pb2

_TO_PROTO = {
    AnswerMatch.WORDS: types_pb2.ANSWER_MATCH_WORDS,
    AnswerMatch.WHOLE: types_pb2.ANSWER_MATCH_WHOLE,
}
_FROM_PROTO = {value: match for match, value in _TO_PROTO.items()}


def standing_to_proto(standing: StandingQuestion) -> types_pb2.StandingQuestion:
    """The question for the wire."""
    return types_pb2.StandingQuestion(
        question_id=standing.question_id,
        text=standing.text,
        expect=standing.expect,
        match=_TO_PROTO[standing.match],
        every_ms=standing.every_ms,
        confirm=standing.confirm,
        release=standing.release,
        min_interval_ms=standing.min_interval_ms,
        max_tokens=standing.max_tokens,
    )


def standing_from_proto(message: types_pb2.StandingQuestion) -> StandingQuestion:
    """The question. Raises BadQuestion that names what is out of range."""
    match = _FROM_PROTO.get(message.match)
    if match is None:
        raise BadQuestion(f"match {message.match} is not known; set one of AnswerMatch")
    return StandingQuestion(
        question_id=message.question_id,
        text=message.text,
        expect=message.expect,
        match=match,
        every_ms=message.every_ms,
        confirm=message.confirm,
        release=message.release,
        min_interval_ms=message.min_interval_ms,
        max_tokens=message.max_tokens,
    )
