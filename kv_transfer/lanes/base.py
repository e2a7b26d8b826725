"""Shell. The interface of a lane: fixed-size frames one way, between two processes, in order.

A lane knows nothing of blocks, grants or checksums. It belongs to one I/O thread at each end; only
`interrupt` may be called from another. Every wait has a deadline. A lane that fails once is finished: it
raises LaneBroken from then on, and is closed and built anew under the next lane epoch.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from tandem.core.errors import Unavailable
from tandem.core.transfer import Direction, LaneKind

PROOF_BYTES = 256
"""Length of the one message that each end sends to prove itself."""


class LaneBroken(Unavailable):
    """The lane cannot be used any more."""


@dataclass(frozen=True, slots=True)
class WireFrame:
    """One frame to send or to expect: a 64-byte header, then `size_bytes` of which the pieces are valid."""

    header: bytes
    size_bytes: int
    """Fixed size of the frame's class."""
    pieces: tuple[torch.Tensor, ...]
    """uint8 views, 1-D and contiguous, that the frame's bytes come from or go to, in order."""
    more: bool = False
    """Frames of the same transfer follow: a lane may wait for one of those and wake up once for several."""


class LaneStore:
    """Rendezvous of one lane: what either end sets, both can get. Thread-safe."""

    def __init__(self, publish: Callable[[str, bytes], None]) -> None:
        self._publish = publish
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._aborted = ""

    def set(self, key: str, value: bytes) -> None:
        """Set a key here and at the peer."""
        self.feed(key, value)
        self._publish(key, value)

    def feed(self, key: str, value: bytes) -> None:
        """The peer set a key."""
        with self._changed:
            if len(self._values) >= 64:
                raise Unavailable("the peer sets more rendezvous keys than any lane needs")
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str, timeout_s: float) -> bytes:
        """Wait for a key. Raises LaneBroken when it does not come in time or the lane is given up."""
        with self._changed:
            self._changed.wait_for(lambda: key in self._values or self._aborted, timeout_s)
            if self._aborted:
                raise LaneBroken(self._aborted)
            if key not in self._values:
                raise LaneBroken(f"the peer did not set {key!r} within {timeout_s:.1f} s")
            return self._values[key]

    def has(self, keys: Iterable[str]) -> bool:
        """True when all keys are set."""
        with self._changed:
            return all(key in self._values for key in keys)

    def abort(self, reason: str) -> None:
        """Wake every waiter with LaneBroken."""
        with self._changed:
            self._aborted = reason
            self._changed.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneContext:
    """Everything a lane is made from."""

    pair_id: str
    epoch: int
    lane_epoch: int
    direction: Direction
    initiator: bool
    """True at the end that opened the control stream; it is rank 0."""
    secret: bytes
    store: LaneStore
    shm_directory: str = "/dev/shm"  # noqa: S108 - a meeting place; see LinkConfig
    gloo_host: str = "127.0.0.1"
    device: str = "cpu"
    open_timeout_s: float = 5.0

    @property
    def sends(self) -> bool:
        """True when frames leave from this end."""
        return self.initiator == (self.direction is Direction.FORWARD)

    @property
    def rank(self) -> int:
        """0 at the initiator, 1 at the acceptor."""
        return 0 if self.initiator else 1

    @property
    def name(self) -> str:
        """Names the lane in proofs, keys and logs."""
        return f"{self.pair_id}/{self.epoch}/{self.direction.value}/{self.lane_epoch}"


class Lane(ABC):
    """One direction of frames. See the module's docstring for who may call what."""

    kind: ClassVar[LaneKind]
    window: ClassVar[int]
    """Frames that may be put and not settled, or posted and not taken."""
    can_strand: ClassVar[bool] = False
    """After `interrupt`, `take` and `settle` may stay blocked until their deadline. Such a lane may be closed
    by another thread meanwhile: the stranded call then touches nothing any more, and raises in the end."""

    def __init__(self, context: LaneContext) -> None:
        self.context = context
        self._broken = ""
        """Why the lane failed; no call after that may report a frame."""

    def _fail(self, reason: str) -> LaneBroken:
        """The error to raise, now and by every later call."""
        self._broken = self._broken or reason
        return LaneBroken(reason)

    @abstractmethod
    def open(self) -> None:
        """Meet the peer. Raises LaneBroken when that fails within `context.open_timeout_s`."""

    @abstractmethod
    def exchange(self, message: bytes, timeout_s: float) -> bytes:
        """Send 256 bytes and receive 256, both ends at once; only between `open` and the first frame."""

    @abstractmethod
    def put(self, frame: WireFrame, timeout_s: float) -> None:
        """Sender: start one frame. Its pieces must not change until it is settled."""

    @abstractmethod
    def settle(self, timeout_s: float) -> None:
        """Sender: wait until the lane is done with the oldest frame put. Raises LaneBroken."""

    @abstractmethod
    def post(self, frame: WireFrame) -> None:
        """Receiver: expect one frame; its pieces are written until it is taken or the lane is closed."""

    @abstractmethod
    def take(self, timeout_s: float) -> bytes:
        """Receiver: wait for the oldest frame posted and return the header that came with it.

        The caller compares it with the one posted. A lane whose transport matches messages by what was
        agreed may let only that one through and return it. Raises LaneBroken.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Any thread: make a blocked call fail soon, and every later one at once. Idempotent.

        For the exception see `can_strand`.
        """

    @abstractmethod
    def close(self) -> None:
        """Free everything; when it returns nothing writes to posted pieces any more. Idempotent."""


def check_frame(frame: WireFrame) -> int:
    """Number of valid bytes of a frame; asserts that they fit."""
    valid = sum(piece.numel() for piece in frame.pieces)
    assert 0 < valid <= frame.size_bytes, f"{valid} bytes in a frame of {frame.size_bytes}"
    return valid


def gather(pieces: Sequence[torch.Tensor], target: torch.Tensor) -> None:
    """Copy pieces, one after the other, to the front of `target`."""
    at = 0
    for piece in pieces:
        target[at : at + piece.numel()].copy_(piece)
        at += piece.numel()


def scatter(source: torch.Tensor, pieces: Sequence[torch.Tensor]) -> None:
    """Copy the front of `source` to pieces, one after the other."""
    at = 0
    for piece in pieces:
        piece.copy_(source[at : at + piece.numel()])
        at += piece.numel()


class Deadline:
    """A point in monotonic time."""

    def __init__(self, timeout_s: float) -> None:
        self._at_s = time.monotonic() + timeout_s

    def left_s(self, doing: str) -> float:
        """Seconds left. Raises LaneBroken when there are none."""
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise LaneBroken(f"time ran out while {doing}")
        return left_s
