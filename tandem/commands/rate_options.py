"""Pure: the options of `tandem watch` and `tandem load` that say what a stream may lose under load, and whose
it is."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from tandem.commands.base import positive

if TYPE_CHECKING:
    from tandem.client.sources import Source
    from tandem.client.types import MediaOptions

LIVE_LAG_S = 5.0
"""How far behind the live edge a camera may be watched, unless said otherwise."""


def add_rate_options(
    parser: argparse._ActionsContainer,
    max_lag: str = f"{LIVE_LAG_S:g} for cameras and addresses, off for files",
) -> None:
    """The options, with their defaults; `max_lag` is what the help says of the one of `--max-lag`."""
    parser.add_argument(
        "--min-fps",
        type=positive,
        default=0.0,
        metavar="FPS",
        help="the least frames per second that are accepted when the service has too much to do (default: "
        "the rate is never lowered)",
    )
    parser.add_argument(
        "--max-lag",
        type=_lag,
        default=None,
        metavar="SECONDS",
        help="leave frames out (a gap) rather than watch them later than this; off: never, the source waits "
        f"(default: {max_lag})",
    )
    parser.add_argument(
        "--tenant", default="", metavar="NAME", help="whose quota the stream counts for (default: default)"
    )


def media_of(arguments: argparse.Namespace, source: Source) -> MediaOptions:
    """How the source's media is packed, with what may be lost of it."""
    lag_s: float | None = arguments.max_lag
    if lag_s is None:
        lag_s = LIVE_LAG_S if source.live else 0.0
    return dataclasses.replace(source.media, min_fps=arguments.min_fps, max_lag_s=lag_s)


def _lag(text: str) -> float:
    return 0.0 if text == "off" else positive(text)
