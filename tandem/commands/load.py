"""Shell: `tandem load`: generate load, measure what it gets, and say whether that meets the goals."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.commands.base import Command, Exit, add_address, security_of
from tandem.commands.load_options import add_load_options, workload_of
from tandem.core.errors import TandemError

if TYPE_CHECKING:
    from tandem.client import Client, Status
    from tandem.load.goals import Goals
    from tandem.load.running import Ran
    from tandem.load.schedule import Schedule
    from tandem.load.workload import Workload

READY_S = 60.0
"""Longest wait for services that start."""
_EXAMPLE = """\
tandem load --streams 4 --duration 60 --question-rate 0.2
tandem load --sweep streams --duration 30 --out sweep
tandem load --streams 20 --fps 1:3,25:1 --codec h264 --stream-life 30 --reconnects 1 --second-clients 0.3
tandem load --replay load-out/schedule.jsonl --goal first_token_ms=500 --goal accuracy=0.9"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_load_options(parser)
    group = parser.add_argument_group("what is done with it")
    group.add_argument(
        "--sweep",
        choices=("streams",),
        help="find the most streams that meet every goal: doubles from --streams, then bisects",
    )
    group.add_argument("--sweep-most", type=int, default=1024, metavar="N", help="never more streams")
    group.add_argument(
        "--resolution",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="how exact the knee is wanted (default 0.1)",
    )
    group.add_argument(
        "--goal",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a service-level goal, or NAME=none for none; may be repeated. Names: first_token_ms, "
        "answer_ms, inter_token_ms, staleness_ms, attainment, frame_lag_ms, dropped, refused_streams, "
        "accuracy, late_ms (docs/load.md)",
    )
    group.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="play this schedule.jsonl, or a trace of your own, instead",
    )
    group.add_argument(
        "--processes", type=int, default=0, metavar="N", help="so many (default: as the rate needs)"
    )
    group.add_argument(
        "--out",
        type=Path,
        default=Path("load-out"),
        metavar="DIR",
        help="report.html, report.json, events.jsonl and schedule.jsonl go here (default: %(default)s)",
    )
    add_address(parser)


def _run(arguments: argparse.Namespace) -> int:
    from tandem.load.extra import need_extra

    need_extra()
    return asyncio.run(_load(arguments))


async def _load(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from tandem.client import connect
    from tandem.commands.bench import commit, machine
    from tandem.load.describe import run_lines, sweep_lines
    from tandem.load.goals import goals_from_texts
    from tandem.load.live import Progress
    from tandem.load.report import report_of, write_report

    try:
        load, goals = workload_of(arguments), goals_from_texts(arguments.goal)
        schedule = _schedule(arguments, load)
    except TandemError as error:
        print(f"tandem: {error.message} [{error.code.value}]", file=sys.stderr)
        return Exit.USAGE
    async with connect(arguments.address, security=security_of(arguments)) as t:
        status = await _ready_status(t, arguments.address)
    began, described = datetime.now(UTC), machine()
    console = Console(stderr=True)
    stop = _stop_on_first_interrupt()
    with Progress(console) as progress:
        runs, found = await _runs(arguments, load, goals, schedule, progress, stop)
    report = report_of(
        load=schedule.workload if schedule else load,
        goals=goals,
        runs=runs,
        sweep=found,
        address=arguments.address,
        server=_server(status),
        machine=described,
        commit=commit(),
        began=began,
    )
    files = await asyncio.to_thread(write_report, arguments.out, report, runs)
    lines = run_lines(report["runs"][0]) if found is None else sweep_lines(found)
    print("\n".join([*lines, *(f"wrote {file}" for file in files)]))
    if stop.is_set():
        return Exit.INTERRUPTED
    return Exit.OK if report["passed"] and report["valid"] else Exit.FINDING


def _stop_on_first_interrupt() -> asyncio.Event:
    """Set by the first Ctrl-C: what was measured is still reported. The second one ends everything."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def first() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, first)
    return stop


async def _ready_status(client: Client, address: str) -> Status:
    """What the load will meet, once it is ready: services that still load their model are not measured."""
    from tandem.core.errors import Unavailable

    deadline_s = time.monotonic() + READY_S
    while not (status := await client.status()).ready:
        if time.monotonic() > deadline_s:
            states = ", ".join(f"{service.name} {service.state}" for service in status.services) or "none"
            raise Unavailable(f"the services behind {address} were not ready within {READY_S:g} s: {states}")
        await asyncio.sleep(0.2)
    return status


def _schedule(arguments: argparse.Namespace, load: Workload) -> Schedule | None:
    """What is to be played; None in a sweep, which plans for itself."""
    from tandem.core.errors import InvalidInput
    from tandem.load.planning import plan
    from tandem.load.schedule import read_schedule

    if arguments.replay:
        if arguments.sweep:
            raise InvalidInput(
                "a schedule that is replayed cannot be swept: it says how many streams there are"
            )
        try:
            with arguments.replay.open(encoding="utf-8") as lines:
                return read_schedule(lines, load)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot read {arguments.replay}: {error}") from error
    if arguments.sweep and load.stream_arrivals != "steady":
        raise InvalidInput("a sweep sets how many streams are open at once: leave --stream-arrivals steady")
    return None if arguments.sweep else plan(load)


async def _runs(
    arguments: argparse.Namespace,
    load: Workload,
    goals: Goals,
    schedule: Schedule | None,
    progress: Any,
    stop: asyncio.Event,
) -> tuple[Sequence[Ran], dict[str, Any] | None]:
    """One run, or those of a sweep with what it found."""
    from dataclasses import replace

    from tandem.load.planning import plan
    from tandem.load.running import run_schedule
    from tandem.load.search import Search, Step
    from tandem.load.sweeping import sweep

    async def run(planned: Schedule, folder: Path, *, stop_when_saturated: bool) -> Ran:
        return await run_schedule(
            planned,
            folder,
            arguments.address,
            goals,
            processes=arguments.processes,
            stop_when_saturated=stop_when_saturated,
            security=security_of(arguments),
            stop=stop,
            tell=progress.take,
        )

    if schedule is not None:
        progress.begin(schedule.workload, f"{len(schedule.streams)} streams")
        return [await run(schedule, arguments.out, stop_when_saturated=False)], None

    async def point(number: int, streams: int) -> Ran:
        planned = await asyncio.to_thread(plan, replace(load, streams=streams))
        folder = arguments.out / f"point-{number:02}-{streams}-streams"
        return await run(planned, folder, stop_when_saturated=True)

    def tell(step: Step) -> None:
        if step.streams is not None:
            progress.begin(replace(load, streams=step.streams), f"{step.streams} streams: {step.reason}")

    search = Search(first=load.streams, most=arguments.sweep_most, resolution=arguments.resolution)
    swept = await sweep(search, point, tell)
    return swept.runs, swept.found


def _server(status: Status) -> dict[str, Any]:
    """What the load met."""
    return {
        "version": status.build.version,
        "services": [
            {
                "name": service.name,
                "role": service.role,
                "state": service.state,
                "model": service.model.source,
                "fingerprint": service.model.fingerprint,
            }
            for service in status.services
        ],
    }


COMMAND = Command(
    name="load",
    summary="generate load, measure it from intended times, find the knee",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
