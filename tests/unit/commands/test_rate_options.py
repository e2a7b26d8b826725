"""What `tandem watch` says may be lost of a stream."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tandem.client.types import MediaKind, MediaOptions
from tandem.commands.rate_options import LIVE_LAG_S, add_rate_options, media_of


def media(*line: str, live: bool) -> MediaOptions:
    parser = argparse.ArgumentParser()
    add_rate_options(parser)
    source = SimpleNamespace(live=live, media=MediaOptions(kind=MediaKind.MPEG_TS, sample_fps=4.0))
    return media_of(parser.parse_args(line), cast("Any", source))


def test_files_lose_nothing_and_cameras_are_not_watched_late() -> None:
    assert media(live=False) == MediaOptions(kind=MediaKind.MPEG_TS, sample_fps=4.0)
    assert media(live=True).max_lag_s == LIVE_LAG_S
    assert media("--max-lag", "off", live=True).max_lag_s == 0.0
    chosen = media("--max-lag", "2.5", "--min-fps", "0.5", live=False)
    assert (chosen.max_lag_s, chosen.min_fps, chosen.sample_fps) == (2.5, 0.5, 4.0)


@pytest.mark.parametrize("line", [("--max-lag", "never"), ("--max-lag", "-1"), ("--min-fps", "0")])
def test_nonsense_is_refused(line: tuple[str, str]) -> None:
    with pytest.raises(SystemExit):
        media(*line, live=True)
