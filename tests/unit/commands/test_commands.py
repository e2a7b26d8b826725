"""Arguments, exit codes, tables and reports of the commands, without a server."""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path

import pytest

from tandem import cli
from tandem.commands import bench, demo, doctor, streams, watch
from tandem.commands.base import Exit, exit_code, positive, source_exit_code, stream_time
from tandem.commands.listening import describe_listener
from tandem.commands.local import free_address, local_services
from tandem.core.errors import (
    BadMedia,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    NotFound,
    SlowReader,
    TandemError,
    Unavailable,
    WrongState,
)


@pytest.mark.parametrize(
    ("error", "code", "source_code"),
    [
        (BadMedia("x"), Exit.BAD_SOURCE, Exit.BAD_SOURCE),
        (NotFound("x"), Exit.REFUSED, Exit.BAD_SOURCE),
        (Unavailable("x"), Exit.UNREACHABLE, Exit.BAD_SOURCE),
        (DeadlineExceeded("x"), Exit.UNREACHABLE, Exit.UNREACHABLE),
        (InvalidInput("x"), Exit.REFUSED, Exit.USAGE),
        (WrongState("x"), Exit.REFUSED, Exit.REFUSED),
        (SlowReader("x"), Exit.REFUSED, Exit.REFUSED),
        (Internal("x"), Exit.INTERNAL, Exit.INTERNAL),
    ],
)
def test_errors_become_exit_codes(error: TandemError, code: Exit, source_code: Exit) -> None:
    assert exit_code(error) is code
    assert source_exit_code(error) is source_code


def test_arguments_say_what_they_expect() -> None:
    assert stream_time("01:02.5") == 62_500_000
    assert positive("2.5") == 2.5
    for text in ("0", "-1", "inf", "nan", "two"):
        with pytest.raises(argparse.ArgumentTypeError, match="above zero"):
            positive(text)
    with pytest.raises(argparse.ArgumentTypeError, match="mm:ss"):
        stream_time("soon")


def test_questions_with_times_are_collected_in_order() -> None:
    parser = argparse.ArgumentParser()
    watch.COMMAND.add_arguments(parser)
    parsed = parser.parse_args(
        ["x", "--ask-at", "1", "a", "--ask", "b", "--ask-at", "00:02", "c", "--speed", "max"]
    )
    assert parsed.ask_at == [(1_000_000, "a"), (2_000_000, "c")]
    assert parsed.ask == ["b"]
    assert parsed.speed is None


def test_services_parse_their_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    for name, (module, _) in cli.SERVICES.items():
        fake = types.ModuleType(module)
        fake.main = lambda argv: seen.append(argv)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, fake)
        assert cli.main([name, "--help", "--listen", "x"]) == 0
    assert seen == [["--help", "--listen", "x"]] * len(cli.SERVICES)


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "nothing-like-it"]) == Exit.REFUSED
    error = capsys.readouterr().err
    assert error.startswith("tandem: no benchmark 'nothing-like-it'; there are ")
    assert error.endswith("[not_found]\n")


def test_no_command_and_unknown_commands_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["nothing-like-it"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == Exit.USAGE
    assert "usage: tandem" in capsys.readouterr().err


def test_columns_line_up() -> None:
    assert streams.columns([("A", "BB"), ("CCC", "D")]) == ["A    BB", "CCC  D"]


def test_bench_writes_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "metric": "gloo_1MiB",
        "value": 3.14159,
        "unit": "GB/s",
        "baseline": "raw_gloo",
        "ratio": 0.97,
        "n": 20,
        "spread": None,
    }
    module = types.SimpleNamespace(run=lambda quick: [row | {"n": 2 if quick else 20}])
    monkeypatch.setattr(bench, "_load", lambda name: module)
    file = tmp_path / "out.json"
    assert cli.main(["bench", "transfer", "--quick", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert set(report) == {"name", "commit", "machine", "settings", "results"}
    assert report["results"] == [row | {"n": 2}]
    assert report["machine"]["cores"] > 0
    assert report["settings"]["quick"] is True
    assert "gloo_1MiB  3.142  GB/s  raw_gloo  0.97   2  -" in capsys.readouterr().out
    assert cli.main(["bench", "transfer", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["results"] == [row]
    assert "gloo_1MiB" in printed.err


def test_bench_chooses_parts_and_tells_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = types.SimpleNamespace(run=lambda quick: [])
    parts = types.SimpleNamespace(
        run=lambda quick, only="": [{"metric": only, "value": 1}], is_good=lambda rows: not rows[0]["metric"]
    )
    monkeypatch.setattr(bench, "_load", lambda name: {"whole": whole, "parts": parts}[name])
    assert cli.main(["bench", "parts"]) == Exit.OK
    assert cli.main(["bench", "parts", "--only", "one"]) == Exit.FINDING
    assert cli.main(["bench", "whole", "--only", "one"]) == Exit.REFUSED
    assert "no parts" in capsys.readouterr().err


def test_bench_knows_files_and_folders() -> None:
    with pytest.raises(NotFound, match=r"accuracy, .*faults, .*orchestrator, .*workers"):
        bench._load("nothing")
    assert bench._load("faults").__name__ == "bench.faults"


def test_spread_of_figures() -> None:
    assert demo.spread([1.0, 2.0, 9.0]) == {"median": 2.0, "worst": 9.0}
    assert demo.spread([]) == {}


def test_the_doctor_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda package: None if package in ("av", "rich") else "1.0")
    findings = list(doctor._packages())
    marks = [doctor.Mark.BAD, doctor.Mark.OK, doctor.Mark.NOTE, doctor.Mark.OK]
    assert [finding.mark for finding in findings] == marks
    assert "tandem[media]" in findings[2].remedy
    assert "not installed: rich" in findings[0].what


def test_the_doctor_reports_whatever_it_meets() -> None:
    def typed() -> doctor.Finding:
        raise NotFound("no such model")

    def untyped() -> doctor.Finding:
        raise ZeroDivisionError("oh")

    assert doctor._guarded("loading", typed).what == "loading: no such model [not_found]"
    assert doctor._guarded("loading", untyped).what == "loading: ZeroDivisionError: oh"


def test_the_doctor_warns_of_listeners_that_others_reach() -> None:
    assert describe_listener("127.0.0.1:7420 front door (plain)").mark is doctor.Mark.OK
    assert describe_listener("10.0.0.7:7420 front door (plain)").mark is doctor.Mark.BAD
    assert "trusted network" in describe_listener("10.0.0.7:7420 front door (tokens)").remedy
    assert describe_listener("10.0.0.7:7420 front door (tls, tokens)").mark is doctor.Mark.OK
    assert describe_listener("10.0.0.7:7440 health of encoder-0 (plain)").mark is doctor.Mark.OK


async def test_services_that_do_not_start_show_the_end_of_their_log(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="did not start") as failed:
        async with local_services(tmp_path, "--no-such-option"):
            pass
    assert "no-such-option" in failed.value.message


def test_free_addresses_are_loopback() -> None:
    assert free_address().startswith("127.0.0.1:")


@pytest.mark.parametrize("host", ["::1", "no-such-host.invalid"])
def test_the_doctor_can_look_at_any_address(host: str) -> None:
    assert doctor._nobody(f"[{host}]:9", host, 9).mark is doctor.Mark.NOTE


def test_what_is_watched_is_not_taken_for_a_mode(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["watch", "--notes", "clip.mp4"])
    assert exited.value.code == Exit.USAGE
    assert "put it before --notes" in capsys.readouterr().err
    assert cli.main(["watch", "none.mp4", "--notes", "--note-positions", "two-counters"]) == Exit.USAGE
    assert "concurrent" in capsys.readouterr().err
