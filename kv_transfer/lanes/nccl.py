"""Shell. The NCCL lane: a two-rank NCCL group for one direction of one pair of GPUs.

The rules it is written by:

- NCCL ignores tags, so order is the only match key: a frame is its header, then its payload, always both,
  always the full size of the class. A size that does not match is undefined behaviour, never an error.
- Two NCCL operations at once on one device may deadlock each other (CUDA promises no independent progress),
  so one transfer is in flight per device: `_in_flight` is held from a frame's first message to its last.
- The first message of a pair builds its connections, so the proof that every lane exchanges is the warm-up.
- Everything passes staging buffers on the device, on the lane's own stream; a receive writes only there, and
  the copy to the reserved buffer happens after it has finished.
- A blocked operation cannot be waited on with a deadline of ours, so completion is polled; a dead peer may
  leave it pending for ever, and abort itself may hang: abort runs in a thread that is given up after a while.
- `TORCH_NCCL_ASYNC_ERROR_HANDLING=0` is needed, else torch's watchdog may end the process; it is checked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from typing_extensions import override

from kv_transfer.lanes.base import (
    PROOF_BYTES,
    Deadline,
    Lane,
    LaneBroken,
    LaneContext,
    WireFrame,
    check_frame,
    gather,
    scatter,
)
from kv_transfer.lanes.store import ControlStore
from kv_transfer.protocol.frames import HEADER_BYTES
from tandem.core.transfer import LaneKind

log = logging.getLogger(__name__)
_cuda: Any = torch.cuda
ABORT_TIMEOUT_S = 5.0
"""How long an abort may take before its thread is given up; the process should then be restarted."""
_POLL_S = 20e-6
_in_flight: dict[str, threading.Lock] = {}
_in_flight_guard = threading.Lock()


@dataclass(slots=True)
class _Staged:
    frame: WireFrame
    header: torch.Tensor
    payload: torch.Tensor
    done: Any
    """CUDA event recorded behind the frame's last operation; None until it was started."""


class NcclLane(Lane):
    """Frames between two GPUs. Pieces may lie on the device or in host memory."""

    kind = LaneKind.NCCL
    window = 1

    def __init__(self, context: LaneContext) -> None:
        super().__init__(context)
        self._group: Any = None
        self._device = torch.device(context.device)
        self._stream: Any = None
        self._interrupted = threading.Event()
        self._flight: deque[_Staged] = deque()
        self._staging: dict[int, torch.Tensor] = {}
        with _in_flight_guard:
            self._turn = _in_flight.setdefault(str(self._device), threading.Lock())

    @override
    def open(self) -> None:
        if os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") != "0":
            raise LaneBroken("the NCCL lane needs TORCH_NCCL_ASYNC_ERROR_HANDLING=0 in the environment")
        try:
            from torch.distributed import ProcessGroupNCCL

            torch.cuda.set_device(self._device)
            self._stream = _cuda.Stream(self._device)
            options = ProcessGroupNCCL.Options()
            options._timeout = timedelta(seconds=self.context.open_timeout_s)  # noqa: SLF001
            store = ControlStore(self.context.store, "nccl", self.context.open_timeout_s)
            group: Any = ProcessGroupNCCL(store, self.context.rank, 2, options)
            self._group = group
            group.eager_connect_single_device(self._device)
        except (RuntimeError, ImportError, AssertionError) as error:
            raise LaneBroken(f"the NCCL pair could not be made: {error}") from error

    @override
    def exchange(self, message: bytes, timeout_s: float) -> bytes:
        outbound = torch.frombuffer(bytearray(message), dtype=torch.uint8).to(self._device)
        inbound = torch.zeros(PROOF_BYTES, dtype=torch.uint8, device=self._device)
        first, second = ("send", "recv") if self.context.initiator else ("recv", "send")
        with self._in_turn(timeout_s):
            for verb in (first, second):
                self._start(verb, outbound if verb == "send" else inbound)
            self._poll(self._mark(), timeout_s)
        return bytes(inbound.cpu().numpy().data)

    @override
    def put(self, frame: WireFrame, timeout_s: float) -> None:
        check_frame(frame)
        header = torch.frombuffer(bytearray(frame.header), dtype=torch.uint8).to(self._device)
        payload = self._buffer(frame.size_bytes)
        with torch.cuda.stream(self._stream):
            gather(frame.pieces, payload)
        self._flight.append(_Staged(frame, header, payload, None))

    @override
    def settle(self, timeout_s: float) -> None:
        staged = self._flight[0]
        with self._in_turn(timeout_s):
            self._start("send", staged.header)
            self._start("send", staged.payload)
            self._poll(self._mark(), timeout_s)
        self._flight.popleft()

    @override
    def post(self, frame: WireFrame) -> None:
        check_frame(frame)
        header = torch.zeros(HEADER_BYTES, dtype=torch.uint8, device=self._device)
        self._flight.append(_Staged(frame, header, self._buffer(frame.size_bytes), None))

    @override
    def take(self, timeout_s: float) -> bytes:
        staged = self._flight[0]
        with self._in_turn(timeout_s):
            self._start("recv", staged.header)
            self._start("recv", staged.payload)
            self._poll(self._mark(), timeout_s)
        scatter(staged.payload, staged.frame.pieces)
        self._flight.popleft()
        return bytes(staged.header.cpu().numpy().data)

    @override
    def interrupt(self) -> None:
        self._interrupted.set()
        self.context.store.abort("the lane was interrupted")

    @override
    def close(self) -> None:
        self.interrupt()
        group, self._group = self._group, None
        if group is not None:
            _abort(group, self.context.name)
        self._flight.clear()
        self._staging.clear()

    @contextlib.contextmanager
    def _in_turn(self, timeout_s: float) -> Iterator[None]:
        """Hold the device: nothing else of NCCL may be in flight on it."""
        deadline = Deadline(timeout_s)
        while not self._turn.acquire(timeout=min(0.05, deadline.left_s("waiting for the device"))):
            self._check()
        try:
            yield
        finally:
            self._turn.release()

    def _start(self, verb: str, tensor: torch.Tensor) -> None:
        self._check()
        peer = 1 - self.context.rank
        try:
            with torch.cuda.stream(self._stream):
                work = getattr(self._group, verb)([tensor], peer, 0)
                # Orders our stream behind NCCL's; the host does not block here.
                work.wait()
        except RuntimeError as error:
            raise self._fail(f"NCCL {verb}: {error}") from error

    def _mark(self) -> Any:
        event = _cuda.Event()
        event.record(self._stream)
        return event

    def _poll(self, event: Any, timeout_s: float) -> None:
        deadline = Deadline(timeout_s)
        try:
            while not event.query():
                self._check()
                deadline.left_s("waiting for NCCL")
                time.sleep(_POLL_S)
        except LaneBroken as error:
            raise self._fail(error.message) from error
        except RuntimeError as error:
            raise self._fail(f"NCCL: {error}") from error

    def _check(self) -> None:
        if self._broken or self._interrupted.is_set() or self._group is None:
            raise LaneBroken(self._broken or "the lane is closed")

    def _buffer(self, size_bytes: int) -> torch.Tensor:
        if size_bytes not in self._staging:
            self._staging[size_bytes] = torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
        return self._staging[size_bytes]


def _abort(group: Any, name: str) -> None:
    """Abort in a thread of its own: it may hang, and then so would whoever waits for it."""
    aborting = threading.Thread(target=group.abort, name="nccl-abort", daemon=True)
    aborting.start()
    aborting.join(ABORT_TIMEOUT_S)
    if aborting.is_alive():
        log.error("aborting lane %s hangs; restart this process soon", name)
