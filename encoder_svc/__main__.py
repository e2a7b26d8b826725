"""Shell. Entry point: `python -m encoder_svc`, and `main` for `tandem encoder`."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

from encoder_svc.config import parse_config
from tandem.core.errors import TandemError

_PR_SET_PDEATHSIG = 1
_EXIT_BAD_SETTINGS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run an encoder until SIGTERM. Returns the exit status: 2 for settings that cannot work."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = parse_config(sys.argv[1:] if argv is None else argv)
        if config.die_with_parent:
            die_with_parent()
        if config.secret_file:
            config.read_secret()  # before the model is loaded
        from encoder_svc.app import serve  # heavy: torch and transformers

        asyncio.run(serve(config))
    except TandemError as error:
        for line in error.message.splitlines():
            print(f"tandem encoder: {line}", file=sys.stderr)
        return _EXIT_BAD_SETTINGS
    return 0


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent's thread ends; ends at once when it is gone already."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
