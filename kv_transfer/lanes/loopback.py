"""Shell. The loopback lane: frames between two links of one process. For tests and single-process mode."""

from __future__ import annotations

import queue
import secrets
import threading
from collections import deque

import torch
from typing_extensions import override

from kv_transfer.lanes.base import Lane, LaneBroken, LaneContext, WireFrame, check_frame, gather, scatter
from tandem.core.transfer import LaneKind

_Item = tuple[bytes, torch.Tensor] | None
_pipes: dict[bytes, _Pipe] = {}
_pipes_lock = threading.Lock()


class _Pipe:
    """Two queues; None means that the other end has closed."""

    def __init__(self) -> None:
        self.queues: tuple[queue.Queue[_Item], queue.Queue[_Item]] = (queue.Queue(), queue.Queue())


class LoopbackLane(Lane):
    """Copies frames through a queue."""

    kind = LaneKind.LOOPBACK
    window = 4

    def __init__(self, context: LaneContext) -> None:
        super().__init__(context)
        self._pipe: _Pipe | None = None
        self._posted: deque[WireFrame] = deque()
        self._token = b""

    @override
    def open(self) -> None:
        store = self.context.store
        if self.context.initiator:
            self._token = secrets.token_bytes(16)
            self._pipe = _Pipe()
            with _pipes_lock:
                _pipes[self._token] = self._pipe
            store.set("loopback", self._token)
        else:
            token = store.get("loopback", self.context.open_timeout_s)
            with _pipes_lock:
                self._pipe = _pipes.pop(token, None)
            if self._pipe is None:
                raise LaneBroken("the loopback lane's other end is not in this process")

    @override
    def exchange(self, message: bytes, timeout_s: float) -> bytes:
        self._outbound().put((message, torch.empty(0, dtype=torch.uint8)))
        return self._receive(timeout_s)[0]

    @override
    def put(self, frame: WireFrame, timeout_s: float) -> None:
        staged = torch.empty(check_frame(frame), dtype=torch.uint8)
        gather(frame.pieces, staged)
        self._outbound().put((frame.header, staged))

    @override
    def settle(self, timeout_s: float) -> None:
        self._receive(timeout_s)

    @override
    def post(self, frame: WireFrame) -> None:
        check_frame(frame)
        self._posted.append(frame)

    @override
    def take(self, timeout_s: float) -> bytes:
        header, payload = self._receive(timeout_s)
        frame = self._posted.popleft()
        if payload.numel() == check_frame(frame):
            scatter(payload, frame.pieces)
        self._outbound().put((b"", torch.empty(0, dtype=torch.uint8)))
        return header

    @override
    def interrupt(self) -> None:
        self.context.store.abort("the lane was interrupted")
        pipe = self._pipe
        if pipe is not None:
            for each in pipe.queues:
                each.put(None)

    @override
    def close(self) -> None:
        self.interrupt()
        self._pipe = None
        self._posted.clear()
        with _pipes_lock:
            _pipes.pop(self._token, None)

    def _outbound(self) -> queue.Queue[_Item]:
        if self._pipe is None:
            raise LaneBroken("the lane is closed")
        return self._pipe.queues[self.context.rank]

    def _receive(self, timeout_s: float) -> tuple[bytes, torch.Tensor]:
        if self._pipe is None or self._broken:
            raise LaneBroken(self._broken or "the lane is closed")
        inbound = self._pipe.queues[1 - self.context.rank]
        try:
            item = inbound.get(timeout=timeout_s)
        except queue.Empty:
            raise self._fail(f"no frame within {timeout_s:.1f} s") from None
        if item is None:
            inbound.put(None)
            raise LaneBroken("the lane's other end has closed")
        return item
