"""The run directory and the journal: private, exclusive, and never trusted blindly."""

import argparse
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.arguments import add_arguments, default_run_dir, to_config
from orchestrator.fence import Fence
from orchestrator.journal import MAX_FILE_BYTES, Journal, Record
from orchestrator.rundir import RunDir, read_address
from orchestrator.standing_record import MAX_KEPT, MAX_MESSAGE_BYTES, StandingRecord
from orchestrator.tokens import check_token, make_nonce, resume_token
from tandem.core.errors import AlreadyExists, InvalidInput, PermissionRefused
from tandem.core.ids import StreamId
from tandem.core.standing import MAX_CHECKS, MAX_STANDING, NOTHING_SEEN, Standing
from tandem.core.timeline import Gap, GapReason, TimeRange
from tests.unit.reasoner_svc.store_disk.disk_making import make_store

STOOD = ["cQ==", 9, 600, True, 2, 3, 400]
"""One standing question, as it is written."""
RECORD = Record(
    stream_id=StreamId("cam"),
    name="the-name",
    nonce="f00d",
    epoch=3,
    media_kind=2,
    sample_fps=2.0,
    nominal_fps=25.0,
    safe_position=1000,
    checkpoint_us=500,
    watermark_us=700,
    reasoner="reasoner-0",
    decoder_header=b"\x00\xff",
    gaps=(Gap(TimeRange(1, 2), GapReason.SOURCE),),
    watching=b"\x08\x01",
    standing=(
        StandingRecord(question=b"\x00\xff", state=NOTHING_SEEN, checks=0, checked_us=-1),
        StandingRecord(question=b"q", state=Standing(True, 2, 3, 400), checks=9, checked_us=600),
    ),
    alerts=(b"a", b"\xfe"),
    min_fps=0.5,
    max_lag_ms=2500,
)


def test_the_secret_outlives_the_process_and_is_private(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run")
    secret = first.secret()
    assert len(secret) == 64
    assert first.secret_file.stat().st_mode & 0o777 == 0o600
    assert first.secret_file.read_bytes() == secret, "reading it raw or stripped is the same"
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0
    first.close()
    second = RunDir(tmp_path / "run")
    assert second.secret() == secret
    second.close()


def test_a_directory_of_something_else_is_neither_closed_nor_used(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir(mode=0o755)
    with pytest.raises(InvalidInput, match="chmod 700"):
        RunDir(project)
    assert project.stat().st_mode & 0o777 == 0o755
    assert not list(project.iterdir())
    project.chmod(0o700)
    RunDir(project).close()
    project.chmod(0o755)
    RunDir(project).close()
    assert project.stat().st_mode & 0o777 == 0o700, "it is a run directory by now"


def test_the_default_directory_is_private_and_not_a_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parent = tmp_path / f"tandem-{os.getuid()}"
    assert default_run_dir("127.0.0.1:7420") == parent / "7420"
    assert parent.stat().st_mode & 0o777 == 0o700
    parent.rmdir()
    parent.symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="--run-dir"):
        default_run_dir("127.0.0.1:7420")


def test_where_blocks_last_so_do_the_secret_and_the_journal(tmp_path: Path) -> None:
    def run_dir_of(*options: str) -> Path:
        parser = argparse.ArgumentParser()
        add_arguments(parser, encoders=1, reasoners=1)
        return to_config(parser.parse_args(["--listen", "127.0.0.1:7500", *options])).run_dir

    blocks = tmp_path / "blocks"
    assert run_dir_of("--data-dir", str(blocks)) == blocks / "run-7500"
    assert run_dir_of("--data-dir", str(blocks), "--run-dir", str(tmp_path)) == tmp_path
    RunDir(blocks / "run-7500").close()
    assert blocks.stat().st_mode & 0o777 == 0o700
    assert make_store(blocks).streams() == []


def test_two_orchestrators_cannot_share_a_directory(tmp_path: Path) -> None:
    first = RunDir(tmp_path)
    with pytest.raises(AlreadyExists, match="--run-dir"):
        RunDir(tmp_path)
    first.close()
    RunDir(tmp_path).close()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="file"):
        RunDir(tmp_path / "file" / "run")


def test_the_address_is_found_again(tmp_path: Path) -> None:
    assert read_address(tmp_path) is None
    run_dir = RunDir(tmp_path)
    run_dir.write_address("127.0.0.1:7420")
    assert read_address(tmp_path) == "127.0.0.1:7420"
    run_dir.close()


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.load(RECORD.stream_id) is None
    journal.save(RECORD)
    assert journal.load(RECORD.stream_id) == RECORD
    journal.forget(RECORD.stream_id)
    journal.forget(RECORD.stream_id)
    assert journal.load(RECORD.stream_id) is None


@pytest.mark.parametrize(
    ("written", "former", "is_used"),
    [(7, 7, True), (9, 7, True), (5, 7, False), (0, 7, True), (5, 0, True)],
    ids=["by who led before", "by itself", "then another led", "by nobody elected", "who led is not known"],
)
def test_a_record_counts_unless_another_led_since(
    tmp_path: Path, written: int, former: int, is_used: bool
) -> None:
    fence = Fence(elected=True)
    fence.lead(9, 1e12)
    fence.former_term = former
    journal = Journal(tmp_path, fence)
    record = replace(RECORD, term=written)
    journal.save(record)
    assert journal.load(RECORD.stream_id) == (record if is_used else None)
    assert journal.holds(RECORD.stream_id)


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_torn_record_is_no_record(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.save(RECORD)
    path = tmp_path / "cam.json"
    path.write_text(path.read_text()[:cut])
    assert journal.load(RECORD.stream_id) is None


def test_the_last_whole_line_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.save(RECORD)
    journal.save(replace(RECORD, epoch=9))
    path = tmp_path / "cam.json"
    whole = path.read_bytes()
    newest = whole.rstrip().rpartition(b"\n")[2]
    for cut in range(1, len(newest) + 1):  # as a process that is killed in the middle of a write leaves it
        path.write_bytes(whole[:-cut])
        assert journal.load(RECORD.stream_id) == RECORD
    journal.save(replace(RECORD, epoch=10))
    assert journal.load(RECORD.stream_id) == replace(RECORD, epoch=10)


def test_a_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    sizes = []
    for epoch in range(500):
        journal.save(replace(RECORD, epoch=epoch))
        sizes.append((tmp_path / "cam.json").stat().st_size)
    assert max(sizes) <= MAX_FILE_BYTES < sum(sizes)
    assert journal.load(RECORD.stream_id) == replace(RECORD, epoch=499)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 1),
        ("nonce", ""),
        ("epoch", -1),
        ("epoch", "3"),
        ("safe_position", None),
        ("gaps", 5),
        ("gaps", [[2, 1, "source"]]),
        ("gaps", [[1, 2, "magic"]]),
        ("gaps", [[1, 2]]),
        ("decoder_header", "***"),
        ("sample_fps", "fast"),
        ("standing", 5),
        ("standing", [5]),
        ("standing", [STOOD[:-1]]),
        ("standing", [STOOD] * (MAX_STANDING + 1)),
        ("standing", [[5, *STOOD[1:]]]),
        ("standing", [["***", *STOOD[1:]]]),
        ("standing", [["A" * 4 * MAX_MESSAGE_BYTES, *STOOD[1:]]]),
        ("standing", [[*STOOD[:1], -1, *STOOD[2:]]]),
        ("standing", [[*STOOD[:2], -2, *STOOD[3:]]]),
        ("standing", [[*STOOD[:3], 1, *STOOD[4:]]]),
        ("standing", [[*STOOD[:4], MAX_CHECKS + 1, *STOOD[5:]]]),
        ("standing", [[*STOOD[:5], 2**32, *STOOD[6:]]]),
        ("standing", [[*STOOD[:6], "soon"]]),
        ("alerts", "AAAA"),
        ("alerts", ["***"]),
        ("alerts", ["AAAA"] * (MAX_KEPT + 1)),
    ],
)
def test_a_strange_record_is_no_record(tmp_path: Path, key: str, value: object) -> None:
    journal = Journal(tmp_path)
    journal.save(RECORD)
    path = tmp_path / "cam.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}) + "\n")
    assert journal.load(RECORD.stream_id) is None


def test_what_an_older_one_did_not_write_is_not_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.save(RECORD)
    path = tmp_path / "cam.json"
    wanted = ("watching", "standing", "alerts")
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in wanted}
    path.write_text(json.dumps(kept) + "\n")
    assert journal.load(RECORD.stream_id) == replace(RECORD, watching=b"", standing=(), alerts=())


def test_what_is_too_large_is_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    large = replace(RECORD.standing[0], question=b"q" * (MAX_MESSAGE_BYTES + 1))
    most = b"a" * MAX_MESSAGE_BYTES
    journal.save(replace(RECORD, standing=(*RECORD.standing, large), alerts=(most, most + b"a")))
    assert journal.load(RECORD.stream_id) == replace(RECORD, alerts=(most,))


def test_what_nobody_comes_back_for_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.save(RECORD)
    journal.forget_older_than(60.0, set())
    assert journal.load(RECORD.stream_id) is not None
    os.utime(tmp_path / "cam.json", (0, 0))
    journal.forget_older_than(60.0, {RECORD.stream_id})
    assert journal.load(RECORD.stream_id) is not None
    journal.forget_older_than(60.0, set())
    assert journal.load(RECORD.stream_id) is None


def test_a_token_opens_its_stream_and_no_other() -> None:
    nonce = make_nonce()
    token = resume_token(b"s" * 32, StreamId("cam"), nonce)
    assert check_token(b"s" * 32, StreamId("cam"), token, nonce) == nonce
    assert check_token(b"s" * 32, StreamId("cam"), token, None) == nonce
    with pytest.raises(PermissionRefused):
        check_token(b"s" * 32, StreamId("cam"), token, make_nonce())
    for secret, stream, given in (
        (b"s" * 32, "cam2", token),
        (b"t" * 32, "cam", token),
        (b"s" * 32, "cam", ""),
        (b"s" * 32, "cam", "é"),
    ):
        with pytest.raises(PermissionRefused):
            check_token(secret, StreamId(stream), given, None)
