"""Shell: `tandem demo`: the main job from start to end, on this machine, with answers that can be checked."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.commands.base import Command, Exit, positive
from tandem.core.timeline import MICROSECONDS, format_time

if TYPE_CHECKING:
    from tandem.commands.asking import Outcome
    from tandem.commands.demo_view import DemoView
    from tandem.shapes.video import Clip

_EXAMPLE = """\
tandem demo
tandem demo --speed 4 --json demo.json"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speed", type=positive, default=1.0, metavar="N", help="times real time (default 1)"
    )
    parser.add_argument(
        "--model", default="default", help="the model that watches (default: the embedded one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what happened here, for machines")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the video and the services' logs here")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_demo(arguments, arguments.keep))
    with tempfile.TemporaryDirectory(prefix="tandem-demo-", ignore_cleanup_errors=True) as run_dir:
        return asyncio.run(_demo(arguments, Path(run_dir)))


async def _demo(arguments: argparse.Namespace, run_dir: Path) -> int:
    from tandem.commands.demo_view import DemoView
    from tandem.commands.local import local_services

    began_s = time.monotonic()
    print("starting an encoder, a reasoner and the front door, and drawing a minute of video ...", flush=True)
    writing = asyncio.create_task(asyncio.to_thread(_write_clip, run_dir / "demo.mp4"))
    try:
        async with local_services(run_dir, "--model", arguments.model) as address:
            clip = await writing
            print(f"ready at {address} after {time.monotonic() - began_s:.1f} s", flush=True)
            view = DemoView(_known(clip), sys.stdout)
            outcomes = await _play(address, run_dir / "demo.mp4", clip, view, arguments.speed)
    finally:
        await asyncio.gather(writing, return_exceptions=True)
    report = _report(clip, outcomes, view, time.monotonic() - began_s)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(_summary(report))
    return Exit.OK if report["right"] == report["questions"] else Exit.FINDING


def _write_clip(path: Path) -> Clip:
    from tandem.shapes.video import demo_clip, write_mp4

    clip = demo_clip()
    write_mp4(path, clip)
    return clip


def _known(clip: Clip) -> dict[tuple[int, str], str]:
    """The right answers, by stream time and question."""
    return {(round(asked.at * MICROSECONDS), asked.text): asked.answer for asked in clip.questions}


async def _play(address: str, path: Path, clip: Clip, view: DemoView, speed: float) -> list[Outcome]:
    from tandem.client import connect
    from tandem.client.sources import open_source
    from tandem.commands.asking import Asker, Planned
    from tandem.commands.watch import play

    source = open_source(str(path))
    plan = [Planned(at_us, text) for at_us, text in _known(clip)]
    async with connect(address) as t, t.watch(source, stream_id="demo") as stream:
        view.start(path.name)
        asker = Asker(stream, view, plan)
        fed, outcomes = await play(stream, source, asker, view, speed=speed, forget=True)
        view.finish()
    if fed.error:
        raise fed.error
    return outcomes


def _report(clip: Clip, outcomes: list[Outcome], view: DemoView, total_s: float) -> dict[str, object]:
    from tandem.commands.demo_view import is_right
    from tandem.commands.words import plain

    rows = []
    for outcome in outcomes:
        planned, text = outcome.planned, outcome.answer.text if outcome.answer else ""
        known = _known(clip)[planned.at_us, planned.text]
        rows.append(
            {
                "asked_us": planned.at_us,
                "question": planned.text,
                "known": known,
                "right": is_right(text, known),
                "answer": plain(outcome.answer),
                "error": plain(outcome.error),
            }
        )
    first_tokens = [outcome.answer.timings.first_token_ms for outcome in outcomes if outcome.answer]
    return {
        "questions": len(clip.questions),
        "right": sum(bool(row["right"]) for row in rows),
        "first_token_ms": spread(first_tokens),
        "frame_lag_ms": spread(view.lags_ms),
        "watched_us": view.watermark_us,
        "blocks": view.blocks,
        "gaps": len(view.gaps),
        "total_s": round(total_s, 1),
        "answers": rows,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and worst; empty for no values."""
    if not values:
        return {}
    return {"median": round(statistics.median(values), 1), "worst": round(max(values), 1)}


def _summary(report: dict[str, object]) -> str:
    def words(key: str) -> str:
        figures = report[key]
        assert isinstance(figures, dict), figures
        return f"median {figures['median']:.0f} ms, worst {figures['worst']:.0f} ms" if figures else "none"

    watched = report["watched_us"]
    assert isinstance(watched, int), watched
    return "\n".join(
        (
            "",
            f"{report['right']} of {report['questions']} answers are right",
            f"time to first token: {words('first_token_ms')}",
            f"frame lag (arrival to memory): {words('frame_lag_ms')}",
            f"watched {format_time(watched)} in {report['blocks']} blocks with {report['gaps']} gaps; "
            f"{report['total_s']} s in all",
        )
    )


COMMAND = Command(
    name="demo",
    summary="start everything, watch a real video at its own pace, ask while it plays, check the answers",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
