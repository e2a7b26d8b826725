"""What the former release left behind is read; what a newer one would leave is refused with both versions."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import xxhash

from encoder_svc.messages import opening_from_proto
from encoder_svc.resume import decode_resume_header
from kv_transfer.header import decode_header, encode_header
from kv_transfer.protocol.frames import FrameHeader, decode_frame_header, encode_frame_header
from orchestrator.access import parse_tokens
from orchestrator.journal import Journal, Record
from orchestrator.registry import check_hello
from orchestrator.tokens import check_token
from reasoner_svc.store.disk.catalogue import Catalogue, CatalogueDamaged
from reasoner_svc.store.disk.files import Files
from reasoner_svc.store.disk.format import (
    FILE_HEAD_BYTES,
    decode_file_head,
    decode_record_head,
)
from reasoner_svc.store.disk.slots import Claim
from reasoner_svc.store.disk.store import DiskStore
from tandem.core.errors import DataLost, Incompatible, InvalidInput, TandemError
from tandem.core.ids import StreamId
from tandem.core.tickets import verify_ticket
from tandem.core.transfer import FrameClass
from tandem.wire.accepting import LOWEST_PROTOCOL
from tandem.wire.block_headers import header_from_proto
from tandem.wire.gen.tandem.v1 import encoder_pb2, registry_pb2, transfer_pb2
from tandem.wire.transfer_messages import message_from_proto
from tests.integration.orchestrator_fakes import PERIOD_US, FakeStream, World
from tests.upgrade.record import KEPT, STANDING, TICKET
from tests.upgrade.recorded import file, of_type

SECRET = file("secret").read_bytes()
TOKEN = file("resume-token").read_text().strip()
STREAM = StreamId(KEPT)
BLOCKS = 5
"""The sink and four of video."""


def stored(folder: Path) -> tuple[DiskStore, Path]:
    """The former release's disk tier, with its one stream."""
    there = folder / f"s-{KEPT}"
    shutil.copytree(file("stored"), there)
    head = decode_file_head((there / "00000001.tkv").read_bytes())
    layout, fingerprint = head.identity.layout, head.identity.fingerprint
    return DiskStore(folder, fingerprint=fingerprint, layout=layout, budget_bytes=1 << 30), there


def record(folder: Path) -> Record:
    shutil.copy(file("journal.json"), folder / f"{KEPT}.json")
    found = Journal(folder).load(STREAM)
    assert found is not None
    return found


def claim(folder: Path) -> Claim:
    return Claim(incarnation=record(folder).nonce)


def test_a_former_service_attaches() -> None:
    hellos = [registry_pb2.AttachRequest.FromString(data) for data in of_type("AttachRequest")]
    hellos = [each for each in hellos if each.WhichOneof("event") == "hello"]
    assert hellos
    for each in hellos:
        identity, version = check_hello(each.hello, SECRET)
        assert identity.name == each.hello.name
        assert version == LOWEST_PROTOCOL


def test_messages_between_an_encoder_and_a_reasoner_are_read() -> None:
    kinds = set()
    for name in ("ConnectRequest", "ConnectResponse"):
        for data in of_type(name):
            message = getattr(transfer_pb2, name).FromString(data).message
            kinds.add(type(message_from_proto(message)).__name__)
            for header in message.offer.headers:
                assert decode_header(encode_header(header_from_proto(header)))[0] == header_from_proto(header)
    assert kinds >= {"Hello", "HelloAck", "LaneOpen", "Offer", "Grant", "Ack", "Fetch", "Bye"}


def test_a_former_orchestrator_opens_a_stream() -> None:
    requests = [encoder_pb2.EncodeRequest.FromString(data) for data in of_type("EncodeRequest")]
    openings = [opening_from_proto(each) for each in requests if each.WhichOneof("event") == "open"]
    assert {opening.kind for opening in openings} >= {"pictures", "h264"}


def test_tokens_and_tickets_are_good(tmp_path: Path) -> None:
    nonce = record(tmp_path).nonce
    assert check_token(SECRET, STREAM, TOKEN, nonce) == nonce
    assert verify_ticket(SECRET, file("ticket.bin").read_bytes(), 1e9) == TICKET


def test_its_journal_is_read(tmp_path: Path) -> None:
    found = record(tmp_path)
    assert (found.safe_position, found.watermark_us, found.epoch) == (6, 4_000_000, 1)
    assert found.watching
    assert STANDING.text.encode() in found.standing[0].question
    assert decode_resume_header(found.decoder_header, "pictures").runs[0].geometry.grid_h == 2


@pytest.mark.parametrize("blocks", [8, 12], ids=["as the journal says", "more than the journal says"])
async def test_its_client_comes_back_to_this_release(tmp_path: Path, blocks: int) -> None:
    streams = tmp_path / "run/streams"
    streams.mkdir(parents=True)
    shutil.copy(file("journal.json"), streams / f"{KEPT}.json")
    (tmp_path / "run/secret").write_bytes(SECRET)
    (tmp_path / "run/secret").chmod(0o600)
    (tmp_path / "run").chmod(0o700)
    async with World(tmp_path / "run") as world:
        await world.add("reasoner-1")
        held = FakeStream(1, TOKEN.partition(".")[0], [number * PERIOD_US for number in range(blocks)])
        world.reasoners["reasoner-1"].streams[KEPT] = held
        await world.until(lambda: any(m.identity.name == "reasoner-1" for m in world.app.cluster.members))
        client = await world.watch(KEPT, TOKEN)
        assert client.welcome.resumed
        assert client.welcome.next_position == 6
        assert held.epoch == 2
        client.sequence = blocks  # it was told that what is before is safe, and forgot it
        await client.picture(blocks * PERIOD_US // 1000)
        await world.until(lambda: len(held.blocks) > blocks)
        await client.until(lambda: client.progress.watermark_us > blocks * PERIOD_US)
        assert not client.progress.gaps


def test_its_blocks_are_read(tmp_path: Path) -> None:
    store, _ = stored(tmp_path)
    found = store.open(STREAM, claim(tmp_path))
    assert found.aside == found.missing == ()
    assert [header.key.number for header in found.headers] == list(range(BLOCKS))
    for header, slot in zip(found.headers, found.slots, strict=True):
        assert store.read(slot, header).numel() == header.payload_bytes
    store.close_all()


def test_its_blocks_are_read_without_its_catalogue(tmp_path: Path) -> None:
    store, there = stored(tmp_path)
    (there / "catalogue.sqlite").unlink()
    assert len(store.open(STREAM, claim(tmp_path)).headers) == BLOCKS
    store.close_all()


def sealed(data: bytes, at: int = 4, after: int | None = None) -> bytes:
    """With the next version at `at`, and the checksum that stands behind the rest, or at `after`, anew."""
    end = len(data) - 8 if after is None else after
    changed = bytearray(data)
    changed[at] += 1
    changed[end : end + 8] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(changed[:end])))
    return bytes(changed)


def newer_file(path: Path) -> bytes:
    """A data file of the next version."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 8)
    return sealed(data[:FILE_HEAD_BYTES], after=12 + length) + data[FILE_HEAD_BYTES:]


def header_bytes() -> bytes:
    data = file("stored/00000002.tkv").read_bytes()
    head = decode_record_head(data[FILE_HEAD_BYTES:])
    at = FILE_HEAD_BYTES + 64
    return data[at : at + head.header_bytes]


def frame() -> bytes:
    return encode_frame_header(
        FrameHeader(
            frame_class=FrameClass.S,
            flags=0,
            epoch=1,
            lane_epoch=1,
            transfer_id=1,
            attempt=0,
            seq=0,
            offset=0,
            valid_bytes=1,
            block=0,
        )
    )


def newer_decoder_header() -> bytes:
    data: dict[str, Any] = json.loads(file("journal.json").read_text().splitlines()[-1])
    fields = msgpack.unpackb(base64.b64decode(data["decoder_header"]))
    packed: bytes = msgpack.packb({**fields, "v": fields["v"] + 1})
    return packed


NEWER: dict[str, tuple[type[TandemError], Callable[[], object], str]] = {
    "block header": (Incompatible, lambda: decode_header(sealed(header_bytes())), "4.*reads 1 to 3"),
    "frame": (DataLost, lambda: decode_frame_header(sealed(frame())), "2.*reads 1"),
    "data file": (
        Incompatible,
        lambda: decode_file_head(newer_file(file("stored/00000002.tkv"))),
        "2.*reads 1",
    ),
    "record": (
        Incompatible,
        lambda: decode_record_head(
            sealed(file("stored/00000002.tkv").read_bytes()[FILE_HEAD_BYTES:][:64], after=56)
        ),
        "2.*reads 1",
    ),
    "decoder header": (
        Incompatible,
        lambda: decode_resume_header(newer_decoder_header(), "pictures"),
        "2.*reads 1",
    ),
    "ticket": (Incompatible, lambda: verify_ticket(SECRET, b"TKT2" + bytes(100), 1e9), "2.*reads 1"),
    "file of tokens": (InvalidInput, lambda: parse_tokens("version = 2", "tokens.toml"), "2.*reads 1"),
}


@pytest.mark.parametrize("what", NEWER)
def test_what_a_newer_release_wrote_is_refused_with_both_versions(what: str) -> None:
    error, read, versions = NEWER[what]
    with pytest.raises(error, match=f"a {what} of version {versions}: a newer release wrote it"):
        read()


def test_a_newer_data_file_is_set_aside_whole_and_the_others_are_read(tmp_path: Path) -> None:
    store, there = stored(tmp_path)
    (there / "catalogue.sqlite").unlink()
    newer = newer_file(there / "00000002.tkv")
    (there / "00000002.tkv").write_bytes(newer)
    found = store.open(STREAM, claim(tmp_path))
    assert [header.key.number for header in found.headers] == [0]
    (aside,) = found.aside
    assert "version 2, this release reads 1" in aside.reason
    assert (there / "aside/00000002.tkv").read_bytes() == newer
    store.close_all()


def test_a_newer_catalogue_is_set_aside_and_made_anew(tmp_path: Path) -> None:
    store, there = stored(tmp_path)
    with sqlite3.connect(there / "catalogue.sqlite") as database:
        (body,) = database.execute("SELECT body FROM about").fetchone()
        version, *fields = msgpack.unpackb(body[:-8])
        packed = msgpack.packb((version + 1, *fields))
        database.execute("UPDATE about SET body = ?", (packed + xxhash.xxh3_64_digest(packed),))
    database.close()
    opened = Catalogue.open(there / "catalogue.sqlite", Files(), durable=False)
    with pytest.raises(CatalogueDamaged, match="a catalogue of version 3, this release reads 2"):
        opened.about()
    opened.close()
    found = store.open(STREAM, claim(tmp_path))
    assert len(found.headers) == BLOCKS
    assert any("version 3" in aside.reason for aside in found.aside)
    store.close_all()


def test_a_newer_journal_costs_the_record_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = json.loads(file("journal.json").read_text().splitlines()[-1])
    (tmp_path / f"{KEPT}.json").write_text(f"\n{json.dumps({**line, 'version': 3})}\n")
    journal = Journal(tmp_path)
    assert journal.load(STREAM) is None
    assert "a record of version 3, this release reads 2: a newer release wrote it" in caplog.text
    assert journal.holds(STREAM), "it stays for the release that wrote it"


def test_a_field_that_a_newer_release_adds_to_the_journal_is_left_out(tmp_path: Path) -> None:
    line = json.loads(file("journal.json").read_text().splitlines()[-1])
    (tmp_path / f"{KEPT}.json").write_text(f"\n{json.dumps({**line, 'later': 1})}\n")
    assert Journal(tmp_path).load(STREAM) is not None
