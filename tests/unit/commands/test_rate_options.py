"""What `tandem watch` and `tandem load` say may be lost of a stream."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tandem.client.types import MediaKind, MediaOptions
from tandem.commands.load_options import add_load_options, workload_of
from tandem.commands.rate_options import LIVE_LAG_S, add_rate_options, media_of
from tandem.core.errors import InvalidInput


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


def test_a_load_lets_nothing_go_unless_it_is_told() -> None:
    parser = argparse.ArgumentParser()
    add_load_options(parser)
    plain = workload_of(parser.parse_args([]))
    assert (plain.min_fps, plain.max_lag_s, plain.tenant) == (0.0, 0.0, "")
    given = workload_of(parser.parse_args(["--min-fps", "0.5", "--max-lag", "3", "--tenant", "acme"]))
    assert (given.min_fps, given.max_lag_s, given.tenant) == (0.5, 3.0, "acme")
    assert "cameras" not in parser.format_help()
    with pytest.raises(InvalidInput, match="not a tenant"):
        workload_of(parser.parse_args(["--tenant", "../x"]))
