"""Requests that are refused, and what a good one becomes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reasoner_svc.asking import asked_question
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.decode.question import AskedQuestion
from reasoner_svc.streams import StreamRecord
from tandem.core.errors import BadQuestion, WrongState
from tandem.core.ids import Epoch, StreamId
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.unit.reasoner_svc.making import make_header

CONFIG = ReasonerConfig(
    name="r", secret=b"s" * 16, max_prompt_tokens=64, max_answer_tokens=100, default_answer_tokens=9
)


def ask(model: VisionLanguageModel, *, shown: int = 2, as_of_us: int = 0, **question: Any) -> AskedQuestion:
    record = StreamRecord(StreamId("cam"), run=3, epoch=Epoch(1))
    for number in range(shown):
        record.show(make_header(number))
    sampling = question.pop("sampling", {})
    message = types_pb2.Question(
        **{"question_id": "q", "text": "what?", **question}, sampling=types_pb2.Sampling(**sampling)
    )
    request = reasoner_pb2.AnswerRequest(stream_id="cam", question=message, as_of_us=as_of_us)
    return asked_question(request, record, model.prompt, CONFIG, now_s=5.0)


def test_unset_values_are_greedy_and_the_default_length(model: VisionLanguageModel) -> None:
    asked = ask(model)
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.max_tokens) == (0.0, 1.0, 9)
    assert (asked.run, asked.arrived_s, asked.stops) == (3, 5.0, ())
    assert asked.prompt_ids == tuple(model.prompt.question_tokens("what?"))


@pytest.mark.parametrize(
    "question",
    [
        {"question_id": ""},
        {"question_id": "with space"},
        {"text": ""},
        {"text": "  \n "},
        {"text": "word " * 1000},
        {"text": "x" * 20_000},
        {"sampling": {"temperature": math.nan}},
        {"sampling": {"temperature": -1.0}},
        {"sampling": {"temperature": 3.0}},
        {"sampling": {"top_p": math.nan}},
        {"sampling": {"top_p": 1.5}},
        {"sampling": {"top_p": -0.1}},
        {"sampling": {"max_tokens": 101}},
        {"sampling": {"stop": ["x"] * 9}},
        {"sampling": {"stop": [""]}},
        {"as_of_us": -1},
    ],
    ids=str,
)
def test_what_cannot_be_answered_is_refused(model: VisionLanguageModel, question: dict[str, Any]) -> None:
    with pytest.raises(BadQuestion):
        ask(model, **question)


def test_a_question_before_any_video_is_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(WrongState, match="no video yet"):
        ask(model, shown=1)
