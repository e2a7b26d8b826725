"""Pure: the client's own limits and patience, with the reason for each default. Knows no server."""

from __future__ import annotations

import random
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How far ahead the client runs, what it keeps, and how long it tries."""

    window_bytes: int = 16 * MEBIBYTE
    """Most bytes pushed and not yet received by the server: `push_*` waits when it is full. Ten seconds of
    a 12 Mbit/s camera."""
    retain_bytes: int = 64 * MEBIBYTE
    """Most bytes kept for sending again after a loss; the oldest received ones are forgotten first."""
    connect_timeout_s: float = 3.0
    """How long an address where nothing listens is tried before the first stream is open: long enough for
    a server that was started a moment ago."""
    open_timeout_s: float = 30.0
    """How long opening a stream is tried before the error is raised: services that start load a model."""
    give_up_s: float = 120.0
    """How long a lost connection is tried again before the stream fails."""
    backoff_first_s: float = 0.1
    backoff_cap_s: float = 5.0
    event_queue: int = 4096
    """Most events kept for a reader of `Stream.events()`; one that falls further behind gets `SlowReader`."""
    read_pause_s: float = 0.0
    """Wait before reading each message of the server: a client that is slow on purpose, to see what it costs
    others."""


def backoff_s(attempt: int, settings: ClientSettings, chance: random.Random) -> float:
    """Wait before try number `attempt` (from 1): doubled each time, capped, and anywhere in its upper half.

    The jitter keeps a thousand cameras from coming back in the same millisecond after a restart.
    """
    if attempt < 1:
        raise ValueError(f"attempts count from 1, not {attempt}")
    full = min(settings.backoff_cap_s, settings.backoff_first_s * 2.0 ** min(attempt - 1, 30))
    return full * (0.5 + chance.random() / 2)
