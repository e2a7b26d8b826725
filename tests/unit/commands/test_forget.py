"""What an operator shows to have a stream forgotten: the token that its client has, made anew."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from orchestrator.journal import Journal, Record
from orchestrator.naming import id_of
from orchestrator.tokens import check_token, is_token_of, resume_token
from tandem.client import MediaKind
from tandem.commands.forget import COMMAND, claim_of
from tandem.core.errors import InvalidInput
from tandem.core.ids import StreamId
from tandem.wire.gen.tandem.v1 import types_pb2

SECRET, STREAM, NONCE = b"0123456789abcdef", StreamId("door"), "ab" * 16


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path


def arguments(run_dir: Path, *more: str, stream: str = STREAM) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return parser.parse_args([stream, "--run-dir", str(run_dir), *more])


def write_record(run_dir: Path, kind: int, stream: StreamId = STREAM, tenant: str = "acme") -> None:
    record = Record(
        stream_id=stream,
        name=STREAM,
        nonce=NONCE,
        epoch=3,
        media_kind=kind,
        sample_fps=1.0,
        nominal_fps=0.0,
        safe_position=0,
        checkpoint_us=0,
        watermark_us=0,
        reasoner="reasoner-0",
        decoder_header=b"",
        gaps=(),
        tenant=tenant,
    )
    Journal(run_dir / "streams").save(record)


def test_the_token_is_made_of_secret_and_record(run_dir: Path) -> None:
    write_record(run_dir, types_pb2.MEDIA_KIND_H264_ANNEX_B)
    claim = claim_of(arguments(run_dir))
    assert claim.token == resume_token(SECRET, STREAM, NONCE)
    assert (claim.kinds, claim.tenant, claim.is_known) == ((MediaKind.H264_ANNEX_B,), "acme", True)


def test_a_record_of_no_known_kind_is_tried_as_all(run_dir: Path) -> None:
    write_record(run_dir, 77)
    assert claim_of(arguments(run_dir)).kinds == tuple(MediaKind)


def test_of_two_tenants_with_one_name_one_is_named(run_dir: Path) -> None:
    for tenant in ("acme", "other"):
        write_record(run_dir, types_pb2.MEDIA_KIND_PICTURES, id_of(tenant, STREAM), tenant)
    with pytest.raises(InvalidInput, match=r"acme, other .*--tenant"):
        claim_of(arguments(run_dir))
    claim = claim_of(arguments(run_dir, "--tenant", "other"))
    assert (claim.token, claim.tenant) == (resume_token(SECRET, id_of("other", STREAM), NONCE), "other")
    unknown = claim_of(arguments(run_dir, "--tenant", "third"))
    assert not unknown.is_known
    assert is_token_of(SECRET, id_of("third", STREAM), unknown.token)


def test_what_nobody_knows_is_claimed_with_the_secret_alone(run_dir: Path) -> None:
    claim = claim_of(arguments(run_dir))
    assert not claim.is_known
    assert check_token(SECRET, STREAM, claim.token, None)
    assert not (run_dir / "streams").exists(), "looking makes no journal"


def test_a_token_is_taken_as_it_is(tmp_path: Path) -> None:
    claim = claim_of(arguments(tmp_path, "--token", "theirs"))
    assert (claim.token, claim.kinds, claim.is_known) == ("theirs", tuple(MediaKind), True)


def test_the_secret_may_be_elsewhere(tmp_path: Path, run_dir: Path) -> None:
    write_record(run_dir, types_pb2.MEDIA_KIND_PICTURES)
    elsewhere = tmp_path / "mounted"
    elsewhere.write_bytes(b"another secret of it")
    claim = claim_of(arguments(run_dir, "--secret-file", str(elsewhere)))
    assert claim.token == resume_token(b"another secret of it", STREAM, NONCE)


def test_what_cannot_be_claimed_is_said(tmp_path: Path, run_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="no secret in"):
        claim_of(arguments(tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="is no stream"):
        claim_of(arguments(run_dir, stream="../door"))
