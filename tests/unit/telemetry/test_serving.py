"""The port for Prometheus: real HTTP, values as they were counted, and a scrape that cannot hang or flood."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tandem.core.errors import InvalidInput, Unavailable
from tandem.core.meters import WORK_S, Sample, counter, gauge, histogram
from tandem.telemetry import registry, serving
from tandem.telemetry.process import ProcessTelemetry

DONE = counter("tandem_done_total", "Things.", "outcome", "reason")
TOOK = histogram("tandem_took_seconds", "Time.", WORK_S)
HELD = gauge("tandem_held", "Things.", "tier")
SEEN = counter("tandem_seen_total", "Things.", collected=True)
METRICS = (DONE, TOOK, HELD, SEEN)


def samples() -> Iterable[Sample]:
    asyncio.get_running_loop()  # collected in the loop that owns what is read
    return [Sample(HELD, 7, ("ram",)), Sample(SEEN, 3)]


def telemetry(read: registry.Read = samples, listen: str = "127.0.0.1:0") -> ProcessTelemetry:
    return ProcessTelemetry(METRICS, read, role="encoder", name="e", model="m", metrics=listen)


def get(address: str, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def scrape(address: str) -> dict[tuple[str, tuple[str, ...]], float]:
    status, text = await asyncio.to_thread(get, address)
    assert status == 200, text
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_values_come_out_as_they_went_in() -> None:
    watched = telemetry()
    watched.listen()
    try:
        meters = watched.telemetry.meters
        meters.count(DONE, 2, outcome="ok", reason="")
        meters.count(DONE, outcome="error", reason="limit_exceeded")
        meters.observe(TOOK, 0.003)
        found = await scrape(watched.address)
    finally:
        await watched.close()
    assert found["tandem_done_total", ("ok", "")] == 2
    assert found["tandem_done_total", ("error", "limit_exceeded")] == 1
    assert found["tandem_took_seconds_bucket", ("0.002",)] == 0
    assert found["tandem_took_seconds_bucket", ("0.005",)] == 1
    assert found["tandem_held", ("ram",)] == 7
    assert found["tandem_seen_total", ()] == 3
    assert found["tandem_build_info", ("m", "encoder", "0.2.0")] == 1
    assert found["process_resident_memory_bytes", ()] > 0
    assert found["process_open_fds", ()] > 0
    assert not [name for name, _ in found if name.endswith("_created")]


async def test_nothing_but_the_metrics_is_served() -> None:
    watched = telemetry()
    watched.listen()
    try:
        assert (await asyncio.to_thread(get, watched.address, "/"))[0] == 404
        assert (await asyncio.to_thread(get, watched.address, "/metrics", "POST"))[0] == 404
    finally:
        await watched.close()
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(get, watched.address or "127.0.0.1:9")


async def test_a_scrape_fails_when_the_process_hangs_or_errs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterable[Sample]:
        raise ZeroDivisionError("oh")

    watched = telemetry(broken)
    watched.listen()
    try:
        assert (await asyncio.to_thread(get, watched.address))[0] == 500
        monkeypatch.setattr(registry, "READ_TIMEOUT_S", 0.2)
        waiting = asyncio.get_running_loop().run_in_executor(None, get, watched.address)
        import time

        time.sleep(0.6)  # noqa: ASYNC251 - the loop hangs
        assert (await waiting)[0] == 500
    finally:
        await watched.close()


async def test_idle_connections_cost_no_more_than_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving._Handler, "timeout", 0.5)
    watched = telemetry()
    watched.listen()
    host, port = watched.address.split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(serving.MAX_AT_ONCE + 4)]
    try:
        await asyncio.sleep(0.2)
        with pytest.raises((OSError, urllib.error.URLError)):
            await asyncio.to_thread(get, watched.address)
        await asyncio.sleep(0.6)  # the silent ones are cut off
        assert (await scrape(watched.address))["tandem_held", ("ram",)] == 7
    finally:
        for each in idle:
            each.close()
        await watched.close()


async def test_connections_that_say_a_byte_now_and_then_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_WHOLE_S", 0.5)
    watched = telemetry()
    watched.listen()
    host, port = watched.address.split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(serving.MAX_AT_ONCE)]
    try:
        for _ in range(8):
            for each in slow:
                with contextlib.suppress(OSError):
                    each.sendall(b"G")
            await asyncio.sleep(0.1)
        assert (await scrape(watched.address))["tandem_held", ("ram",)] == 7
    finally:
        for each in slow:
            each.close()
        await watched.close()


async def test_addresses_that_cannot_be() -> None:
    for listen in ("0.0.0.0:1", "[::]:1", "nowhere", "127.0.0.1:99999"):
        with pytest.raises(InvalidInput, match="--metrics"):
            telemetry(listen=listen).listen()
    with pytest.raises(Unavailable, match="--metrics"):
        telemetry(listen="192.0.2.1:1").listen()
    taken = telemetry()
    taken.listen()
    with pytest.raises(Unavailable, match="cannot listen"):
        telemetry(listen=taken.address).listen()
    await taken.close()


async def test_nothing_is_imported_where_nothing_is_wanted() -> None:
    import subprocess
    import sys

    script = (
        "import asyncio, sys\nfrom tandem.telemetry.process import ProcessTelemetry\n"
        "async def main():\n"
        "    made = ProcessTelemetry((), lambda: (), role='r', name='', model='', metrics='')\n"
        "    made.listen(); await made.close()\n"
        "asyncio.run(main())\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus_client'))])"
    )
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={}
    )
    assert ran.stdout.strip() == "[]"
