"""Pure: thinking of the answerer itself, as a client asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.wire.gen.tandem.v1 import types_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """The answerer thinks first: what it writes up to `close` are thoughts, what follows is the answer."""

    open: str | None = None
    """Put at the end of the prompt, so that it begins to think; None: "<think>" and a new line."""
    close: str = ""
    """What ends thinking in the model's own text; empty: "</think>"."""
    closing: str = ""
    """Said for the model when a rule ends its thinking; empty: the server's words."""
    max_tokens: int | None = None
    """Most tokens of thinking, apart from the answer's; 0: none at all; None: the server's limit."""
    loop_guard: bool = False
    """End what repeats itself."""
    convergence: bool = False
    """End thinking that states the same answer three times, or does not get anywhere."""


def thinking_to_proto(thinking: Thinking) -> types_pb2.Thinking:
    """The answerer's own thinking, for the wire."""
    return types_pb2.Thinking(
        open=thinking.open,
        close=thinking.close,
        closing=thinking.closing,
        max_tokens=thinking.max_tokens,
        loop_guard=thinking.loop_guard,
        convergence=thinking.convergence,
    )
