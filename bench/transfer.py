"""Blocks between two processes: each lane with its checksums, next to raw Gloo and to memcpy.

One repetition moves one block on every path, in turn: raw ``ProcessGroupGloo.send``/``recv`` of the same
bytes, the Gloo lane, the shared-memory lane. Every path starts when the receiver says that it has posted its
receives (what a grant says; both ends have planned their frames by then), and ends with the receiver's word
that everything has landed; on a lane, that every layer has matched its checksum. The word takes the same
socket on every path, and every path is driven by the thread that measures. Buffers are touched beforehand
and used again. Rates are medians over the repetitions of several pairs of processes.

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
SETTINGS = {"payload_checksums": "xxh3-64 per layer", "repetitions": COUNTS, "pairs_of_processes": PAIRS}
Result = dict[str, Any]
Measured = dict[str, dict[str, list[float]]]
"""Seconds by size and path."""


def run(quick: bool) -> list[Result]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    # How fast two processes are depends on where their threads were put, and stays so while they live.
    counts, pairs = (COUNTS_QUICK, 1) if quick else (COUNTS, PAIRS)
    rows = _lane_rows([_measured(counts) for _ in range(pairs)])
    for metric, rates in link_rates(repetitions=4 if quick else 12):
        rows.append(_row(metric, statistics.median(rates), "GB/s", n=len(rates), spread=_spread(rates)))
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


def _lane_rows(pairs: list[Measured]) -> list[Result]:
    pooled = {
        name: {path: [t for pair in pairs for t in pair[name][path]] for path in paths}
        for name, paths in pairs[0].items()
    }
    setups = [1000 * seconds for each in pooled.pop("setup").values() for seconds in each]
    rows = _small_rows(pooled.pop("small"))
    for name, times in pooled.items():
        rows += _rate_rows(name, SIZES[name], times)
    rows.append(_row("pair_setup_ms", statistics.median(setups), "ms", n=len(setups), spread=_spread(setups)))
    return rows


def _rate_rows(name: str, size_bytes: int, times: dict[str, list[float]]) -> list[Result]:
    rates = {path: [size_bytes / t / 1e9 for t in seconds] for path, seconds in times.items()}
    raw = statistics.median(rates[_RAW])
    rows = []
    for path, values in rates.items():
        label = {_RAW: "raw_gloo", "memcpy": "memcpy"}.get(path, str(path))
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
    raw = statistics.median(times[_RAW])
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
