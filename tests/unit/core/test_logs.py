"""One JSON object a record, with the stream and epoch that it is about, whoever logs it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from tandem.core import logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.make_formatter("json", "encoder", "encoder-0"))
    logger = logging.getLogger("tests.logs")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield out
    logger.removeHandler(handler)


def read(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_record_is_one_line_whatever_it_says(lines: io.StringIO) -> None:
    log = logging.getLogger("tests.logs")
    log.info("two\nlines and %s", "ünïcode")
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        log.exception("it failed")
    plain, failed = read(lines)
    assert {key: plain[key] for key in ("level", "role", "service", "logger", "message")} == {
        "level": "info",
        "role": "encoder",
        "service": "encoder-0",
        "logger": "tests.logs",
        "message": "two\nlines and ünïcode",
    }
    assert str(plain["time"]).endswith("Z")
    assert "stream" not in plain
    assert "ValueError: bad" in str(failed["exception"])


async def test_what_a_task_logs_is_about_its_own_stream(lines: io.StringIO) -> None:
    log = logging.getLogger("tests.logs")

    async def work(stream: str, epoch: int) -> None:
        logs.is_about(stream, epoch)
        await asyncio.sleep(0.01)
        await asyncio.create_task(tell())

    async def tell() -> None:
        log.info("hello")

    await asyncio.gather(work("a", 1), work("b", 2))
    with logs.about("c"):
        log.info("hello")
    log.info("hello")
    about = sorted((str(line.get("stream", "")), line.get("epoch", 0)) for line in read(lines))
    assert about == [("", 0), ("a", 1), ("b", 2), ("c", 0)]


def test_what_is_said_is_a_record_too(capsys: pytest.CaptureFixture[str]) -> None:
    logs.say("ready\nnow", logs.make_formatter("json", "up"))
    logs.say("plain", logs.make_formatter("text", "up"))
    first, second, third = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["message"] for line in (first, second)] == ["ready", "now"]
    assert third == "plain"
    logs.say("broken", logs.make_formatter("json", "up"), level=logging.ERROR)
    logs.say("worse", level=logging.ERROR)
    told = capsys.readouterr()
    assert told.out == ""
    broken, worse = told.err.splitlines()
    assert (json.loads(broken)["level"], json.loads(broken)["message"], worse) == ("error", "broken", "worse")


def test_a_message_is_cut_where_nobody_reads_on(lines: io.StringIO) -> None:
    logging.getLogger("tests.logs").info("x" * 100_000)
    assert len(str(read(lines)[0]["message"])) == 16_384


def test_a_library_that_anybody_can_have_log_is_let_through_once_in_a_while() -> None:
    now_s = [0.0]
    seldom = logs.Seldom("grpc", 1.0, lambda: now_s[0])

    def passes(name: str) -> bool:
        return bool(seldom.filter(logging.LogRecord(name, logging.ERROR, "", 0, "x", None, None)))

    assert passes("grpc._cython.cygrpc")
    assert not any(passes(name) for name in ("grpc._cython.cygrpc", "grpc"))
    assert all(passes(name) for name in ("orchestrator.door", "grpcmock", "root"))
    now_s[0] = 1.0
    assert passes("grpc")


def test_what_strangers_bring_about_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        logs.seldom("tests.of.strangers").warning("refused")
    logging.getLogger("tests.of.strangers").warning("else")
    assert caplog.messages == ["refused", "else"]


def test_it_is_so_wherever_logs_are_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.Logger("root of the test")
    monkeypatch.setattr(logging, "root", root)
    logs.set_up("text", "encoder")
    (handler,) = root.handlers
    assert any(isinstance(each, logs.Seldom) for each in handler.filters)
