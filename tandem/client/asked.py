"""Shell: a question about a stream that somebody else feeds, over as many calls as it takes.

A call that was under way when its orchestrator was lost is made again at the next one, under the same id.
There the stream may be unknown for a moment: until a reasoner tells that it holds it, or its feeder is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from tandem.client import convert
from tandem.client.failures import CALL_ERRORS, NobodyThere, typed_error
from tandem.client.questions import Heard
from tandem.client.route import Route
from tandem.client.settings import ClientSettings, backoff_s
from tandem.client.types import Answer, FinishReason, Thought
from tandem.core.clock import Clock
from tandem.core.errors import Internal, NotFound, NotLeader, TandemError, Unavailable
from tandem.wire.gen.tandem.v1 import client_pb2

TRIES = 4
"""Of one call: to who led, to the address that was given, and to who leads now."""
UNKNOWN_S = 30.0
"""For how long after a loss the next orchestrator may not know the stream."""


async def asked(
    route: Route,
    request: client_pb2.AskRequest,
    settings: ClientSettings,
    clock: Clock,
    timeout_s: float | None,
) -> AsyncIterator[str | Thought | Answer]:
    """The workers' thoughts, the text as it comes, each piece once, and the final record last.

    Raises what the question failed with; `timeout_s` is for all calls together.
    """
    doing = f"asking stream {request.stream_id!r}"
    heard, chance = Heard(), random.Random()  # noqa: S311 (jitter, not a secret)
    began_s, lost_s, tries = clock(), None, 0
    while True:
        left_s = None if timeout_s is None else max(timeout_s - (clock() - began_s), 0.0)
        try:
            async for item in _one_call(route, request, left_s):
                if not isinstance(item, str):
                    yield item
                elif fresh := heard.take(item):
                    yield fresh
            return
        except CALL_ERRORS as failure:
            error = typed_error(failure, address=route.address, doing=doing)
            tries += 1
            if lost_s is None and _was_under_way(error):
                lost_s, tries = clock(), 1
            goes_elsewhere = await route.follow(error)
            wait_s = backoff_s(tries, settings, chance)
            if not _is_worth_another(error, lost_s, clock() + wait_s, settings.give_up_s):
                if not (goes_elsewhere and tries < TRIES):
                    raise error from failure
                wait_s = 0.0
            heard.connection_lost()
            await asyncio.sleep(max(wait_s, error.retry_after_s or 0.0) if lost_s is not None else wait_s)


def _was_under_way(error: TandemError) -> bool:
    """True for what ends a call that had reached an orchestrator, and not for one that reached nobody."""
    return isinstance(error, Unavailable) and not isinstance(error, NobodyThere | NotLeader)


def _is_worth_another(error: TandemError, lost_s: float | None, next_s: float, give_up_s: float) -> bool:
    if lost_s is None or not isinstance(error, Unavailable | NotFound):
        return False
    patience_s = min(give_up_s, UNKNOWN_S) if isinstance(error, NotFound) else give_up_s
    return next_s - lost_s <= patience_s


async def _one_call(
    route: Route, request: client_pb2.AskRequest, timeout_s: float | None
) -> AsyncIterator[str | Thought | Answer]:
    call = route.stub.Ask(request, timeout=timeout_s)
    try:
        async for response in call:
            if response.WhichOneof("event") == "answer_delta":
                yield response.answer_delta.text
            elif response.WhichOneof("event") == "thought":
                yield convert.thought_from_proto(response.thought)
            elif response.WhichOneof("event") == "answer":
                yield _checked(convert.answer_from_proto(response.answer))
    finally:
        call.cancel()


def _checked(answer: Answer) -> Answer:
    if answer.finish_reason is FinishReason.ERROR:
        raise answer.error or Internal(f"question {answer.question_id} failed without a reason")
    return answer
