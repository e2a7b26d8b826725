"""Pure. The seams of a link: what a service gives it, what it gives back, and how it is configured.

Knows neither lanes nor gRPC. All callbacks run in the event loop's thread and must return quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch

from kv_transfer.block import Block
from tandem.core.addresses import is_wildcard_host
from tandem.core.blocks import BlockHeader, BlockKey, KVLayout
from tandem.core.errors import InvalidInput, TandemError
from tandem.core.ids import Epoch, StreamId
from tandem.core.tickets import MIN_SECRET_BYTES, Ticket
from tandem.core.transfer import ControlMessage, LaneKind

_FORGET_EVERY_S = 60.0


class ControlChannel(Protocol):
    """An ordered, reliable stream of control messages to the peer. Used by one link only."""

    async def send(self, message: ControlMessage) -> None:
        """Send one message. Raises Unavailable when the stream is gone."""
        ...

    async def receive(self) -> ControlMessage | None:
        """The next message, or None once the peer's end has closed.

        Raises InvalidInput for a message that cannot be understood, Unavailable when the stream broke.
        """
        ...

    async def close(self) -> None:
        """End the stream; idempotent."""
        ...


class BlockSink(Protocol):
    """Where received blocks go: the store of a reasoner, the window of an encoder."""

    def have(self, key: BlockKey, layer_checksums: Sequence[int]) -> bool:
        """True when this very block (equal checksums) is already published here."""
        ...

    def reserve(self, header: BlockHeader) -> torch.Tensor:
        """A buffer for the payload: uint8, 1-D, contiguous, `header.payload_bytes` long, in host memory.

        The link owns it until it calls `publish` or `release`, exactly one of them.
        Raises LimitExceeded when there is no room now (the peer is told when to try again), or another
        TandemError when the block can never be taken (wrong stream, wrong fingerprint).
        """
        ...

    def publish(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """The whole block has landed and every layer matched its checksum: make it visible."""
        ...

    def release(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """The block will not come; nothing writes to the buffer any more."""
        ...


class BlockSource(Protocol):
    """Where blocks asked for by the peer come from."""

    def read(self, stream: StreamId, numbers: Sequence[int]) -> list[Block]:
        """Exactly these blocks, in this order. Their bytes must not change while they are sent.

        Raises NotFound or DataLost when one is not held.
        """
        ...


class Outcome(StrEnum):
    """What became of one block."""

    PUBLISHED = "published"
    """The peer published it now."""
    HAVE = "have"
    """The peer had published it before."""
    FAILED = "failed"
    """See `SendResult.error`; the peer may still publish it when it failed by deadline or a lost link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """What became of one block that was sent."""

    key: BlockKey
    outcome: Outcome
    error: TandemError | None = None
    """Set when FAILED: LimitExceeded (no room until the deadline), DeadlineExceeded, Unavailable (the link
    closed), Incompatible, DataLost (corrupt twice), or what the peer's sink raised."""

    @property
    def ok(self) -> bool:
        """True when the peer now holds the block, published."""
        return self.outcome is not Outcome.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClosed:
    """Why a link ended; the result of `Link.closed`."""

    reason: str
    error: TandemError | None = None
    """None after an orderly close by either end."""


class EpochGuard:
    """Highest epoch seen of each pair. One per process, shared by its links; event loop's thread only.

    A pair is forgotten when its newest ticket has run out: older ones ran out before, so none can come back.
    """

    def __init__(self) -> None:
        self._highest: dict[str, tuple[Epoch, int]] = {}
        self._next_look_s = 0.0

    def __len__(self) -> int:
        return len(self._highest)

    def admit(self, ticket: Ticket, now_unix_s: float) -> bool:
        """Record and accept a valid ticket when its epoch is above every epoch seen of its pair."""
        self._forget_expired(now_unix_s)
        epoch, not_after_s = self._highest.get(ticket.pair_id, (-1, 0))
        if ticket.epoch <= epoch:
            return False
        self._highest[ticket.pair_id] = ticket.epoch, max(not_after_s, ticket.not_after_unix_s)
        return True

    def _forget_expired(self, now_unix_s: float) -> None:
        if now_unix_s >= self._next_look_s:
            self._next_look_s = now_unix_s + _FORGET_EVERY_S
            self._highest = {
                pair: (epoch, not_after_s)
                for pair, (epoch, not_after_s) in self._highest.items()
                if not_after_s >= now_unix_s
            }


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEnd:
    """Who this end is."""

    node_id: str
    """The id under which the orchestrator's tickets name this process."""
    fingerprint: str
    """32 hex digits of the model's KV; must equal the peer's."""
    layout: KVLayout | None = None
    """Shape of the model's KV: blocks that were fetched must have it. None: not compared."""
    boot_id: str
    """New for every start of this process; 1 to 64 characters."""
    cluster_secret: bytes = field(repr=False)
    """Signs tickets; at least 16 bytes."""
    ticket: bytes = b""
    """The signed ticket; needed by the initiator, unused by the acceptor."""
    epochs: EpochGuard = field(default_factory=EpochGuard)
    """Shared by all links of the process, so that an old epoch cannot come back."""
    refuse: Callable[[], TandemError | None] = lambda: None
    """Acceptor: an error to refuse new links with now (draining, too many peers), or None."""

    def __post_init__(self) -> None:
        if len(self.cluster_secret) < MIN_SECRET_BYTES:
            raise InvalidInput(f"the cluster secret needs at least {MIN_SECRET_BYTES} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Settings of a link. Both ends should agree on the lanes; all else is each end's own."""

    lanes: tuple[LaneKind, ...] = (LaneKind.SHM, LaneKind.NCCL, LaneKind.GLOO)
    """Kinds this end may use, in order of preference."""
    shm_directory: str = "/dev/shm"  # noqa: S108 - both containers of a pod mount this
    """Where the two ends meet for the shared-memory lane; the bytes themselves lie in a memfd."""
    gloo_host: str = "127.0.0.1"
    """Address that Gloo listens on; never a wildcard."""
    device: str = "cpu"
    """The NCCL lane needs ``cuda:N`` at both ends."""
    credit_bytes: int = 256 << 20
    """Most payload bytes granted to the peer and not yet published. A larger block is granted alone."""
    fetch_bytes: int = 4 << 30
    """Most payload bytes of the blocks that one fetch brings; the peer chooses their sizes."""
    max_pending_offers: int = 256
    """Offers that wait for credit; one more is refused as busy."""
    offer_bytes: int = 32 << 20
    """Blocks of one `send` are offered together up to this many bytes."""
    offer_blocks: int = 64
    """And up to this many blocks."""
    handshake_timeout_s: float = 5.0
    lane_open_timeout_s: float = 5.0
    frame_timeout_s: float = 10.0
    """Longest wait for one frame to move; then the lane is broken and rebuilt. A lane that waits for several
    at once waits this long for every 8 MiB of them: at the default, a link needs 6.7 Mbit/s."""
    heartbeat_s: float = 2.0
    heartbeat_misses: int = 3
    """Silent heartbeat intervals after which the peer is dead."""
    max_rebuilds: int = 3
    """Rebuilds of one lane within `rebuild_window_s` before the next kind is tried."""
    rebuild_window_s: float = 10.0
    close_timeout_s: float = 3.0
    """Longest wait at close for the peer, and for the I/O threads beyond `lane_open_timeout_s`."""

    def __post_init__(self) -> None:
        if not self.lanes:
            raise InvalidInput("a link needs at least one lane kind")
        if is_wildcard_host(self.gloo_host):
            raise InvalidInput(f"gloo_host names every interface ({self.gloo_host!r}); name one address")
        times = (self.handshake_timeout_s, self.lane_open_timeout_s, self.frame_timeout_s, self.heartbeat_s)
        sizes = (self.credit_bytes, self.fetch_bytes, self.offer_bytes, self.offer_blocks)
        if min(times) <= 0 or min(sizes) <= 0:
            raise InvalidInput("times and limits of a link must be positive")
