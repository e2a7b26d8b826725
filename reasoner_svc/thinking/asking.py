"""Pure. What a question says of thinking, checked. Knows the message and the model's prompt layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoner_svc.thinking.chain import ThinkingRules
from reasoner_svc.thinking.wish import Eviction, ThinkingRecord, ThinkingWish
from tandem.core.errors import BadQuestion
from tandem.wire.gen.tandem.v1 import types_pb2

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout

OPEN, CLOSE = "<think>\n", "</think>"
CLOSING = "\n\nI have thought for long enough and answer now.\n"
MAX_MARKER_CHARS, MAX_CLOSING_CHARS = 64, 1000
CAPACITY, WINDOW, MAX_WINDOW, THRESHOLD = 1024, 128, 1024, 1e-4
"""Of eviction. The threshold is the paper's for R1-Distill-Qwen-7B."""


def thinking_wish(
    message: types_pb2.Thinking, prompt: PromptLayout, max_tokens: int
) -> tuple[ThinkingWish, tuple[int, ...]]:
    """The wish, and the tokens that open thinking at the end of the prompt.

    At most `max_tokens` of thinking are allowed here. Raises BadQuestion that names what is wrong.
    """
    for name, text, limit in (
        ("open", message.open, MAX_MARKER_CHARS),
        ("close", message.close, MAX_MARKER_CHARS),
        ("closing", message.closing, MAX_CLOSING_CHARS),
    ):
        if len(text) > limit:
            raise BadQuestion(f"thinking.{name} has {len(text)} characters; at most {limit} are allowed")
    budget = message.max_tokens if message.HasField("max_tokens") else max_tokens
    if budget > max_tokens:
        raise BadQuestion(f"thinking.max_tokens is {budget}; at most {max_tokens} are allowed here")
    close = message.close or CLOSE
    closing_ids = tuple(prompt.encode_text((message.closing or CLOSING) + close))
    if close not in prompt.decode(closing_ids):
        raise BadQuestion(f"thinking.close is {close!r}, which this model's tokens cannot spell")
    rules = ThinkingRules(
        budget_tokens=budget, loop_guard=message.loop_guard, convergence=message.convergence
    )
    opening = message.open if message.HasField("open") else OPEN
    wish = ThinkingWish(
        close=close,
        closing_ids=closing_ids,
        rules=rules,
        eviction=_eviction(message.eviction) if message.HasField("eviction") else None,
    )
    return wish, tuple(prompt.encode_text(opening) if opening else ())


def thinking_to_proto(record: ThinkingRecord) -> types_pb2.ThinkingUsage:
    """What policies did, for the wire."""
    return types_pb2.ThinkingUsage(dropped_tokens=record.dropped)


def _eviction(message: types_pb2.ThinkingEviction) -> Eviction:
    window = message.window or WINDOW
    capacity = message.capacity or max(CAPACITY, window)
    threshold = message.threshold or THRESHOLD
    if window > MAX_WINDOW:
        raise BadQuestion(f"thinking.eviction.window is {window}; 1 to {MAX_WINDOW} are allowed")
    if capacity < window:
        raise BadQuestion(
            f"thinking.eviction.capacity is {capacity}; the newest {window} tokens (window) always stay"
        )
    if not 0 < threshold < 1:  # nor NaN
        raise BadQuestion(f"thinking.eviction.threshold is {threshold}; it is a probability between 0 and 1")
    return Eviction(capacity=capacity, window=window, threshold=threshold)
