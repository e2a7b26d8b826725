"""Pure. What a question says of thinking, checked. Knows the message and the model's prompt layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoner_svc.thinking.chain import ThinkingRules
from reasoner_svc.thinking.wish import ThinkingWish
from tandem.core.errors import BadQuestion
from tandem.wire.gen.tandem.v1 import types_pb2

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout

OPEN, CLOSE = "<think>\n", "</think>"
CLOSING = "\n\nI have thought for long enough and answer now.\n"
MAX_MARKER_CHARS, MAX_CLOSING_CHARS = 64, 1000


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
    return ThinkingWish(close=close, closing_ids=closing_ids, rules=rules), tuple(
        prompt.encode_text(opening) if opening else ()
    )
