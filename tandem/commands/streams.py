"""Shell: `tandem streams`: list what is being watched."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

from tandem.commands.base import Command, Exit, add_address, add_json, security_of
from tandem.core.timeline import format_time

if TYPE_CHECKING:
    from tandem.client import StreamSummary

_EXAMPLE = """\
tandem streams
tandem streams --why
tandem streams --json"""

_HEADINGS = (
    "STREAM",
    "STATE",
    "WATCHED",
    "ON DISK",
    "BEHIND",
    "LAG",
    "RATE",
    "GAPS",
    "QUESTIONS",
    "NOTES",
    "ENCODER",
    "REASONER",
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address(parser)
    parser.add_argument(
        "--why",
        action="store_true",
        help="below each stream: whose it is, why it is where and as it is, gaps, its last error",
    )
    add_json(parser, "one JSON object a stream")


def _run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_list(arguments))


async def _list(arguments: argparse.Namespace) -> int:
    from tandem.client import connect
    from tandem.commands.words import plain

    async with connect(arguments.address, security=security_of(arguments)) as t:
        streams = await t.streams()
    if arguments.json:
        for stream in streams:
            print(json.dumps(plain(stream), ensure_ascii=False))
    elif not streams:
        print("no streams; feed one with `tandem watch SOURCE`")
    else:
        heading, *lines = columns([_HEADINGS, *(_row(stream) for stream in streams)])
        print(heading)
        for line, stream in zip(lines, streams, strict=True):
            print("\n".join([line, *(reasons(stream) if arguments.why else ())]))
    return Exit.OK


def _row(stream: StreamSummary) -> tuple[str, ...]:
    progress = stream.progress
    state = stream.state if stream.attached else f"{stream.state} (no client)"
    return (
        stream.stream_id,
        state,
        format_time(progress.watermark_us),
        format_time(progress.durable_watermark_us) if progress.durable_watermark_us else "-",
        format_time(max(0, progress.received_us - progress.watermark_us)),
        f"{progress.lag_ms:.0f} ms",
        f"{stream.blocks_per_s:.1f}/s",
        str(len(progress.gaps)),
        str(stream.open_questions) + (f" + {stream.standing_questions}" if stream.standing_questions else ""),
        notes_words(stream),
        stream.encoder or "-",
        stream.reasoner or "-",
    )


def reasons(stream: StreamSummary) -> list[str]:
    """What an operator asks next, indented."""
    from tandem.commands.checkup import gap_words

    placed = f"{stream.encoder} and {stream.reasoner}: {stream.placed_because} (placement {stream.epoch})"
    lines = [placed if stream.placed_because else "not placed yet"]
    whose = f"tenant {stream.tenant}: " if stream.tenant else ""
    lines.append(
        f"{whose}{stream.sample_fps:g} frames a second watched, "
        f"{stream.blocks_per_s:.1f} blocks a second published, "
        f"{stream.backlog_bytes / 2**20:.1f} MiB kept for replay"
    )
    if stream.progress.rate_reason:
        lines.append(f"slowed: {stream.progress.rate_reason}")
    lines += [f"gaps: {text}" for text in gap_words(stream.progress.gaps).values()]
    if stream.last_error:
        lines.append(f"last error, {stream.last_error_age_s:.0f} s ago: {stream.last_error}")
    return [f"    {line}" for line in lines]


def notes_words(stream: StreamSummary) -> str:
    """Who takes notes, and how many there are."""
    mode, notes = stream.watching.value, stream.last_note
    if mode == "off":
        return str(notes) if notes else "-"
    return f"{mode} ({notes})"


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of equal length as lines with aligned columns."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


COMMAND = Command(
    name="streams",
    summary="list what is being watched",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
