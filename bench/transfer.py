"""Blocks between two processes: each lane with its checksums, next to raw Gloo and to memcpy.

One repetition moves one block on every path, in turn: raw ``ProcessGroupGloo.send``/``recv`` of the same
bytes, the Gloo lane, the shared-memory lane. Every path starts when the receiver says that it has posted its
receives (what a grant says; both ends have planned their frames by then), and ends with the receiver's word
that everything has landed; on a lane, that every layer has matched its checksum. The word takes the same
socket on every path, and every path is driven by the thread that measures. Buffers are touched beforehand
and used again.

How fast two processes are depends on where their threads were put, and stays so while they live: a pair of
processes is the unit. Its rate is the median over its repetitions, its ratio is to its own raw Gloo. A row
gives the medians over the pairs, ``n`` pairs, and in ``spread`` the distance between the quartiles over the
median: of the ratios where there is a baseline, of the values where not, and none for one pair. ``range`` is
the lowest and the highest of the same.

Rows named ``link_*`` are whole links over gRPC, offers and acknowledgements included, eight blocks in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch

from bench._transfer_lanes import LANES, ROOT, SIZES, TIMEOUT_S, End, Meeting, send_job, take_job
from bench._transfer_links import link_rates
from kv_transfer.block import Block
from tandem.core.transfer import LaneKind

_RAW = "raw"
_POSTED, _LANDED = b"p", b"l"
COUNTS = {"small": 200, "1MiB": 500, "8MiB": 100, "64MiB": 20}
PAIRS = 9
COUNTS_QUICK = {"small": 40, "1MiB": 40, "8MiB": 20, "64MiB": 6}
PAIRS_QUICK = 1
LINK_REPETITIONS, LINK_REPETITIONS_QUICK = 12, 4
Result = dict[str, Any]
Measured = dict[str, dict[str, list[float]]]
"""Seconds by size and path."""


def settings(quick: bool) -> dict[str, Any]:
    """What `run` is going to do."""
    return {
        "payload_checksums": "xxh3-64 per layer",
        "repetitions": COUNTS_QUICK if quick else COUNTS,
        "pairs_of_processes": PAIRS_QUICK if quick else PAIRS,
        "link_repetitions": LINK_REPETITIONS_QUICK if quick else LINK_REPETITIONS,
    }


def run(quick: bool) -> list[Result]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread, range}``."""
    chosen = settings(quick)
    rows = lane_rows([_measured(chosen["repetitions"]) for _ in range(chosen["pairs_of_processes"])])
    for metric, rates in link_rates(repetitions=chosen["link_repetitions"]):
        rows.append(_row(metric, rates, "GB/s"))
    return rows


def _measured(counts: dict[str, int]) -> Measured:
    """The seconds of every path, by size, between two new processes."""
    with contextlib.ExitStack() as stack:
        meeting, their_meeting = map(stack.enter_context, socket.socketpair())
        word, their_word = map(stack.enter_context, socket.socketpair())
        fds = [their_meeting.fileno(), their_word.fileno()]
        command = [sys.executable, "-m", "bench.transfer", "--receiver", json.dumps([*fds, counts])]
        child = stack.enter_context(subprocess.Popen(command, pass_fds=fds, cwd=ROOT))
        their_meeting.close()
        their_word.close()
        try:
            return _Sender(Meeting(meeting), word, counts).measure()
        finally:
            word.close()
            child.wait(TIMEOUT_S)


class _Sender(End):
    def __init__(self, meeting: Meeting, word: socket.socket, counts: dict[str, int]) -> None:
        super().__init__(meeting, word, 0)
        self._counts = counts

    def measure(self) -> Measured:
        """Run every path in turn."""
        measured: Measured = {}
        for name, block in self.blocks.items():
            times = measured[name] = {path: [] for path in (_RAW, *LANES, "memcpy")}
            target = torch.zeros_like(block.payload)
            for path in _turns(self._counts[name]):
                if path == _RAW:
                    start = time.perf_counter()
                    target.copy_(block.payload)
                    times["memcpy"].append(time.perf_counter() - start)
                    times[path].append(self._timed(self._send_raw, block))
                else:
                    kind = LaneKind(path)
                    job = self.job(kind, block, block.payload)
                    times[path].append(self._timed(send_job, self.lanes[kind], job))
        measured["setup"] = {kind: [seconds] for kind, seconds in self.setup_s.items()}
        self.close()
        return measured

    def _timed(self, send: Callable[..., None], *arguments: Any) -> float:
        self._wait_word(_POSTED)
        start = time.perf_counter()
        send(*arguments)
        self._wait_word(_LANDED)
        return time.perf_counter() - start

    def _send_raw(self, block: Block) -> None:
        self.raw.send([block.payload], 1, 7).wait(timedelta(seconds=TIMEOUT_S))

    def _wait_word(self, expected: bytes) -> None:
        word = self.word.recv(1)
        if word != expected:
            raise RuntimeError(f"the receiver says {word!r} where {expected!r} was due")


def _turns(count: int) -> Iterator[str]:
    """Every path `count` times, each round in another order: none always follows the same neighbour."""
    for order in itertools.islice(itertools.cycle(itertools.permutations((_RAW, *LANES))), count):
        yield from order


def _receive(meeting_fd: int, word_fd: int, counts: dict[str, int]) -> None:
    word = socket.socket(fileno=word_fd)
    end = End(Meeting(socket.socket(fileno=meeting_fd)), word, 1)
    for name, block in end.blocks.items():
        buffer = torch.ones_like(block.payload)
        for path in _turns(counts[name]):
            if path == _RAW:
                work = end.raw.recv([buffer], 0, 7)
                word.send(_POSTED)
                work.wait(timedelta(seconds=TIMEOUT_S))
            else:
                kind = LaneKind(path)
                take_job(end.lanes[kind], end.job(kind, block, buffer), lambda: word.send(_POSTED))
            word.send(_LANDED)
        assert torch.equal(buffer, block.payload)
    end.close()


def lane_rows(pairs: list[Measured]) -> list[Result]:
    """The rows of every path and size, from what each pair of processes measured."""
    rows = []
    for name in ("small", *SIZES):
        seconds = [{path: statistics.median(times) for path, times in pair[name].items()} for pair in pairs]
        for path in seconds[0]:
            ratios = [each[_RAW] / each[path] for each in seconds]
            took = [each[path] for each in seconds]
            if name != "small":
                label = {_RAW: "raw_gloo"}.get(path, str(path))
                rows.append(_row(f"{label}_{name}", [SIZES[name] / t / 1e9 for t in took], "GB/s", ratios))
            elif path in LANES:
                rows.append(_row(f"{path}_small_ms", [1000 * t for t in took], "ms", ratios))
    for kind in LANES:
        opened = [1000 * t for pair in pairs for t in pair["setup"][kind]]
        rows.append(_row(f"{kind}_pair_setup_ms", opened, "ms"))
    return rows


def _row(metric: str, values: list[float], unit: str, ratios: list[float] | None = None) -> Result:
    told = values if ratios is None else ratios
    return {
        "metric": metric,
        "value": round(statistics.median(values), 4),
        "unit": unit,
        "baseline": None if ratios is None else "raw_gloo",
        "ratio": None if ratios is None else round(statistics.median(ratios), 3),
        "n": len(values),
        "spread": _spread(told),
        "range": [round(min(told), 3), round(max(told), 3)],
    }


def _spread(values: list[float]) -> float | None:
    """Distance between the quartiles over the median; None for a single value."""
    if len(values) < 2:
        return None
    low, middle, high = statistics.quantiles(values, n=4)
    return round((high - low) / middle, 3)


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
