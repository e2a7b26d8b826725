"""What is read from files, from an API server, from another process's text: each as its reader does."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sqlite3
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from encoder_svc.ledger import SyncPoint
from encoder_svc.resume import GeometryRun, ResumeHeader, decode_resume_header
from kv_transfer.memory import random_block
from orchestrator import journal as journals
from orchestrator.access import parse_tokens
from orchestrator.backends.kubernetes_api import _typed, event_of
from orchestrator.backends.kubernetes_lease import ADDRESS, TERM, held_from, lease_of, next_term
from orchestrator.backends.kubernetes_pods import COMPONENT, pod_of
from orchestrator.backends.ray_plan import ServiceSpec
from orchestrator.carried import carry, read_carried
from orchestrator.journal import Journal, Record, record_to_json
from orchestrator.quotas import read_quotas
from orchestrator.restore import restore, to_record
from orchestrator.standing_record import StandingRecord
from reasoner_svc.store.disk import catalogue as catalogues
from reasoner_svc.store.disk.files import Files
from reasoner_svc.store.disk.format import (
    FILE_HEAD_BYTES,
    FileHead,
    decode_file_head,
    decode_record_head,
    encode_file_head,
    encode_record,
)
from reasoner_svc.store.disk.rows import Headers, encode_row
from reasoner_svc.store.disk.scan import scan_file
from reasoner_svc.store.disk.slots import DiskSlot, Held, Identity, Lost
from reasoner_svc.thinking.head_scores import load_head_scores
from tandem.core.blocks import BlockHeader
from tandem.core.clock import ManualClock
from tandem.core.errors import DataLost, TandemError, Unavailable
from tandem.core.standing import Standing
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.load.schedule import read_schedule
from tandem.load.workload import Workload
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tests.property.foreign.calls import STANDING, WATCHING
from tests.property.foreign.parser import Form, Parser
from tests.property.foreign.wire import SECRET, STREAM, TOKENS, text_of, unwrap_sealed
from tests.unit.orchestrator.test_session import make as make_session
from tests.unit.reasoner_svc.making import make_block

_BLOCK = make_block(1, stream=STREAM)
_IDENTITY = Identity(STREAM, _BLOCK.header.fingerprint, _BLOCK.header.layout)
_REPS = bytes(_IDENTITY.reps_bytes)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="foreign-")


def _file(name: str, data: bytes) -> Path:
    path = Path(_folder().name, name)
    path.write_bytes(data)
    return path


def _resume_headers() -> list[bytes]:
    header = ResumeHeader(
        kind="h264",
        point=SyncPoint(100, 200),
        start_header=b"sps",
        origin_us=3,
        runs=(GeometryRun(0, random_block(1).header.geometry),),
    )
    return [header.encode()]


def _sealed_file_head(data: bytes) -> bytes:
    if len(data) < 20:
        return data
    end = 12 + min(struct.unpack_from("<I", data, 8)[0], FILE_HEAD_BYTES)
    body = data[:end]
    return (body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))).ljust(FILE_HEAD_BYTES, b"\0")


def _wrap_file_head(body: bytes) -> bytes:
    data = struct.pack("<4sHHI", b"TKVF", 1, 0, len(body)) + body
    return (data + struct.pack("<Q", xxhash.xxh3_64_intdigest(data))).ljust(FILE_HEAD_BYTES, b"\0")


def _sealed_record(data: bytes) -> bytes:
    """Prefix and representatives; the block header between them keeps its own checksum."""
    prefix = data[:56].ljust(56, b"\0")
    return prefix + struct.pack("<Q", xxhash.xxh3_64_intdigest(prefix)) + data[64:]


def _records() -> bytes:
    data = b""
    for number in (1, 2):
        block = make_block(number, stream=STREAM)
        head, start = encode_record(block.header, _REPS, 5)
        data += start + block.payload.numpy().tobytes().ljust(head.length - head.payload_at, b"\0")
    return data


def _scan(data: bytes) -> object:
    fd = os.open(_file("data", data), os.O_RDONLY)
    try:
        scan = scan_file(fd, 1, 0, _IDENTITY, Headers(_IDENTITY))
    finally:
        os.close(fd)
    if not scan.found and not scan.lost:
        raise DataLost("no record is in it")
    assert all(isinstance(held.header, BlockHeader) and len(reps) == len(_REPS) for held, reps in scan.found)
    assert scan.end <= len(data)
    return scan


def _held() -> Held:
    block = _BLOCK.header
    return Held(
        block, DiskSlot(STREAM, 1, 512, block.payload_bytes), 0, 5000, 5, xxhash.xxh3_64_intdigest(_REPS)
    )


def _sealed_tail(data: bytes) -> bytes:
    return data[:-8] + struct.pack("<Q", xxhash.xxh3_64_intdigest(data[:-8]))


def _about() -> catalogues.About:
    lost = (Lost(3, 5, TimeRange(0, 9), "gone"), Lost(7, 8, None, "torn"))
    return catalogues.About(identity_hash=catalogues.identity_hash(_IDENTITY), blocks=1, floor=1, lost=lost)


def _sealed_about(data: bytes) -> bytes:
    return data[:-8] + xxhash.xxh3_64_digest(data[:-8])


@functools.cache
def catalogue() -> bytes:
    """The file of a stream with one block."""
    path = Path(_folder().name, "made.sqlite")
    made = catalogues.Catalogue.open(path, Files(), durable=False)
    made.commit(_about(), [(1, 1, encode_row(_held()), _REPS)], [])
    made.close()
    return path.read_bytes()


def _read_catalogue(data: bytes) -> object:
    path = _file("catalogue.sqlite", data)
    found = catalogues.Catalogue.open(path, Files(), durable=False)
    try:
        about, headers = found.about(), Headers(_IDENTITY)
        return about, [headers.from_row(row, reps) for _, _, row, reps in found.rows()]
    finally:
        found.close()
        for more in path.parent.glob("catalogue.sqlite*"):
            more.unlink()


def _record() -> Record:
    standing = StandingRecord(
        question=STANDING.SerializeToString(),
        state=Standing(is_on=True, alerted_us=5),
        checks=3,
        checked_us=9,
    )
    alert = client_pb2.WatchResponse.Alert(question_id="s", time_us=5).SerializeToString()
    return Record(
        stream_id=STREAM,
        nonce="n",
        epoch=3,
        media_kind=types_pb2.MEDIA_KIND_PICTURES,
        sample_fps=2.0,
        nominal_fps=0.0,
        safe_position=4,
        checkpoint_us=5,
        watermark_us=6,
        reasoner="reasoner-0",
        decoder_header=b"header",
        gaps=(Gap(TimeRange(0, 5), GapReason.OVERLOAD),),
        watching=WATCHING.SerializeToString(),
        standing=(standing,),
        alerts=(alert,),
    )


@functools.cache
def _journal() -> Journal:
    return Journal(Path(_folder().name, "journal"))


def journal() -> bytes:
    """The file of a stream."""
    path = Path(_folder().name, "journal", f"{STREAM}.json")
    path.unlink(missing_ok=True)
    _journal().save(_record())
    data = path.read_bytes()
    path.unlink()
    return data


def _load_journal(data: bytes) -> object:
    """Read, and put into a session, as when its client comes back."""
    path = Path(_folder().name, "journal", f"{STREAM}.json")
    path.write_bytes(data)
    record = _journal().load(STREAM)
    if record is None:
        try:
            journals.record_from_json(STREAM, json.loads(journals._last_line(path)))
        except Exception as error:  # which place it was, that `load` says to the log alone
            raise DataLost("it cannot be used") from error
        raise AssertionError("it can be used")
    session = make_session(types_pb2.MEDIA_KIND_PICTURES, ManualClock())
    restore(session, record)
    return to_record(session)


def _schedules() -> list[bytes]:
    stream = {"kind": "stream", "stream": "s0", "start_s": 0.0, "end_s": 1.0, "tenant": "acme"}
    question = {"kind": "question", "stream": "s0", "at_s": 0.5, "text": "What?"}
    return ["\n".join(map(json.dumps, (stream, question))).encode()]


POD = {
    "metadata": {
        "name": "demo-encoder-0",
        "uid": "u",
        "resourceVersion": "12",
        "labels": {COMPONENT: "encoder"},
        "deletionTimestamp": None,
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "PodScheduled", "status": "False", "reason": "r"},
        ],
        "containerStatuses": [
            {
                "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "m"}},
                "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            }
        ],
    },
}
LEASE = {
    "metadata": {"name": "demo", "resourceVersion": "5", "annotations": {TERM: "7", ADDRESS: "10.0.0.1:1"}},
    "spec": {"holderIdentity": "pod/boot", "leaseDurationSeconds": 10, "leaseTransitions": 3},
}
STATUS = {
    "kind": "Status",
    "code": 409,
    "reason": "AlreadyExists",
    "message": "no",
    "details": {"retryAfterSeconds": 1},
}


def _json(*values: object) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value).encode() for value in values]


def _object(parse: Callable[[Any], object]) -> Callable[[bytes], object]:
    """An object of the API: what is no JSON or no object is refused by the calls."""

    def read(data: bytes) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Unavailable("no JSON") from error
        if not isinstance(value, dict):
            raise Unavailable("no object")
        return parse(value)

    return read


def _lease(value: dict[str, Any]) -> object:
    held = held_from(value)
    return lease_of("demo", "pod/boot", next_term(held, 5.0), "10.0.0.1:1", 10.0, 5.0, value)


def _status(value: dict[str, Any]) -> object:
    return [_typed(code, value, "calling", None) for code in (400, 401, 404, 409, 410, 429, 500, 504, 700)]


def _event(data: bytes) -> object:
    kind, item = event_of(data)
    return kind, pod_of(item)


@functools.cache
def _checkpoint() -> Any:
    from tandem.vlm.checkpoint import find_checkpoint

    return find_checkpoint("dummy:tiny-timestamped", load_format="dummy", revision=None, seed=0)


def _layout(data: bytes) -> object:
    from tandem.vlm.checkpoint import _read_json
    from tandem.vlm.load import _fps, _template

    found = dataclasses.replace(_checkpoint(), layout=_read_json(_file("tandem_layout.json", data)))
    return _template(found, 2 / _fps(found))


def _specs() -> list[bytes]:
    spec = ServiceSpec(
        name="e", role="encoder", run="r", group="g", arguments=("-m", "x"), secret="s", only_this_host=True,
        uses_gpu=False, orphan_s=5.0, environment=(("A", "b"),),
    )  # fmt: skip
    return [spec.to_text().encode()]


FILES: dict[str, Parser] = {
    "decoder header": Parser(
        _resume_headers, lambda data: decode_resume_header(data, "h264"), form=Form.MSGPACK
    ),
    "head of a disk file": Parser(
        lambda: [encode_file_head(FileHead(_IDENTITY, 3, False))],
        decode_file_head,
        seal=_sealed_file_head,
        form=Form.MSGPACK,
        unwrap=unwrap_sealed,
        wrap=_wrap_file_head,
    ),
    "record on disk": Parser(
        lambda: [encode_record(random_block(2).header, b"reps", 5)[1]],
        decode_record_head,
        seal=_sealed_record,
    ),
    "data file": Parser(lambda: [_records()], _scan, seal=_sealed_record, is_slow=True),
    "row of a catalogue": Parser(
        lambda: [encode_row(_held())],
        lambda data: Headers(_IDENTITY).from_row(data, _REPS),
        seal=_sealed_tail,
    ),
    "catalogue about itself": Parser(
        lambda: [catalogues._encode(_about())],
        catalogues._decode,
        seal=_sealed_about,
        form=Form.MSGPACK,
        unwrap=lambda data: data[:-8],
        wrap=lambda body: body + xxhash.xxh3_64_digest(body),
    ),
    "catalogue": Parser(lambda: [catalogue()], _read_catalogue, (TandemError, sqlite3.Error), is_slow=True),
    "record that a client carries": Parser(
        lambda: [carry(SECRET, STREAM, json.dumps(record_to_json(_record())).encode())],
        lambda data: read_carried(SECRET, STREAM, data),
        seal=lambda data: carry(SECRET, STREAM, data[32:]),
        form=Form.JSON,
        unwrap=lambda data: data[32:],
        wrap=lambda body: carry(SECRET, STREAM, body),
    ),
    "journal": Parser(
        lambda: [journal()],
        _load_journal,
        form=Form.JSON,
        unwrap=bytes.strip,
        wrap=lambda body: b"\n" + body + b"\n",
    ),
    "schedule": Parser(
        _schedules,
        lambda data: read_schedule(text_of(data).splitlines(), Workload()),
        form=Form.TEXT,
    ),
    "file of tokens": Parser(
        lambda: [TOKENS.encode()], lambda data: parse_tokens(text_of(data), "f"), form=Form.TEXT
    ),
    "file of quotas": Parser(
        lambda: [b"[default]\nstreams = 3\n[tenants.acme]\nweight = 2.0\nbytes = 5\n"],
        lambda data: read_quotas(_file("quotas.toml", data)),
        form=Form.TEXT,
    ),
    "pod": Parser(_json(POD), _object(pod_of), form=Form.JSON),
    "lease": Parser(_json(LEASE), _object(_lease), form=Form.JSON),
    "status of an API": Parser(_json(STATUS), _object(_status), form=Form.JSON),
    "event of a watch": Parser(
        _json({"type": "ADDED", "object": POD}),
        _event,
        form=Form.JSON,
        more=_json({"type": "ERROR", "object": STATUS}),
    ),
    "layout of a checkpoint": Parser(
        lambda: [json.dumps(_checkpoint().layout).encode()], _layout, form=Form.JSON, is_slow=True
    ),
    "scores of heads": Parser(
        _json({"scores": [[0.5, 1.0], [0.0, 0.25]]}),
        lambda data: load_head_scores(str(_file("heads.json", data)), 2, 2),
        form=Form.JSON,
    ),
    "spec of a service on Ray": Parser(
        _specs, lambda data: ServiceSpec.from_text(text_of(data)), form=Form.JSON
    ),
}
