"""The two processes of the transfer benchmark, at the level of lanes: meeting, moving, verifying."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import ProcessGroupGloo

from kv_transfer.block import Block, seal_block
from kv_transfer.jobs import Job
from kv_transfer.lanes.base import Lane, LaneContext, LaneStore
from kv_transfer.lanes.gloo_device import gloo_options, make_device
from kv_transfer.lanes.make import make_lane
from kv_transfer.lanes.proof import open_proven
from kv_transfer.lanes.store import ControlStore
from kv_transfer.memory import random_block
from kv_transfer.protocol.frames import LARGEST_CLASS, check_frame_header, choose_class, plan_frames
from kv_transfer.verify import LayerVerifier
from tandem.core.transfer import BlockGrant, Direction, LaneKind

ROOT = Path(__file__).resolve().parent.parent
"""Where ``python -m bench...`` finds the package."""
MIB = 1 << 20
SIZES = {"1MiB": MIB, "8MiB": 8 * MIB, "64MiB": 64 * MIB}
SMALL_BYTES = 4096
LANES = (LaneKind.GLOO, LaneKind.SHM)
TIMEOUT_S = 30.0


class Meeting:
    """Rendezvous keys between the two processes, one line of JSON each."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rwb", buffering=0)
        self._guard = threading.Lock()
        self.stores = {name: self._store(name) for name in ("raw", *LANES)}
        threading.Thread(target=self._listen, daemon=True).start()

    def _store(self, name: str) -> LaneStore:
        def publish(key: str, value: bytes) -> None:
            with self._guard:
                self._file.write(json.dumps([name, key, value.hex()]).encode() + b"\n")

        return LaneStore(publish)

    def _listen(self) -> None:
        for line in self._file:
            name, key, value = json.loads(line)
            self.stores[name].feed(key, bytes.fromhex(value))


class End:
    """What both processes have: the raw group, the lanes, and the same blocks."""

    def __init__(self, meeting: Meeting, word: socket.socket, rank: int) -> None:
        torch.set_num_threads(1)
        self.rank = rank
        self.word = word
        word.settimeout(TIMEOUT_S)
        self._device, _ = make_device("127.0.0.1")
        rendezvous = ControlStore(meeting.stores["raw"], "raw", TIMEOUT_S)
        self.raw: Any = ProcessGroupGloo(rendezvous, rank, 2, gloo_options(self._device, TIMEOUT_S))
        self.setup_s: dict[LaneKind, float] = {}
        self.lanes = {kind: self._open(kind, meeting.stores[kind]) for kind in LANES}
        self.blocks = {name: make_block(size) for name, size in {"small": SMALL_BYTES, **SIZES}.items()}
        self._jobs = 0

    def _open(self, kind: LaneKind, store: LaneStore) -> Lane:
        context = LaneContext(
            pair_id="bench",
            epoch=1,
            lane_epoch=1,
            direction=Direction.FORWARD,
            initiator=self.rank == 0,
            secret=bytes(32),
            store=store,
            open_timeout_s=TIMEOUT_S,
        )
        lane = make_lane(kind, context)
        start = time.perf_counter()
        open_proven(lane)
        self.setup_s[kind] = time.perf_counter() - start
        return lane

    def job(self, kind: LaneKind, block: Block, memory: torch.Tensor) -> Job:
        """The next attempt of a block on this lane; both processes count alike."""
        self._jobs += 1
        grant = BlockGrant(index=0, layers=tuple(range(block.header.layout.layers)))
        frame_class = choose_class(block.header.payload_bytes, LARGEST_CLASS[kind])
        return Job(
            transfer_id=self._jobs,
            attempt=1,
            epoch=1,
            lane_epoch=1,
            headers=(block.header,),
            frames=tuple(plan_frames((block.header,), (grant,), frame_class)),
            memory={0: memory},
        )

    def close(self) -> None:
        """Free the lanes."""
        for lane in self.lanes.values():
            lane.close()


def send_job(lane: Lane, job: Job) -> None:
    """Send every frame of a job and wait until the lane is done with them."""
    under_way = 0
    for frame in job.frames:
        if under_way == lane.window:
            lane.settle(TIMEOUT_S)
            under_way -= 1
        lane.put(job.wire(frame), TIMEOUT_S)
        under_way += 1
    for _ in range(under_way):
        lane.settle(TIMEOUT_S)


def take_job(lane: Lane, job: Job, posted: Callable[[], None]) -> None:
    """Receive and verify; `posted` is called when the first window of receives is posted."""
    verifier = LayerVerifier(job.headers, job.memory)
    wires = [job.wire(frame) for frame in job.frames]
    for wire in wires[: lane.window]:
        lane.post(wire)
    posted()
    for index, (frame, wire) in enumerate(zip(job.frames, wires, strict=True)):
        check_frame_header(lane.take(TIMEOUT_S), wire.header)
        if index + lane.window < len(wires):
            lane.post(wires[index + lane.window])
        assert all(matched for *_, matched in verifier.landed(frame)), "a layer did not match its checksum"


def make_block(size_bytes: int) -> Block:
    """A block of exactly this many bytes in eight layers."""
    tokens = size_bytes // (8 * 2 * 4 * 4)
    block = random_block(1, layers=8, kv_heads=1, tokens=tokens, head_dim=4)
    assert block.header.payload_bytes == size_bytes
    return seal_block(block.header, block.payload)
