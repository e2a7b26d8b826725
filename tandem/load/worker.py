"""Shell: one process of a run: ``python -m tandem.load.worker``, started by `tandem.load.crew`.

It is told what to do in one JSON line on standard input, says ``ready`` once its videos are drawn, gets the
run's zero in a second line, and tells how it goes in JSON lines on standard output. ``stop`` or the end of
standard input stops it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

from tandem.client.security import Security
from tandem.core.errors import InvalidInput
from tandem.core.tls_files import TlsFiles
from tandem.load.footage import Library
from tandem.load.log import EventLog
from tandem.load.pace import Pace
from tandem.load.schedule import Schedule, read_schedule
from tandem.load.shard import Shard, run_shard
from tandem.load.workload import Workload

LINE_LIMIT = 1 << 20


async def main() -> int:
    """Run one shard; returns the exit code."""
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = json.loads(await reader.readline())
    schedule = await asyncio.to_thread(_read, order)
    library = Library()
    for planned in schedule.streams:
        await asyncio.to_thread(library.footage, planned)
    _tell({"kind": "ready", "videos": len(library)})
    start = json.loads(await reader.readline())
    gc.collect()
    gc.freeze()  # what is here stays: no pause for looking through it
    stop = asyncio.Event()
    waiting = asyncio.create_task(_wait_for_stop(reader, stop))
    pace = Pace(start["zero_s"], schedule.workload.window_s)
    with await asyncio.to_thread(Path(order["events"]).open, "w", encoding="utf-8") as out:
        log = EventLog(out, pace)
        shard = Shard(
            schedule,
            library,
            address=order["address"],
            prefix=order["prefix"],
            log=log,
            pace=pace,
            number=order["shard"],
            security=Security(tls=TlsFiles(**order["tls"]), token_file=order["token_file"]),
        )
        await run_shard(shard, _tell, stop)
    waiting.cancel()
    _tell({"kind": "done", "frames": shard.frames(), "histograms": shard.histograms()})
    return 0


def _read(order: dict[str, Any]) -> Schedule:
    with Path(order["schedule"]).open(encoding="utf-8") as lines:
        schedule = read_schedule(lines, Workload())
    if not 0 <= order["shard"] < order["shards"]:
        raise InvalidInput(f"no shard {order['shard']} of {order['shards']}")
    return schedule.shard(order["shard"], order["shards"])


async def _wait_for_stop(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    await reader.readline()
    stop.set()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
