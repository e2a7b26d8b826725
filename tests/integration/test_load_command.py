"""`tandem load` as it is typed: processes, files, report, exit codes, against a server with known delays."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tandem.commands.base import Exit
from tandem.load.planning import plan
from tandem.load.schedule import schedule_lines
from tandem.load.workload import Choice, Workload
from tests.integration.timed_server import Truth, serve_timed

PATIENCE_S = 150.0
SHORT = ("--warmup", "1", "--cooldown", "0.2", "--clips", "1", "--size", "64x48", "--kinds", "now")
LOAD = Workload(
    streams=3, warmup_s=1.0, duration_s=2.0, cooldown_s=0.2, clips=1, sizes=(Choice("64x48"),),
    kinds=("now",), question_rate=3.0, seed=9,
)  # fmt: skip


async def load(address: str, folder: Path, *options: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tandem.cli", "load", "--address", address, "--out", str(folder), *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.timeout(180)
async def test_a_run_and_its_report(tmp_path: Path) -> None:
    # The goal of the late generator is wide: tests run on busy machines.
    options = (
        "--duration",
        "2",
        "--question-rate",
        "3",
        "--goal",
        "late_ms=1000",
        "--goal",
        "attainment=0.5",
    )
    schedule = plan(LOAD)
    given = "".join(f"{line}\n" for line in schedule_lines(schedule))
    (tmp_path / "given.jsonl").write_text(given)
    async with serve_timed(Truth(first_token_s=0.1)) as (address, server):
        (code, out, err), (strict_code, strict_out, _), _ = await asyncio.gather(
            load(
                address,
                tmp_path / "a",
                *options,
                "--replay",
                str(tmp_path / "given.jsonl"),
                "--processes",
                "2",
            ),
            load(address, tmp_path / "b", *options, *SHORT, "--streams", "1", "--goal", "first_token_ms=50"),
            interrupted(address, tmp_path / "c"),
        )
        assert not server.streams, "a stream was not ended"
    assert code == Exit.OK, out + err
    assert strict_code == Exit.FINDING, strict_out
    assert "✗ attainment" in strict_out
    assert (tmp_path / "a" / "schedule.jsonl").read_text() == given
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["schema_version"] == 1
    assert report["workload"]["seed"] == LOAD.seed
    questions = report["runs"][0]["measures"]["questions"]
    in_window = [q for q in schedule.questions if 1.0 <= q.at_s < 3.0]
    assert questions["answered"] == questions["attempted"] == len(in_window) > 5
    assert questions["first_token_ms"]["due"]["min"] >= 99
    check_page((tmp_path / "a" / "report.html").read_text())
    check_events(tmp_path / "a" / "events.jsonl")


async def interrupted(address: str, folder: Path) -> None:
    """Ctrl-C after a second of load: what was measured until then is reported."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tandem.cli", "load", "--address", address, "--out", str(folder), *SHORT,
        "--duration", "60", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    while '"seen"' not in written(folder):
        await asyncio.sleep(0.1)
        assert process.returncode is None, await process.communicate()
    process.send_signal(signal.SIGINT)
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == Exit.INTERRUPTED, out.decode()
    report = json.loads((folder / "report.json").read_text())
    assert report["runs"][0]["stopped_early"] == "interrupted"
    assert report["runs"][0]["measures"]["window_s"][1] < 30


def written(folder: Path) -> str:
    return "".join(part.read_text() for part in folder.glob("events-*.jsonl"))


def check_page(page: str) -> None:
    """One file that needs nothing else, with whole plots whose inner names do not meet."""
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", page)
    assert "@import" not in page
    HTMLParser().feed(page)
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 4
    referred: list[set[str]] = []
    for plot in plots:
        ElementTree.fromstring(plot)
        made = set(re.findall(r'id="([^"]+)"', plot))
        wanted = set(re.findall(r"url\(#([^)]+)\)", plot)) | set(re.findall(r'xlink:href="#([^"]+)"', plot))
        assert wanted <= made
        referred.append(wanted)
    assert sum(map(len, referred)) == len(set.union(*referred))


def check_events(path: Path) -> None:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["t"] for event in events] == sorted(event["t"] for event in events)
    assert {"opened", "media", "progress", "seen", "sample", "question", "ended"} <= {
        e["kind"] for e in events
    }
    assert len({event["stream"] for event in events if event["kind"] == "ended"}) == 3


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_sweep_finds_where_streams_are_refused(tmp_path: Path) -> None:
    async with serve_timed(Truth(most_streams=3, first_token_s=0.02)) as (address, _):
        code, out, err = await load(
            address, tmp_path, "--sweep", "streams", "--streams", "2", "--duration", "1",
            "--question-rate", "2",
            "--goal", "late_ms=1000", "--goal", "attainment=0.5", "--goal", "frame_lag_ms=1500", *SHORT,
        )  # fmt: skip
    assert code == Exit.OK, out + err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sweep"]["max_passing"] == 3
    assert report["sweep"]["first_failing"] == 4
    assert "refused_streams" in report["sweep"]["broken"]
    assert report["sweep"]["monotonic"]
    assert "the knee: 3 streams" in out


async def test_no_server_and_nonsense_have_their_exit_codes(tmp_path: Path) -> None:
    (gone, _, err), (wrong, _, why) = await asyncio.gather(
        load("127.0.0.1:9", tmp_path / "a"), load("127.0.0.1:9", tmp_path / "b", "--goal", "speed=1")
    )
    assert gone == Exit.UNREACHABLE, err
    assert wrong == Exit.USAGE
    assert "first_token_ms" in why
    assert not (tmp_path / "a").exists()
