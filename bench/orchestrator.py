"""What one orchestrator process costs: per frame, per silent stream, and how many streams it can carry.

A real orchestrator, scripted services that publish at once, and the load, each in processes of their own; the
load has absolute send times. ``cpu_ms_per_frame_<streams>``: processor time of the orchestrator alone, all of
its threads, user and system, over so many streams of one frame a second, less what it uses with no stream at
all (``idle_cpu_ms_per_s``), over the frames published. ``growth``: the most that this cost grows from any
number of streams to any larger one. ``cpu_us_per_stream_s``: an open stream that sends nothing, for a second.
``frames_per_second_per_core``: the reverse of the cost at the most streams that were carried.
``streams_of_1_fps``: the most that were carried: at least 99 % of the frames due were published and told
within the interval, 99 % of them within a second of when they were due.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from orchestrator.rundir import read_address

STREAMS, STREAMS_QUICK = (10, 100, 500, 1000, 2000), (10, 50)
SECONDS, SECONDS_QUICK = 12.0, 3.0
WARM_S = 4.0
SILENT = 1000
PICTURE_BYTES = 10 * 1024
START_S = 30.0
CARRIED, IN_TIME_S = 0.99, 1.0
_SERVICES = ("-m", "bench._scripted_services")
STEPS = 4
"""Halvings between the most streams that were carried and the fewest that were not."""
SETTINGS = {
    "fps": 1.0,
    "picture_bytes": PICTURE_BYTES,
    "processes": "1 orchestrator, 1 with a scripted encoder and reasoner, 1 of load",
    "questions": 0,
}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """One interval."""

    streams: int
    seconds: float
    cpu_s: float
    """Of the orchestrator."""
    published: int = 0
    due: int = 0
    lag_p50_s: float = 0.0
    lag_p99_s: float = 0.0

    @property
    def is_carried(self) -> bool:
        """Nearly all frames were published in time."""
        return self.published >= CARRIED * self.due and self.lag_p99_s <= IN_TIME_S

    def ms_per_frame(self, idle: Measured) -> float:
        """Processor time of a frame, beyond what passes without any."""
        return 1000 * (self.cpu_s - idle.cpu_s / idle.seconds * self.seconds) / max(self.published, 1)


def run(*, quick: bool = False) -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    seconds = SECONDS_QUICK if quick else SECONDS
    idle = measure(0, seconds, fps=0.0)
    silent = measure(100 if quick else SILENT, seconds, fps=0.0)
    found = [_told(measure(streams, seconds)) for streams in (STREAMS_QUICK if quick else STREAMS)]
    rows = [
        _row("idle_cpu_ms_per_s", 1000 * idle.cpu_s / seconds, "ms/s"),
        _row("cpu_us_per_stream_s", 1e6 * (silent.cpu_s - idle.cpu_s) / seconds / silent.streams, "us/s"),
    ]
    for each in found:
        cost = each.ms_per_frame(idle)
        rows.append(_row(f"cpu_ms_per_frame_{each.streams}", cost, "ms", n=each.published))
        rows.append(_row(f"frame_lag_p99_ms_{each.streams}", 1000 * each.lag_p99_s, "ms", n=each.published))
    carried = [each for each in found if each.is_carried]
    if not carried:
        return rows
    if not quick:
        carried.append(_limit(found, carried[-1], seconds))
    costs_ms = [each.ms_per_frame(idle) for each in sorted(carried, key=lambda each: each.streams)]
    most = costs_ms[-1]
    rows += [
        _row("growth", growth(costs_ms), "ratio"),
        _row("frames_per_second_per_core", 1000 / most, "frames/s", n=carried[-1].published),
        _row("streams_of_1_fps", carried[-1].streams, "streams"),
    ]
    return rows


def growth(costs: Sequence[float]) -> float:
    """The most that one of these costs is of an earlier one; 1.2: it never grows to more than 1.2 x."""
    return max((after / before for before, after in combinations(costs, 2)), default=1.0)


def _limit(found: list[Measured], best: Measured, seconds: float) -> Measured:
    """Between the most that were carried and the fewest that were not; upwards while all were."""
    fewest = min((each.streams for each in found if each.streams > best.streams), default=0)
    for _ in range(STEPS):
        streams = (best.streams + fewest) // 2 if fewest else best.streams * 5 // 4
        tried = _told(measure(streams, seconds))
        if tried.is_carried:
            best = tried
        else:
            fewest = streams
    return best


def _told(each: Measured) -> Measured:
    print(
        f"{each.streams} streams: {each.published} of {each.due} frames, "
        f"{each.cpu_s / each.seconds:.2f} cores, lag {1000 * each.lag_p50_s:.0f} ms, "
        f"p99 {1000 * each.lag_p99_s:.0f} ms",
        file=sys.stderr,
        flush=True,
    )
    return each


def measure(
    streams: int, seconds: float, fps: float = 1.0, profile: Path | None = None, warm_s: float = WARM_S
) -> Measured:
    """A fresh orchestrator under so many streams. `profile`: where cProfile writes what it did."""
    with (
        tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder,
        _orchestrator(Path(folder) / "run", profile) as (pid, address),
        _process(*_SERVICES, "--orchestrator", address, "--secret-file", f"{folder}/run/secret"),
    ):
        if streams:
            return _under_load(pid, address, streams, seconds, fps, warm_s)
        time.sleep(warm_s)
        before_s = cpu_seconds(pid)
        time.sleep(seconds)
        return Measured(0, seconds, cpu_seconds(pid) - before_s)


def _under_load(pid: int, address: str, streams: int, seconds: float, fps: float, warm_s: float) -> Measured:
    options = {"--streams": streams, "--fps": fps, "--warm": warm_s, "--seconds": seconds}
    options |= {"--picture-bytes": PICTURE_BYTES}
    line = ["-m", "bench._stream_load", "--address", address]
    line += [str(word) for pair in options.items() for word in pair]
    with _process(*line, stdout=subprocess.PIPE) as load:
        assert load.stdout is not None
        _expect(load.stdout.readline(), "started")
        before_s = cpu_seconds(pid)
        _expect(load.stdout.readline(), "ended")
        cpu_s = cpu_seconds(pid) - before_s
        figures = json.loads(load.stdout.readline())
    return Measured(
        streams,
        seconds,
        cpu_s,
        published=figures["published"],
        due=round(streams * seconds * fps),
        lag_p50_s=figures["lag_p50_s"],
        lag_p99_s=figures["lag_p99_s"],
    )


def _expect(line: bytes, word: str) -> None:
    if line.decode().strip() != word:
        raise RuntimeError(f"the load said {line!r}, not {word}")


@contextmanager
def _orchestrator(run_dir: Path, profile: Path | None) -> Iterator[tuple[int, str]]:
    line = ["-m", "cProfile", "-o", str(profile)] if profile else []
    line += ["-m", "orchestrator", "--listen", "127.0.0.1:0", "--run-dir", str(run_dir)]
    with _process(*line, "--max-streams", "20000", "--resume-seconds", "5") as process:
        yield process.pid, _address(run_dir)


def _address(run_dir: Path) -> str:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        address = read_address(run_dir)
        if address is not None:
            return address
        time.sleep(0.05)
    raise RuntimeError(f"no orchestrator came up in {START_S:g} s")


@contextmanager
def _process(*line: str, stdout: Any = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    # What they say as they are torn down is of no interest; a failure shows as a timeout or an odd line.
    process = subprocess.Popen(
        [sys.executable, *line], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all of its threads, to the nanosecond. Linux."""
    total_ns = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        total_ns += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total_ns / 1e9


def _row(metric: str, value: float, unit: str, n: int = 1) -> Row:
    return {
        "metric": metric,
        "value": round(value, 4),
        "unit": unit,
        "baseline": None,
        "ratio": None,
        "n": n,
        "spread": None,
    }
