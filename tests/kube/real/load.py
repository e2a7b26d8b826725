"""The project's own traffic generator as load on a cluster, and what must be so of its report."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

STREAMS = 6
WARMUP_S, COOLDOWN_S = 6, 2
OPTIONS = ("--codec", "jpeg:1,h264:1", "--question-rate", "0.3", "--answer-timeout", "60")


@asynccontextmanager
async def load(address: str, out: Path, seconds: int, *more: str) -> AsyncIterator[dict[str, Any]]:
    """Streams and questions while the block runs, and until they end; then the report is in what it gave.

    The block begins when the load has been running for its warm-up.
    """
    out.mkdir()  # noqa: ASYNC240 - a test may wait for a folder
    with (out / "said").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tandem.cli", "load", "--address", address, "--out", str(out),
            "--streams", str(STREAMS), "--warmup", str(WARMUP_S), "--duration", str(seconds),
            "--cooldown", str(COOLDOWN_S), *OPTIONS, *more, stdout=said, stderr=said,
        )  # fmt: skip
    report: dict[str, Any] = {}
    try:
        await asyncio.sleep(WARMUP_S + 4)
        yield report
        async with asyncio.timeout(seconds + 120):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    file = out / "report.json"
    assert file.exists(), (out / "said").read_text(errors="replace")
    (run,) = json.loads(file.read_text())["runs"]
    report |= run["measures"]


def check_nothing_lost(report: dict[str, Any], *, may_end_early: bool = False) -> None:
    """Every question answered once and right, every frame watched. Prints a line of figures.

    `may_end_early`: two answers may end with `data_lost`, which says that part of them was sent before.
    """
    questions, frames, streams = report["questions"], report["frames"], report["streams"]
    accuracy = report["accuracy"]
    first = questions["first_token_ms"]["due"]
    line = (
        f"{questions['answered']} of {questions['attempted']} answered, {accuracy['right']} of "
        f"{accuracy['marked']} right, {frames['lost']} frames lost, "
        f"first token p50 {first['p50']:.0f} max {first['max']:.0f} ms, "
        f"lag p95 {frames['lag_ms']['p95']:.0f} max {frames['lag_ms']['max']:.0f} ms"
    )
    print(line)
    assert questions["attempted"] > 20, "there was no load"
    early = questions["failed"].pop("data_lost", 0)
    assert early <= (2 if may_end_early else 0), line
    assert (questions["answered"] + early, questions["failed"]) == (questions["attempted"], {}), line
    assert accuracy["right"] == accuracy["marked"] > 0, (line, accuracy["by_kind"])
    assert (frames["lost"], frames["dropped_share"]) == (0, 0), line
    assert (streams["opened"], streams["failed"], streams["answered_twice"]) == (STREAMS, 0, 0), line
