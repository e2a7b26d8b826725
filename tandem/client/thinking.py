"""Pure: thinking of the answerer itself, as a client asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.wire.gen.tandem.v1 import types_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingUsage:
    """What policies did to the answerer's own thinking."""

    dropped_tokens: int = 0
    """Tokens of its own text that left the view again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingEviction:
    """Generated text that is not attended to again leaves the device (LazyEviction); video never does."""

    capacity: int = 0
    """Generated tokens that stay when a window ends; 0: the server's."""
    window: int = 0
    """Tokens from one look to the next, at most `capacity`; 0: the server's."""
    threshold: float = 0.0
    """Probability from which on a token counts as attended to; 0: the server's."""


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
    eviction: ThinkingEviction | None = None
    """Keep what is generated small; None: it all stays."""


def thinking_to_proto(thinking: Thinking) -> types_pb2.Thinking:
    """The answerer's own thinking, for the wire."""
    return types_pb2.Thinking(
        open=thinking.open,
        close=thinking.close,
        closing=thinking.closing,
        max_tokens=thinking.max_tokens,
        loop_guard=thinking.loop_guard,
        convergence=thinking.convergence,
        eviction=_eviction(thinking.eviction) if thinking.eviction else None,
    )


def _eviction(eviction: ThinkingEviction) -> types_pb2.ThinkingEviction:
    return types_pb2.ThinkingEviction(
        capacity=eviction.capacity, window=eviction.window, threshold=eviction.threshold
    )


def thinking_usage(usage: types_pb2.Usage) -> ThinkingUsage | None:
    """What policies did, off the wire; None when nobody thought."""
    message = usage.thinking
    return ThinkingUsage(dropped_tokens=message.dropped_tokens) if usage.HasField("thinking") else None
