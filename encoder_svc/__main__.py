"""Shell. Entry point: `python -m encoder_svc`, and `main` for `tandem encoder`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from encoder_svc.config import log_names, parse_config
from tandem.core.errors import TandemError
from tandem.core.lifetime import die_with_parent, leave
from tandem.core.logs import make_formatter, say, set_up
from tandem.wire.tls import check_files

log = logging.getLogger("encoder_svc")

_EXIT_BAD_SETTINGS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run an encoder until SIGTERM. Returns the exit status: 2 for settings that cannot work."""
    parent_pid = os.getppid()
    # Until the loop has its own: the first process of a container is not ended by what it does not handle,
    # and the imports below take seconds.
    signal.signal(signal.SIGTERM, _end)
    given = sys.argv[1:] if argv is None else argv
    try:
        config = parse_config(given)
        level = getattr(logging, config.log_level.upper())
        set_up(config.log_format, "encoder", config.name, level=level)
        if config.die_with_parent:
            die_with_parent(parent_pid)
        if config.secret_file:
            config.read_secret()  # before the model is loaded
        check_files(config.tls)
        began_s = time.monotonic()
        from encoder_svc.app import serve  # heavy: torch and transformers

        log.info("imports took %.1f s", time.monotonic() - began_s)
        asyncio.run(serve(config))
    except TandemError as error:
        formatter = make_formatter(*log_names(given))
        for line in error.message.splitlines():
            say(f"tandem encoder: {line}", formatter, level=logging.ERROR)
        return _EXIT_BAD_SETTINGS
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    leave(main())
