"""Pure. The control messages of a KV transfer pair, as plain values.

Knows neither protobuf (`tandem.wire.transfer` converts) nor the decisions (`kv_transfer.protocol`).
A pair is one encoder and one reasoner. The *initiator* opened the control stream; the other end is the
*acceptor*. Blocks can travel both ways: lane ``FORWARD`` carries initiator to acceptor, ``REVERSE`` the
other way. In every pair of messages below the *sender* has blocks and the *receiver* wants them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from tandem.core.blocks import BlockHeader
from tandem.core.ids import StreamId
from tandem.core.versions import Spoken

PROTOCOL_MAJOR = 2
"""The newest that is spoken. 2: frame class H, and with it other numbers for M and L."""
LOWEST_MAJOR = 2
MAJORS = Spoken(LOWEST_MAJOR, PROTOCOL_MAJOR)
"""Ends whose ranges do not meet refuse each other."""
PROTOCOL_MINOR = 0
"""Minors add fields that the older end may ignore."""


class LaneKind(StrEnum):
    """What carries the bytes, in order of preference."""

    SHM = "shm"
    NCCL = "nccl"
    GLOO = "gloo"
    LOOPBACK = "loopback"
    """Inside one process: tests and single-process mode."""


class Direction(StrEnum):
    """Which way a lane's frames travel."""

    FORWARD = "forward"
    """Initiator to acceptor."""
    REVERSE = "reverse"
    """Acceptor to initiator."""


class FrameClass(IntEnum):
    """Fixed sizes of wire frames; nothing else is ever sent on a lane."""

    S = 1
    H = 2
    M = 3
    L = 4

    @property
    def size_bytes(self) -> int:
        """Payload bytes of a frame of this class."""
        return (65_536, 524_288, 1_048_576, 8_388_608)[self - 1]


class NackCode(StrEnum):
    """Why something was refused."""

    VERSION = "version"
    INCOMPAT = "incompat"
    UNAUTH = "unauth"
    BUSY = "busy"
    DRAINING = "draining"
    CORRUPT = "corrupt"
    NOT_FOUND = "not_found"
    EXPIRED = "expired"
    STALE = "stale"
    INVALID = "invalid"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOffer:
    """A lane kind that the sender of the message can use."""

    kind: LaneKind
    token: str = ""
    """shm: name of the nonce file. nccl: device name. gloo: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message of the initiator."""

    major: int = LOWEST_MAJOR
    """The lowest that the initiator speaks."""
    newest_major: int = PROTOCOL_MAJOR
    """0: as `major`; the peer knows of no ranges."""
    minor: int = PROTOCOL_MINOR
    fingerprint: str
    """32 hex digits; see `BlockHeader.fingerprint`."""
    boot_id: str
    """New for every process start; a change voids everything that was granted."""
    ticket: bytes
    lanes: tuple[LaneOffer, ...]
    """In order of preference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAck:
    """The acceptor agrees."""

    major: int = PROTOCOL_MAJOR
    """That both speak from now on."""
    minor: int = PROTOCOL_MINOR
    fingerprint: str
    boot_id: str
    lanes: tuple[LaneKind, ...]
    """What both can use, in the initiator's order; never empty."""
    shm_proof: bytes = b""
    """SHA-256 of the nonce file's content: proof that both ends see the same directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """A refusal: of the hello (`transfer_id` 0) or of one transfer."""

    transfer_id: int = 0
    code: NackCode
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOpen:
    """The initiator orders a lane (again); both ends now build it under this lane epoch."""

    direction: Direction
    lane_epoch: int
    kind: LaneKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneBroken:
    """The lane of this epoch is gone at the sender of the message."""

    direction: Direction
    lane_epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSet:
    """Rendezvous: one key of the lane's store, at most 64 KiB."""

    direction: Direction
    lane_epoch: int
    key: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The sender has these blocks."""

    transfer_id: int
    """Chosen by the sender, from 1 up, never used twice in a link."""
    headers: tuple[BlockHeader, ...]
    timeout_s: float
    """How long the sender will wait from now."""
    request_id: int = 0
    """The `Fetch` that asked for them, or 0."""
    trace: str = ""
    """Trace context of one of them; empty: none is traced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGrant:
    """Send this block's layers."""

    index: int
    """Index into the offer's headers."""
    layers: tuple[int, ...]
    """Layers still missing, ascending; all of them at the first attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The receiver has room: send these, in this order, on the lane of this epoch."""

    transfer_id: int
    attempt: int
    """1 at first, one more after every break or corruption."""
    lane_epoch: int
    frame_class: FrameClass
    blocks: tuple[BlockGrant, ...]
    have: tuple[int, ...] = ()
    """Indices that the receiver already holds, published and equal."""
    refused: tuple[int, ...] = ()
    """Indices without room now; offer them again later."""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """These blocks are published."""

    transfer_id: int
    published: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The sender gives the transfer up."""

    transfer_id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Please offer these blocks to me."""

    request_id: int
    stream: StreamId
    numbers: tuple[int, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRefused:
    """The fetch cannot be served; `code` is a `tandem.core.errors.ErrorCode`."""

    request_id: int
    code: str
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """I am alive; `sequence` counts up."""

    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """The sender of the message closes the link and says why."""

    reason: str


ControlMessage = (
    Hello
    | HelloAck
    | Nack
    | LaneOpen
    | LaneBroken
    | StoreSet
    | Offer
    | Grant
    | Ack
    | Cancel
    | Fetch
    | FetchRefused
    | Heartbeat
    | Bye
)
"""Everything that may travel on the control stream."""
