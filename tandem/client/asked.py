"""Shell: a question about a stream that somebody else feeds, over as many calls as it takes.

A call that was under way when its orchestrator was lost is made again at the next one, under the same id.
There the stream may be unknown for a moment: until a reasoner tells that it holds it, or its feeder is back.
While nobody leads of several orchestrators, one is waited for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

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
    began_s, trouble = clock(), _Trouble()
    while True:
        left_s = None if timeout_s is None else max(timeout_s - (clock() - began_s), 0.0)
        try:
            async for item in _one_call(route, request, left_s):
                route.was_reached = True
                if not isinstance(item, str):
                    yield item
                elif fresh := heard.take(item):
                    yield fresh
            return
        except CALL_ERRORS as failure:
            error = typed_error(failure, address=route.address, doing=doing)
            trouble.saw(error, clock(), was_reached=route.was_reached)
            wait_s = 0.0
            if not (await route.follow(error) and trouble.tries < TRIES):
                wait_s = max(backoff_s(trouble.tries, settings, chance), error.retry_after_s or 0.0)
                if clock() + wait_s > trouble.until_s(error, settings):
                    raise error from failure
            heard.connection_lost()
            await asyncio.sleep(wait_s)


@dataclass(slots=True)
class _Trouble:
    """What stands between a question and its answer."""

    tries: int = 0
    since_s: float = float("inf")
    """When an orchestrator was lost, was found not to lead, or was gone from where one had been."""
    was_under_way: bool = False
    """The question had reached one."""

    def saw(self, error: TandemError, now_s: float, *, was_reached: bool) -> None:
        """A call failed. `was_reached`: there was somebody at the address before."""
        self.tries += 1
        is_lost = isinstance(error, Unavailable) and not isinstance(error, NobodyThere | NotLeader)
        if is_lost and not self.was_under_way:
            self.was_under_way, self.tries, self.since_s = True, 1, now_s
        if isinstance(error, NotLeader) or (was_reached and isinstance(error, NobodyThere)):
            self.since_s = min(self.since_s, now_s)

    def until_s(self, error: TandemError, settings: ClientSettings) -> float:
        """When it is given up; to try again helps only where orchestrators come and go."""
        if self.since_s == float("inf") or not isinstance(error, Unavailable | NotFound):
            return float("-inf")
        patience_s = settings.give_up_s if self.was_under_way else settings.open_timeout_s
        return self.since_s + (min(UNKNOWN_S, patience_s) if isinstance(error, NotFound) else patience_s)


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
