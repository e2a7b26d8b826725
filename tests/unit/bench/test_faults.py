"""The judge of the fault suite against outcomes that are known, its proxy, and its tables."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from bench.faults import is_good, rows_of
from bench.faults.proxy import Proxy
from bench.faults.runner import left_in, names_in
from bench.faults.table import Scenario, _scenario, chosen, scenarios
from bench.faults.verdict import LOAD_S, Reply, Seen, judge, lost_durable
from tandem.core.errors import InvalidInput
from tandem.core.timeline import Gap, GapReason, TimeRange
from tests.faults.fleet import free_port

SECOND = 1_000_000
RIGHT = Reply(
    text="red",
    known="red",
    right=True,
    error="",
    seen=(TimeRange(0, 20 * SECOND),),
    asked_us=20 * SECOND,
    watermark_us=20 * SECOND,
)
GOOD = Seen(
    replies=[RIGHT],
    gaps=[],
    durable_us=10 * SECOND,
    end_us=40 * SECOND,
    watermark_us=40 * SECOND,
    spoiled=False,
    detect_s=0.1,
    resume_s=3.0,
    load_s=2.0,
    bystander=RIGHT,
    left=[],
)
KILLED = scenarios()["encoder-killed"]
DAMAGED = scenarios()["disk-bits-flipped"]
CUT = scenarios()["reasoner-killed"]


def gap(first_s: int, last_s: int, reason: GapReason = GapReason.EVICTED) -> Gap:
    return Gap(TimeRange(first_s * SECOND, last_s * SECOND), reason)


def test_what_is_as_declared_has_no_findings() -> None:
    verdict = judge(KILLED, GOOD)
    assert verdict.passed
    assert (verdict.wrong_answers, verdict.lost_durable) == (0, 0)
    assert (verdict.detect_s, verdict.resume_s, verdict.load_s) == (0.1, 3.0, 2.0)


WRONG = replace(RIGHT, text="blue", right=False)
TOLD = replace(WRONG, gaps=(gap(3, 5),))


@pytest.mark.parametrize(
    ("scenario", "changes", "findings", "wrong", "lost"),
    [
        (KILLED, {"replies": [WRONG]}, "wrong: 'blue' for 'red'", 1, 0),
        (KILLED, {"replies": [TOLD]}, "asked for 'red': told 'blue'", 0, 0),
        (DAMAGED, {"replies": [TOLD], "spoiled": True, "gaps": [gap(3, 5)]}, "", 0, 0),
        (DAMAGED, {"replies": [WRONG], "spoiled": True}, "wrong: 'blue' for 'red'", 1, 0),
        (
            KILLED,
            {"replies": [replace(RIGHT, right=False, error="data_lost")]},
            "asked for 'red': data_lost",
            0,
            0,
        ),
        (CUT, {"replies": [replace(RIGHT, right=False, error="data_lost")]}, "", 0, 0),
        (
            CUT,
            {"replies": [replace(RIGHT, right=False, error="internal")]},
            "asked for 'red': internal",
            0,
            0,
        ),
        (KILLED, {"replies": [replace(RIGHT, seen=(TimeRange(0, 15 * SECOND),))]}, "5 s are missing", 0, 0),
        (KILLED, {"gaps": [gap(8, 12)]}, "2 durable blocks lost", 0, 2),
        (KILLED, {"gaps": [gap(12, 14)]}, "a gap of 2 s: evicted", 0, 0),
        (KILLED, {"ended": "unavailable"}, "the stream ended with unavailable", 0, 0),
        (KILLED, {"watermark_us": 39 * SECOND}, "watched up to 39000000", 0, 0),
        (KILLED, {"resume_s": 11.0}, "resumed after 11.0 s", 0, 0),
        (KILLED, {"resume_s": None}, "it did not resume", 0, 0),
        (KILLED, {"bystander": WRONG}, "the stream beside it was told 'blue'", 1, 0),
        (KILLED, {"left": ["stranger 7 is left"]}, "stranger 7 is left", 0, 0),
        (KILLED, {"found": ["a step failed"]}, "a step failed", 0, 0),
    ],
)
def test_every_difference_is_a_finding(
    scenario: Scenario, changes: dict[str, object], findings: str, wrong: int, lost: int
) -> None:
    verdict = judge(scenario, replace(GOOD, **changes))  # type: ignore[arg-type]
    assert verdict.passed is not bool(findings)
    assert findings in "; ".join(verdict.findings)
    assert (verdict.wrong_answers, verdict.lost_durable) == (wrong, lost)


def test_one_scenario_that_did_not_end_as_declared_is_a_finding() -> None:
    good, bad = judge(KILLED, GOOD), judge(DAMAGED, replace(GOOD, ended="internal"))
    skipped = replace(good, scenario="disk-full", skipped="no mount")
    assert is_good(rows_of([good, skipped]))
    rows = {row["metric"]: row["value"] for row in rows_of([good, bad, skipped])}
    assert not is_good(rows_of([good, bad, skipped]))
    assert (rows["scenarios_passed"], rows["scenarios"]) == (1, 2)
    assert (rows["passed_encoder-killed"], rows["passed_disk-bits-flipped"]) == (1, 0)
    assert rows["resume_s_encoder-killed"] == 3.0
    assert rows["listed"] == 70


def test_patience_stretches_times_alone() -> None:
    slow = replace(GOOD, resume_s=11.0)
    assert judge(KILLED, slow, patience=2.0).passed
    assert not judge(KILLED, replace(slow, gaps=[gap(8, 12)]), patience=2.0).passed


def test_a_slow_start_of_a_process_is_not_held_against_recovery() -> None:
    slow = replace(GOOD, resume_s=30.0, load_s=LOAD_S + 20.0)
    assert judge(KILLED, slow).passed
    assert not judge(KILLED, replace(slow, resume_s=30.1)).passed


def test_only_what_takes_back_is_a_loss() -> None:
    gaps = [gap(2, 4, GapReason.SOURCE), gap(5, 6), gap(9, 30)]
    assert lost_durable(gaps, 10 * SECOND) == 2


def test_scenarios_are_chosen_by_name_and_by_fault() -> None:
    assert [each.name for each in chosen("F1", quick=False)] == [
        "encoder-killed",
        "encoder-killed-with-a-spare",
    ]
    assert len(chosen("", quick=False)) > 30
    assert 0 < len(chosen("", quick=True)) < 5
    with pytest.raises(InvalidInput, match="no scenario 'nothing'; there are undisturbed"):
        chosen("nothing", quick=False)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_the_proxy_starves_and_cuts_until_it_is_healed() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = Proxy(*server.sockets[0].getsockname())
    host, _, port = (await proxy.start()).partition(":")
    assert proxy.address == f"{host}:{port}"
    try:
        proxy.starve()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"one")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(3), 0.2)
        proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(3), 5) == b"one", "held back, not lost"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readexactly(1), 5)
        refused, _ = await asyncio.open_connection(host, int(port))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(refused.readexactly(1), 5)
        proxy.heal()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"new")
        assert await asyncio.wait_for(reader.readexactly(3), 5) == b"new"
        writer.transport.abort()
    finally:
        await proxy.close()
        server.close()


async def test_the_proxy_carries_stalls_and_resets() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = Proxy(*server.sockets[0].getsockname())
    host, _, port = (await proxy.start()).partition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"one")
        assert await asyncio.wait_for(reader.readexactly(3), 5) == b"one"
        proxy.stall()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(3), 0.3)
        second_reader, second = await asyncio.open_connection(host, int(port))
        second.write(b"new")
        assert await asyncio.wait_for(second_reader.readexactly(3), 5) == b"new"
        assert proxy.reset() == 2
        for reading in (reader, second_reader):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reading.readexactly(1), 5)
        writer.transport.abort()
        second.transport.abort()
    finally:
        await proxy.close()
        server.close()


async def test_what_others_have_in_shared_memory_for_a_moment_is_not_left_there(tmp_path: Path) -> None:
    (tmp_path / "tandem-before.sock").touch()
    before = names_in(tmp_path)

    async def others() -> None:
        """Meet again and again; a name of its own each time."""
        for number in range(100):
            path = tmp_path / f"tandem-{number}.sock"
            path.touch()
            await asyncio.sleep(0.03)
            path.unlink()

    (tmp_path / "sem.somebody").touch()
    beside = asyncio.create_task(others())
    await asyncio.sleep(0.01)
    assert await left_in(tmp_path, before) == []
    (tmp_path / "tandem-left.nonce").touch()
    assert await left_in(tmp_path, before, 0.5) == ["tandem-left.nonce"]
    beside.cancel()


def test_nobody_is_given_the_port_of_a_service_that_starts() -> None:
    """The kernel gives ports of one range to whoever asks for any, and to every connection."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for _ in range(20):
        port = free_port()
        assert not low <= port <= high
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize("file", ["scenarios.toml", "apart.toml"])
def test_an_error_in_a_row_names_its_file(file: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^{file}, row: answers are 'perhaps'"):
        _scenario(file, "row", {"what": "", "answers": "perhaps"})
    with pytest.raises(InvalidInput, match=rf"^{file}, row: a step after"):
        _scenario(file, "row", {"what": "", "steps": [{"do": "ask", "at": 41}]})


def test_what_is_done_to_services_apart_has_no_frame() -> None:
    late, at_once = {"what": "", "steps": [{"do": "ask", "at": 30}]}, {"what": "", "steps": [{"do": "ask"}]}
    assert _scenario("scenarios.toml", "row", late).steps[0].at == 30
    assert _scenario("apart.toml", "row", at_once).steps
    for file, row in (("apart.toml", late), ("scenarios.toml", late | {"apart": True})):
        with pytest.raises(InvalidInput, match=rf"^{file}, row: .* no step has `at`"):
            _scenario(file, "row", row)
