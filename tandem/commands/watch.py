"""Shell: `tandem watch`: feed a stream from a file, camera, address or directory, and ask about it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from tandem.commands.ask_at import AskAt
from tandem.commands.base import (
    Command,
    Exit,
    add_address,
    add_json,
    positive,
    security_of,
    source_exit_code,
)
from tandem.commands.question import add_question_options, count, retrieval_of, thinking_of, workers_of
from tandem.commands.rate_options import add_rate_options, media_of
from tandem.core.errors import TandemError

if TYPE_CHECKING:
    from tandem.client import Event, Stream
    from tandem.client.questions import AskOptions
    from tandem.client.sources import Fed, Source
    from tandem.commands.asking import Asker, Outcome
    from tandem.commands.show import View
    from tandem.core.standing import StandingQuestion
    from tandem.core.watching import Watching

_EXAMPLE = """\
tandem watch clip.mp4 --ask 'What was shown?' --ask-at 00:12 'What is shown now?'
tandem watch /dev/video0 --stream-id door
tandem watch clip.mp4 --notes --note-every 8 --ask 'What happened?'
tandem watch door.mp4 --alert 'Is somebody at the door?' yes
tandem watch rtsp://camera.local/stream --json
cat clip.ts | tandem watch - --speed max"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a video file, a directory of pictures, /dev/videoN or webcam, rtsp://…, or - for stdin",
    )
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="QUESTION",
        help="ask this at the end of the video (of a camera: as soon as it is seen); may be repeated",
    )
    parser.add_argument(
        "--ask-at",
        action=AskAt,
        nargs=2,
        default=[],
        metavar=("TIME", "QUESTION"),
        help="ask this at that stream time (seconds, mm:ss or hh:mm:ss); may be repeated",
    )
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="N",
        help="play a file N times as fast as it was filmed, or max (default 1; cameras keep their own pace)",
    )
    parser.add_argument(
        "--fps",
        type=positive,
        default=0.0,
        help="frames per second that are watched (default: the model's own rate)",
    )
    add_rate_options(parser)
    parser.add_argument(
        "--notes",
        nargs="?",
        const="segment-notes",
        default=None,
        type=_mode,
        metavar="MODE",
        help="take notes of the stream as it plays, which questions see and which are shown: segment-notes "
        "(the default), clip-thinking, concurrent, interleaved or off; docs/watching.md compares them",
    )
    parser.add_argument(
        "--note-positions",
        default="one-line",
        choices=("one-line", "two-counters"),
        help="how concurrent notes are counted: behind the video (the default), or apart from it, for "
        "checkpoints that were trained so",
    )
    parser.add_argument(
        "--note-every",
        type=count,
        default=0,
        metavar="N",
        help="units of the model (frames, or pairs of frames) from one note to the next (default 16, or 4 of "
        "concurrent)",
    )
    parser.add_argument(
        "--alert",
        action="append",
        nargs=2,
        default=[],
        metavar=("QUESTION", "ANSWER"),
        help="ask this every second of the video, and tell when its answer comes to hold these words; may be "
        "repeated",
    )
    parser.add_argument("--stream-id", default="", metavar="ID", help="name of the stream (default: chosen)")
    add_question_options(parser)
    add_address(parser)
    add_json(parser, "one JSON object a line")


def _speed(text: str) -> float | None:
    return None if text == "max" else positive(text)


def _mode(text: str) -> str:
    modes = ("segment-notes", "clip-thinking", "concurrent", "interleaved", "off")
    if text not in modes:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of the modes {', '.join(modes)}; if it is what to watch, put it before --notes"
        )
    return text


def _run(arguments: argparse.Namespace) -> int:
    from tandem.client.sources import open_source

    try:
        watching, alerts = watching_of(arguments), alerts_of(arguments)
    except TandemError as error:
        print(f"tandem: {error.message} [{error.code.value}]", file=sys.stderr)
        return Exit.USAGE
    try:
        source = open_source(arguments.source, fps=arguments.fps)
    except TandemError as error:
        print(f"tandem: {error.message} [{error.code.value}]", file=sys.stderr)
        return source_exit_code(error)
    return asyncio.run(_watch(arguments, source, watching, alerts))


async def _watch(
    arguments: argparse.Namespace,
    source: Source,
    watching: Watching | None,
    alerts: Sequence[StandingQuestion],
) -> int:
    from tandem.client import connect
    from tandem.commands.asking import Asker, Planned
    from tandem.commands.show import make_view

    view = make_view(as_json=arguments.json)
    plan = [Planned(at_us, text) for at_us, text in arguments.ask_at]
    options: AskOptions = {
        "latency_budget_s": arguments.latency_budget,
        "retrieval": retrieval_of(arguments),
        "workers": workers_of(arguments),
        "thinking": thinking_of(arguments),
    }
    async with (
        connect(arguments.address, security=security_of(arguments)) as t,
        t.watch(
            media_of(arguments, source),
            stream_id=arguments.stream_id,
            watching=watching,
            tenant=arguments.tenant,
        ) as stream,
    ):
        view.start(source.name)
        for standing in alerts:
            stream.stand(standing)
        _end_on_first_interrupt(source)
        try:
            asker = Asker(stream, view, plan, options)
            fed, outcomes = await play(
                stream, source, asker, view, speed=arguments.speed, at_the_end=arguments.ask
            )
        finally:
            view.finish()
    return _exit(fed, outcomes)


def watching_of(arguments: argparse.Namespace) -> Watching | None:
    """How the stream is watched; None when nothing was said of it."""
    from tandem.core.watching import TextPositions, Watching, WatchMode

    if not arguments.notes:
        return None
    return Watching(
        mode=WatchMode(arguments.notes),
        segment_units=arguments.note_every,
        positions=TextPositions(arguments.note_positions),
    )


def alerts_of(arguments: argparse.Namespace) -> list[StandingQuestion]:
    """What is to be told when it becomes true."""
    from tandem.core.standing import StandingQuestion

    return [
        StandingQuestion(question_id=f"alert-{number}", text=question, expect=expect)
        for number, (question, expect) in enumerate(arguments.alert, 1)
    ]


async def play(
    stream: Stream,
    source: Source,
    asker: Asker,
    view: View,
    *,
    speed: float | None,
    at_the_end: Sequence[str] = (),
    forget: bool = False,
) -> tuple[Fed, list[Outcome]]:
    """Feed the whole source, ask everything, end the stream, and wait for the last event."""
    from tandem.client.sources import feed
    from tandem.commands.asking import Planned

    view.event(stream.info)
    helpers = [asyncio.create_task(_show(stream.events(), view))]
    if source.live and at_the_end:
        helpers.append(asyncio.create_task(_ask_once_seen(stream.events(), asker, at_the_end)))
    try:
        fed = await feed(stream, source, speed=speed, before=asker.before)
        for error in (*fed.refused, *((fed.error,) if fed.error else ())):
            view.problem(error)
        asker.ask_rest()
        for text in () if source.live else at_the_end:
            asker.ask_now(Planned(fed.end_us, text))
        # The end goes out before the answers are awaited: it lets the decoder give out its last frames.
        _, outcomes = await asyncio.gather(stream.end(forget=forget), asker.outcomes())
        await helpers[0]
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
    return fed, outcomes


async def _show(events: AsyncIterator[Event], view: View) -> None:
    async for event in events:
        view.event(event)


async def _ask_once_seen(events: AsyncIterator[Event], asker: Asker, questions: Sequence[str]) -> None:
    from tandem.client import Progress
    from tandem.commands.asking import Planned

    async for event in events:
        if isinstance(event, Progress) and event.blocks:
            for text in questions:
                asker.ask_now(Planned(event.watermark_us, text))
            return


def _end_on_first_interrupt(source: Source) -> None:
    """Ctrl-C once ends the video and waits for its answers; twice stops at once."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        source.close()

    loop.add_signal_handler(signal.SIGINT, interrupted)


def _exit(fed: Fed, outcomes: list[Outcome]) -> int:
    if fed.error:
        return source_exit_code(fed.error)
    if fed.refused and not fed.pieces:
        return Exit.BAD_SOURCE
    return Exit.FINDING if any(outcome.error for outcome in outcomes) else Exit.OK


COMMAND = Command(
    name="watch",
    summary="feed a stream from a file, camera, address or directory, and ask about it",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
