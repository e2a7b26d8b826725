"""Pure. What the decisions of a link ask the shell to do, in the order given."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.errors import TandemError
from tandem.core.transfer import BlockGrant, ControlMessage, Direction, FrameClass, LaneKind


@dataclass(frozen=True, slots=True)
class Send:
    """Send a control message."""

    message: ControlMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmit:
    """Queue these frames on the sending lane."""

    transfer_id: int
    attempt: int
    lane_epoch: int
    frame_class: FrameClass
    blocks: tuple[BlockGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """Post receives for these frames on the receiving lane, before the grant goes out."""

    transfer_id: int
    attempt: int
    lane_epoch: int
    frame_class: FrameClass
    blocks: tuple[BlockGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """The sender's wait for one block is over; `error` None means that the peer holds it."""

    transfer_id: int
    index: int
    had: bool = False
    """True when the peer held it before."""
    error: TandemError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Every layer of these blocks has landed and matched: publish them, then acknowledge."""

    transfer_id: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Nothing writes to the block's buffer any more and it will not be published: give it back."""

    transfer_id: int
    index: int


@dataclass(frozen=True, slots=True)
class BreakLane:
    """Close the lane at once; frames that the peer does not expect may be on it."""

    direction: Direction
    lane_epoch: int
    """The lane that they may be on: a newer one carries none of them and stays."""
    reason: str


@dataclass(frozen=True, slots=True)
class OpenLane:
    """Build the lane under a new lane epoch."""

    direction: Direction
    lane_epoch: int
    kind: LaneKind


@dataclass(frozen=True, slots=True)
class CloseLink:
    """The link cannot go on."""

    error: TandemError


Action = Send | Transmit | Expect | Settle | Publish | Release | BreakLane | OpenLane | CloseLink
