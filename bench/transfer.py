"""Blocks between two processes: each lane with its checksums, next to raw Gloo and to memcpy.

One repetition moves one block on every path, in turn: raw ``ProcessGroupGloo.send``/``recv`` of the same
bytes, the Gloo lane, the shared-memory lane. Every path starts when the receiver says that it has posted its
receives (what a grant says), and ends with the receiver's word that everything has landed; on a lane, that
every layer has matched its checksum. The word takes the same socket on every path, and every path is driven
by the thread that measures. Buffers are touched beforehand and used again. Rates are medians.

Rows named ``link_*`` are whole links over gRPC, offers and acknowledgements included, eight blocks in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import ProcessGroupGloo

from kv_transfer.block import Block, seal_block
from kv_transfer.lanes.base import Lane, LaneContext, LaneStore
from kv_transfer.lanes.gloo import gloo_options, make_device
from kv_transfer.lanes.make import make_lane
from kv_transfer.lanes.proof import open_proven
from kv_transfer.lanes.store import ControlStore
from kv_transfer.memory import random_block
from kv_transfer.protocol.frames import check_frame_header, choose_class, plan_frames
from kv_transfer.verify import LayerVerifier
from kv_transfer.worker import Job
from tandem.core.transfer import BlockGrant, Direction, FrameClass, LaneKind

MIB = 1 << 20
SIZES = {"1MiB": MIB, "8MiB": 8 * MIB, "64MiB": 64 * MIB}
SMALL_BYTES = 4096
LANES = (LaneKind.GLOO, LaneKind.SHM)
_TIMEOUT_S = 30.0
_POSTED, _LANDED = b"p", b"l"
Result = dict[str, Any]


def run(quick: bool) -> list[Result]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    counts = {"small": 40, "1MiB": 40, "8MiB": 20, "64MiB": 6} if quick else COUNTS
    with contextlib.ExitStack() as stack:
        meeting, their_meeting = map(stack.enter_context, socket.socketpair())
        word, their_word = map(stack.enter_context, socket.socketpair())
        fds = [their_meeting.fileno(), their_word.fileno()]
        command = [sys.executable, "-m", "bench.transfer", "--receiver", json.dumps([*fds, counts])]
        child = stack.enter_context(subprocess.Popen(command, pass_fds=fds))
        their_meeting.close()
        their_word.close()
        try:
            return _Sender(_Meeting(meeting), word, counts).measure()
        finally:
            word.close()
            child.wait(_TIMEOUT_S)


COUNTS = {"small": 200, "1MiB": 200, "8MiB": 60, "64MiB": 20}


class _Meeting:
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


class _End:
    """What both processes have: the raw group, the lanes, and the same blocks."""

    def __init__(self, meeting: _Meeting, word: socket.socket, rank: int) -> None:
        torch.set_num_threads(1)
        self.rank = rank
        self.word = word
        word.settimeout(_TIMEOUT_S)
        self._device, _ = make_device("127.0.0.1")
        rendezvous = ControlStore(meeting.stores["raw"], "raw", _TIMEOUT_S)
        self.raw: Any = ProcessGroupGloo(rendezvous, rank, 2, gloo_options(self._device, _TIMEOUT_S))
        self.setup_s: dict[LaneKind, float] = {}
        self.lanes = {kind: self._open(kind, meeting.stores[kind]) for kind in LANES}
        self.blocks = {name: _block(size) for name, size in {"small": SMALL_BYTES, **SIZES}.items()}
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
            open_timeout_s=_TIMEOUT_S,
        )
        lane = make_lane(kind, context)
        start = time.perf_counter()
        open_proven(lane)
        self.setup_s[kind] = time.perf_counter() - start
        return lane

    def job(self, block: Block, memory: torch.Tensor) -> Job:
        """The next attempt of a block; both processes count alike."""
        self._jobs += 1
        grant = BlockGrant(index=0, layers=tuple(range(block.header.layout.layers)))
        frame_class = choose_class(block.header.payload_bytes, FrameClass.M)
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


def _send_job(lane: Lane, job: Job) -> None:
    under_way = 0
    for frame in job.frames:
        if under_way == lane.window:
            lane.settle(_TIMEOUT_S)
            under_way -= 1
        lane.put(job.wire(frame), _TIMEOUT_S)
        under_way += 1
    for _ in range(under_way):
        lane.settle(_TIMEOUT_S)


def _take_job(lane: Lane, job: Job, posted: Callable[[], None]) -> None:
    """Receive and verify; `posted` is called when the first window of receives is posted."""
    verifier = LayerVerifier(job.headers, job.memory)
    wires = [job.wire(frame) for frame in job.frames]
    for wire in wires[: lane.window]:
        lane.post(wire)
    posted()
    for index, (frame, wire) in enumerate(zip(job.frames, wires, strict=True)):
        check_frame_header(lane.take(_TIMEOUT_S), wire.header)
        if index + lane.window < len(wires):
            lane.post(wires[index + lane.window])
        assert all(matched for *_, matched in verifier.landed(frame)), "a layer did not match its checksum"


def _block(size_bytes: int) -> Block:
    """A block of exactly this many bytes in eight layers."""
    tokens = size_bytes // (8 * 2 * 4 * 4)
    block = random_block(1, layers=8, kv_heads=1, tokens=tokens, head_dim=4)
    assert block.header.payload_bytes == size_bytes
    return seal_block(block.header, block.payload)


class _Sender(_End):
    def __init__(self, meeting: _Meeting, word: socket.socket, counts: dict[str, int]) -> None:
        super().__init__(meeting, word, 0)
        self._counts = counts

    def measure(self) -> list[Result]:
        """Run every path in turn and make the rows."""
        rows: list[Result] = []
        for name, block in self.blocks.items():
            paths = {"raw": lambda b=block: self._raw(b)}
            paths |= {kind: lambda b=block, k=kind: self._lane(b, k) for kind in LANES}
            paths["memcpy"] = _copier(block.payload)
            times: dict[str, list[float]] = {path: [] for path in paths}
            for _ in range(self._counts[name]):
                for path, move in paths.items():
                    if path != "memcpy":
                        self._wait_word(_POSTED)
                    times[path].append(_timed(move))
            rows += _small_rows(times) if name == "small" else _rate_rows(name, block.payload.numel(), times)
        setups = [1000 * seconds for seconds in self.setup_s.values()]
        rows.append(_row("pair_setup_ms", statistics.median(setups), "ms", n=len(setups), spread=0.0))
        self.close()
        return rows

    def _raw(self, block: Block) -> None:
        self.raw.send([block.payload], 1, 7).wait(timedelta(seconds=_TIMEOUT_S))
        self._wait_word(_LANDED)

    def _lane(self, block: Block, kind: LaneKind) -> None:
        _send_job(self.lanes[kind], self.job(block, block.payload))
        self._wait_word(_LANDED)

    def _wait_word(self, expected: bytes) -> None:
        word = self.word.recv(1)
        if word != expected:
            raise RuntimeError(f"the receiver says {word!r} where {expected!r} was due")


def _receive(meeting_fd: int, word_fd: int, counts: dict[str, int]) -> None:
    word = socket.socket(fileno=word_fd)
    end = _End(_Meeting(socket.socket(fileno=meeting_fd)), word, 1)
    for name, block in end.blocks.items():
        buffer = torch.ones_like(block.payload)
        for _ in range(counts[name]):
            work = end.raw.recv([buffer], 0, 7)
            word.send(_POSTED)
            work.wait(timedelta(seconds=_TIMEOUT_S))
            word.send(_LANDED)
            for kind in LANES:
                _take_job(end.lanes[kind], end.job(block, buffer), lambda: word.send(_POSTED))
                word.send(_LANDED)
        assert torch.equal(buffer, block.payload)
    end.close()


def _copier(payload: torch.Tensor) -> Callable[[], None]:
    target = torch.zeros_like(payload)

    def copy() -> None:
        target.copy_(payload)

    return copy


def _timed(move: Callable[[], None]) -> float:
    start = time.perf_counter()
    move()
    return time.perf_counter() - start


def _rate_rows(name: str, size_bytes: int, times: dict[str, list[float]]) -> list[Result]:
    rates = {path: [size_bytes / t / 1e9 for t in seconds] for path, seconds in times.items()}
    raw = statistics.median(rates["raw"])
    rows = []
    for path, values in rates.items():
        label = {"raw": "raw_gloo", "memcpy": "memcpy"}.get(path, str(path))
        rows.append(
            _row(
                f"{label}_{name}",
                statistics.median(values),
                "GB/s",
                baseline="raw_gloo",
                ratio=statistics.median(values) / raw,
                n=len(values),
                spread=_spread(values),
            )
        )
    return rows


def _small_rows(times: dict[str, list[float]]) -> list[Result]:
    raw = statistics.median(times["raw"])
    rows = []
    for kind in LANES:
        middle = statistics.median(times[kind])
        spread = _spread(times[kind])
        rows.append(
            _row(
                f"{kind}_small_ms",
                1000 * middle,
                "ms",
                baseline="raw_gloo",
                ratio=raw / middle,
                n=len(times[kind]),
                spread=spread,
            )
        )
    return rows


def _row(
    metric: str,
    value: float,
    unit: str,
    *,
    baseline: str | None = None,
    ratio: float | None = None,
    n: int,
    spread: float,
) -> Result:
    return {
        "metric": metric,
        "value": round(value, 4),
        "unit": unit,
        "baseline": baseline,
        "ratio": None if ratio is None else round(ratio, 3),
        "n": n,
        "spread": round(spread, 3),
    }


def _spread(values: list[float]) -> float:
    """Distance between the quartiles over the median."""
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


def main() -> None:
    """The command: ``python -m bench.transfer [--quick]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--receiver", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receiver:
        _receive(*json.loads(options.receiver))
        return
    for row in run(options.quick):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
