"""What a client carries of its stream: whose it is, what it is worth beside the journal."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.carried import MAX_CARRIED_BYTES, best_record, carry, newest, read_carried
from orchestrator.journal import Journal, encode_record, record_to_json
from tandem.core.errors import Incompatible, InvalidInput, PermissionRefused
from tandem.core.ids import StreamId
from tandem.wire.gen.tandem.v1 import client_pb2
from tests.unit.orchestrator.test_files import RECORD

SECRET = b"a secret of a cluster"
CAM = RECORD.stream_id
Open = client_pb2.WatchRequest.Open


def test_it_comes_back_as_it_was() -> None:
    assert read_carried(SECRET, CAM, carry(SECRET, CAM, encode_record(RECORD))) == RECORD


def test_nobody_else_makes_one_or_changes_it() -> None:
    carried = carry(SECRET, CAM, encode_record(RECORD))
    with pytest.raises(PermissionRefused):
        read_carried(b"another secret of one", CAM, carried)
    with pytest.raises(PermissionRefused):
        read_carried(SECRET, StreamId("door"), carried)
    for at in (0, 31, 32, len(carried) - 1):
        with pytest.raises(PermissionRefused):
            read_carried(SECRET, CAM, carried[:at] + bytes([carried[at] ^ 1]) + carried[at + 1 :])


@pytest.mark.parametrize("length", [0, 32, MAX_CARRIED_BYTES + 1])
def test_what_cannot_be_one_is_not_looked_at(length: int) -> None:
    with pytest.raises(InvalidInput, match=f"{length} bytes"):
        read_carried(SECRET, CAM, bytes(length))


def sealed(body: bytes) -> bytes:
    message = b"\0".join((b"tandem/record", CAM.encode(), body))
    return hmac.new(SECRET, message, hashlib.sha256).digest() + body


def test_one_of_a_newer_release_is_told_with_both_versions() -> None:
    body = json.dumps({**record_to_json(RECORD), "version": 3}).encode()
    with pytest.raises(Incompatible, match="a record of version 3, this release reads 2"):
        read_carried(SECRET, CAM, sealed(body))
    with pytest.raises(InvalidInput, match="cannot be used"):
        read_carried(SECRET, CAM, sealed(b"{}"))


def test_a_long_one_is_in_the_journal_alone() -> None:
    long = replace(RECORD, decoder_header=bytes(MAX_CARRIED_BYTES))
    assert carry(SECRET, CAM, encode_record(long)) == b""


def test_the_newer_one_counts_and_never_one_of_another_incarnation() -> None:
    later = replace(RECORD, safe_position=2000)
    assert newest(None, None) is None
    assert newest(None, RECORD) is newest(RECORD, None) is RECORD
    assert newest(RECORD, later) is newest(later, RECORD) is later
    assert newest(replace(RECORD, epoch=9), later).epoch == 9  # type: ignore[union-attr]
    assert newest(RECORD, replace(later, nonce="beef", epoch=99)) is RECORD


def test_what_is_shown_is_used_where_there_is_no_journal_and_for_its_tenant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    shown = Open(stream_id=CAM, record=carry(SECRET, CAM, encode_record(RECORD)))
    assert best_record(journal, SECRET, CAM, Open(stream_id=CAM)) is None
    assert best_record(journal, SECRET, CAM, shown) == RECORD
    assert best_record(journal, SECRET, CAM, Open(record=shown.record, tenant="acme")) is None
    with caplog.at_level(logging.WARNING):
        assert best_record(journal, b"another secret of one", CAM, shown) is None
    assert "does not belong to stream cam" in caplog.text
    journal.save(replace(RECORD, safe_position=5000))
    found = best_record(journal, SECRET, CAM, shown)
    assert found is not None
    assert found.safe_position == 5000
