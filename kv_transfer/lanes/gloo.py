"""Shell. The Gloo lane: a two-rank process group made directly for one direction of one pair.

No TCPStore: rendezvous rides the control stream through `ControlStore`. The listener is bound to one
address. A frame is one message of its class's fixed size: Gloo ends the process when a peer sends more than
was posted and accepts less in silence, so lengths are never the peer's to choose. Full frames go straight
from the block's memory to the reserved buffer; others pass a staging buffer.

The 64-byte header is not sent but agreed upon: a message's tag is a digest of its header and size, and both
ends know every header in advance. A frame that is stale, or not the one whose turn it is, or of another
size, therefore matches no receive and writes nowhere; the wait for the right one runs out. A message of
its own for the header costs a tenth of the time of a 1 MiB frame.

`Work.is_completed` is never true and nothing in Gloo wakes a blocked wait, so `interrupt` shuts down the
pair's own socket, which is known by the addresses that the two devices listen on, port and all. That fails
every receive which has not begun. But Gloo forgets the message that it was reading, and those that it was
writing: whoever waits for one is stranded until the deadline (`Lane.can_strand`).
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import xxhash
from torch._C._distributed_c10d import ProcessGroupGloo
from typing_extensions import override

from kv_transfer.lanes.base import (
    PROOF_BYTES,
    Lane,
    LaneBroken,
    LaneContext,
    WireFrame,
    check_frame,
    gather,
    scatter,
)
from kv_transfer.lanes.gloo_device import (
    decode_address,
    encode_address,
    find_sockets,
    gloo_options,
    make_device,
    shut,
)
from kv_transfer.lanes.store import ControlStore
from tandem.core.transfer import FrameClass, LaneKind

_PROOF_TAG = 1
_PROBE_TAG = 2
_PATIENCE_BYTES = FrameClass.L.size_bytes
"""What may move within one timeout."""
_SPARE_BYTES = 8 << 20
"""Staging of each size that is kept while nothing is under way."""
_AT_ONCE_S = 0.001


@dataclass(slots=True)
class _Posted:
    frame: WireFrame
    payload: torch.Tensor
    work: Any
    is_staged: bool


class GlooLane(Lane):
    """Frames over one Gloo pair."""

    kind = LaneKind.GLOO
    window = 8
    can_strand = True

    def __init__(self, context: LaneContext) -> None:
        super().__init__(context)
        self._landed = 0
        """Of the oldest in flight, how many are known to be done."""
        self._group: Any = None
        self._device: Any = None
        self._sockets: list[socket.socket] = []
        self._interrupted = False
        self._flight: deque[_Posted] = deque()
        self._spare: dict[int, list[torch.Tensor]] = {}
        self._guard = threading.Lock()

    @override
    def open(self) -> None:
        context = self.context
        store = ControlStore(context.store, "gloo", context.open_timeout_s)
        try:
            self._device, own = make_device(context.gloo_host)
            context.store.set(f"address/{context.rank}", encode_address(own))
            options = gloo_options(self._device, context.open_timeout_s)
            self._group = ProcessGroupGloo(store, context.rank, 2, options)
        except (RuntimeError, OSError) as error:
            raise LaneBroken(f"the Gloo pair could not be made: {error}") from error
        peer = decode_address(context.store.get(f"address/{1 - context.rank}", context.open_timeout_s))
        with self._guard:
            self._sockets = find_sockets(own, peer)
            if self._interrupted:
                self._shut()
        if not self._sockets:
            raise LaneBroken("the Gloo pair has no connection any more")

    @override
    def exchange(self, message: bytes, timeout_s: float) -> bytes:
        outbound = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        inbound = torch.zeros(PROOF_BYTES, dtype=torch.uint8)
        peer = 1 - self.context.rank
        receiving = self._start("recv", inbound, peer, _PROOF_TAG)
        sending = self._start("send", outbound, peer, _PROOF_TAG)
        self._wait(sending, timeout_s)
        self._wait(receiving, timeout_s)
        return bytes(inbound.numpy().data)

    @override
    def put(self, frame: WireFrame, timeout_s: float) -> None:
        self._fly("send", frame)

    @override
    def settle(self, timeout_s: float) -> None:
        self._land(timeout_s)

    @override
    def post(self, frame: WireFrame) -> None:
        self._fly("recv", frame)

    @override
    def take(self, timeout_s: float) -> bytes:
        landed = self._land(timeout_s)
        if landed.is_staged:
            with self._guard:  # whoever closes the lane may not be this thread, and then owns the pieces
                self._check()
                scatter(landed.payload, landed.frame.pieces)
        return landed.frame.header

    @override
    def interrupt(self) -> None:
        with self._guard:
            self._interrupted = True
            self.context.store.abort("the lane was interrupted")
            self._shut()

    @override
    def close(self) -> None:
        self.interrupt()
        # Freeing works and group cancels what is posted, but for a work that somebody is stranded with.
        self._await_end()
        self._flight.clear()
        self._group = None
        self._device = None
        self._spare.clear()
        with self._guard:
            for each in self._sockets:
                each.close()
            self._sockets = []

    def _fly(self, verb: str, frame: WireFrame) -> None:
        is_staged = len(frame.pieces) > 1 or check_frame(frame) < frame.size_bytes
        payload = self._staging(frame.size_bytes) if is_staged else frame.pieces[0]
        if is_staged and verb == "send":
            gather(frame.pieces, payload)
        work = self._start(verb, payload, 1 - self.context.rank, _tag(frame))
        self._flight.append(_Posted(frame, payload, work, is_staged))

    def _land(self, timeout_s: float) -> _Posted:
        self._check()
        if not self._landed:
            group = self._ahead()
            # Gloo moves the messages of one pair in order: when this one is done, so are those before it.
            # A thread that woke for each would take the core from the thread that copies, once a frame.
            size_bytes = sum(posted.payload.numel() for posted in itertools.islice(self._flight, group))
            self._wait(self._flight[group - 1].work, group_timeout_s(timeout_s, size_bytes))
            self._landed = group
        oldest = self._flight.popleft()
        self._landed -= 1
        if self._landed:  # the last of the group was waited for, and a second wait would never end
            # A frame before one that has landed is done too, or it was lost and never comes.
            self._wait(oldest.work, _AT_ONCE_S)
        if oldest.is_staged:
            self._spare.setdefault(oldest.frame.size_bytes, []).append(oldest.payload)
        if not self._flight:
            self._trim()
        return oldest

    def _ahead(self) -> int:
        """How many frames to wait for at once: half of those of the oldest one's transfer in flight.

        The other half keeps the wire busy meanwhile, and the last frames of a transfer, whose verification
        nothing hides, are taken in ever smaller groups. Never past its last frame: the next transfer's may
        be long in coming.
        """
        count = 1 + sum(1 for _ in itertools.takewhile(lambda posted: posted.frame.more, self._flight))
        return max(1, min(count, len(self._flight)) // 2)

    def _start(self, verb: str, tensor: torch.Tensor, peer: int, tag: int) -> Any:
        self._check()
        try:
            return getattr(self._group, verb)([tensor], peer, tag)
        except RuntimeError as error:
            raise self._fail(f"Gloo {verb}: {error}") from error

    def _check(self) -> None:
        if self._broken or self._interrupted or self._group is None:
            raise LaneBroken(self._broken or "the lane is closed")

    def _wait(self, work: Any, timeout_s: float) -> None:
        try:
            work.wait(timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise self._fail(f"Gloo: {str(error).splitlines()[0]}") from error

    def _shut(self) -> None:
        for each in self._sockets:
            shut(each)

    def _await_end(self) -> None:
        """Until Gloo knows that the connection has ended: it reads and writes no memory from then on."""
        probe = torch.zeros(1, dtype=torch.uint8)
        while self._group is not None and self._sockets:
            try:
                self._group.recv([probe], 1 - self.context.rank, _PROBE_TAG)
            except RuntimeError:
                return
            time.sleep(0.001)

    def _staging(self, size_bytes: int) -> torch.Tensor:
        spare = self._spare.get(size_bytes)
        return spare.pop() if spare else torch.empty(size_bytes, dtype=torch.uint8)

    def _trim(self) -> None:
        for size_bytes, spare in self._spare.items():
            del spare[_SPARE_BYTES // size_bytes :]


def group_timeout_s(timeout_s: float, size_bytes: int) -> float:
    """How long to wait for frames of this size together: `timeout_s` for every 8 MiB or part of them."""
    return timeout_s * max(1, -(-size_bytes // _PATIENCE_BYTES))


def _tag(frame: WireFrame) -> int:
    """31 bits that both ends compute alike; a chance meeting is still caught by the layers' checksums."""
    digest: int = xxhash.xxh3_64_intdigest(frame.header, seed=frame.size_bytes)
    return digest & 0x7FFFFFFF
