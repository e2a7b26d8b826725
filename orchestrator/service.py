"""Shell: one start of one service, as the shell needs it: a channel to it, and what is known of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchestrator.membership import Identity
from orchestrator.reasoner_link import ReasonerLink
from orchestrator.waiting import Gone
from tandem.wire.gen.tandem.v1 import types_pb2
from tandem.wire.proof import ProvenChannel

MOVES_AT_ONCE = 2
"""Streams that move to one reasoner at the same time: as many as it takes in (`reasoner_svc/moving.py`)."""


@dataclass(slots=True)
class Service:
    """One start of one service, as the shell needs it."""

    identity: Identity
    build: types_pb2.BuildInfo
    model: types_pb2.ModelInfo
    channel: ProvenChannel
    gone: Gone
    metadata: tuple[tuple[str, str], ...] = ()
    """With every call to it."""
    attachments: int = 0
    """Counts its Attach calls: the end of an older one means nothing."""
    link: ReasonerLink = field(init=False)
    drain_ms: int | None = None
    """Time that it is to be told to leave within; None: it is not asked to."""
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOVES_AT_ONCE))
    """Of streams that move here with their blocks."""

    def __post_init__(self) -> None:
        self.link = ReasonerLink(self.channel, self.gone, self.metadata)
