"""The ways to work on a question, by what it asks for."""

from __future__ import annotations

from reasoner_svc.decode.answering import Answering
from reasoner_svc.decode.question import AskedQuestion
from reasoner_svc.thinking.answering import ThinkingAnswering
from reasoner_svc.workers.group import WorkerGroup


def kind_of(asked: AskedQuestion) -> type[Answering | ThinkingAnswering | WorkerGroup]:
    """What carries a question out."""
    if asked.workers is not None:
        return WorkerGroup
    return Answering if asked.thinking is None else ThinkingAnswering
