"""Shell. The entry point of an orchestrator process: ``tandem orchestrator``, ``python -m orchestrator``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path

from orchestrator.app import Orchestrator
from orchestrator.arguments import add_arguments, to_config
from orchestrator.config import OrchestratorConfig, warnings
from orchestrator.pulse import beat_forever
from orchestrator.waiting import stop
from tandem.core.errors import TandemError
from tandem.core.lifetime import die_with_parent
from tandem.core.logs import make_formatter, say, set_up

_LOG_BYTES = 8 * 1024 * 1024
LEADS_NO_MORE = 3
"""Exit status of an orchestrator that was replaced by another: started anew, it stands by."""

EXAMPLE = """example:
  tandem orchestrator --listen 127.0.0.1:7420 --run-dir run
  tandem encoder --name encoder-0 --orchestrator 127.0.0.1:7420 --secret-file run/secret
  tandem reasoner --name reasoner-0 --orchestrator 127.0.0.1:7420 --secret-file run/secret
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run an orchestrator until SIGTERM or SIGINT; returns the exit status."""
    parent_pid = os.getppid()
    args = _parser().parse_args(argv)
    set_up(args.log_format, "orchestrator", shown=getattr(logging, args.log_level.upper()))
    if args.log_level == "debug":
        logging.getLogger("orchestrator").setLevel(logging.DEBUG)
    if args.die_with_parent:
        die_with_parent(parent_pid)
    try:
        return asyncio.run(_serve(to_config(args), args.pulse_fd))
    except TandemError as error:
        for line in error.message.splitlines():
            formatter = make_formatter(args.log_format, "orchestrator")
            say(f"tandem orchestrator: {line}", formatter, level=logging.ERROR)
        return 2


async def _serve(config: OrchestratorConfig, pulse_fd: int) -> int:
    beating = asyncio.create_task(beat_forever(pulse_fd)) if pulse_fd >= 0 else None
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    formatter = make_formatter(config.log_format, "orchestrator")
    tell = partial(say, formatter=formatter)
    orchestrator = Orchestrator(config, tell)
    logging.getLogger().addHandler(_log_file(config.run_dir / "logs" / "orchestrator.log", formatter))
    try:
        address = await orchestrator.start()
        tell(f"listening on {address} (run directory {config.run_dir})")
        if orchestrator.watched.address:
            tell(f"metrics at http://{orchestrator.watched.address}/metrics")
        for warning in warnings(config, address):
            tell(f"WARNING: {warning}")
        greeting = asyncio.create_task(_greet(orchestrator, tell))
        lost = asyncio.create_task(orchestrator.until_lost())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({lost, stopped}, return_when=asyncio.FIRST_COMPLETED)
        was_lost = lost.done()
        await stop(greeting, lost, stopped)
        tell("stopping …")
    finally:
        await orchestrator.stop()
        if beating is not None:
            await stop(beating)
    return LEADS_NO_MORE if was_lost else 0


def _log_file(path: Path, formatter: logging.Formatter) -> logging.Handler:
    """What happened and why, decisions included; the terminal only shows what a person should look at."""
    path.parent.mkdir(exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1)
    handler.setFormatter(formatter)
    return handler


async def _greet(orchestrator: Orchestrator, tell: Callable[[str], None]) -> None:
    if not orchestrator.backend.wanted:
        return
    await orchestrator.until_ready()
    address = orchestrator.address
    option = "" if address == "127.0.0.1:7420" else f" --address {address}"
    tell(f"ready. Try:  tandem watch{option} clip.mp4 --ask 'What was shown?'")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem orchestrator",
        description="The front door alone: streams, placement, replay. Services attach to it by themselves.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, encoders=0, reasoners=0)
    parser.add_argument("--die-with-parent", action="store_true", help="end when the starting process ends")
    parser.add_argument("--pulse-fd", type=int, default=-1, help="pipe to beat into, for whoever started it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
