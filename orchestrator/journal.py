"""Shell: a little of every stream on disk, so that a new orchestrator knows what a former one watched.

Media and blocks are not here: media is the client's until it is safe, blocks are the reasoner's. What is
here is where the client should go on, up to when the stream was watched, which gaps it had, what a decoder
needs to start in the middle, and what the client wanted: how it is watched, what it is alerted about.
Written twice a second at most, without fsync: it survives the death of the process, not of the machine, and
a lost file costs a longer gap.

A file holds lines, and the last whole one counts. Replacing the file each time would be simpler: some file
systems bring the new one to the disk before the old one goes, a millisecond in which no stream gets on.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.fence import Fence
from orchestrator.standing_record import (
    StandingRecord,
    alerts_from_json,
    alerts_to_json,
    standing_from_json,
    standing_to_json,
)
from orchestrator.terms import DEFAULT_TENANT
from tandem.core.errors import Incompatible, TandemError
from tandem.core.ids import StreamId, is_valid_id
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.core.versions import Spoken, unread

log = logging.getLogger(__name__)

VERSION = 2
"""As written. Fields are added without a new one: an older reader leaves out what it does not know."""
READ = Spoken(2, VERSION)
"""What is read; a stream whose record is of another version goes on as one without a record."""
_MAX_KIND = 2**31 - 1
"""What the wire takes for a number of an enumeration."""
_SUFFIX = ".json"
MAX_FILE_BYTES = 64 * 1024
"""Of one stream; then the file is begun anew with its newest line."""
MAX_READ_BYTES = 16 << 20
"""More than a line with the longest header of a decoder; a larger file is not one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is written of one stream."""

    stream_id: StreamId
    name: str = ""
    """What its client calls it; empty: its id."""
    nonce: str
    """Of the incarnation that the resume token is for."""
    epoch: int
    media_kind: int
    sample_fps: float
    nominal_fps: float
    safe_position: int
    checkpoint_us: int
    """Frames before this need not be encoded from `safe_position` on."""
    watermark_us: int
    reasoner: str
    decoder_header: bytes
    gaps: tuple[Gap, ...]
    watching: bytes = b""
    """How it is watched: the message; empty: not at all."""
    standing: tuple[StandingRecord, ...] = ()
    alerts: tuple[bytes, ...] = ()
    """Messages that wait for the client."""
    tenant: str = DEFAULT_TENANT
    """Whose it is."""
    min_fps: float = 0.0
    """The least rate that its client accepts; 0: `sample_fps`."""
    max_lag_ms: int = 0
    """Behind the live edge, after which frames are left out; 0: never."""
    term: int = 0
    """Of the leader that wrote it; 0: nobody was elected, or release 0.1.0."""


class Journal:
    """One directory, one file a stream. Owned by one orchestrator, which holds the run directory's lock."""

    def __init__(self, directory: Path, fence: Fence | None = None) -> None:
        """`fence` knows whether another led since a record was written."""
        self._directory, self._fence = directory, fence or Fence()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, record: Record) -> bytes:
        """Write down where a stream is; returns what was written.

        A full disk costs the record, not the stream.
        """
        path, encoded = self._path(record.stream_id), encode_record(record)
        # With a line end before it: what an interrupted write left there must not spoil this line.
        line = b"\n%s\n" % encoded
        try:
            if not _append(path, line):
                scratch = path.with_suffix(".tmp")
                scratch.write_bytes(line)
                scratch.replace(path)
        except OSError as error:
            log.warning("cannot write the journal of stream %s: %s", record.stream_id, error)
        return encoded

    def load(self, stream_id: StreamId) -> Record | None:
        """What is written of a stream; None when there is nothing usable."""
        try:
            record = record_from_json(stream_id, json.loads(_last_line(self._path(stream_id))))
        except FileNotFoundError:
            return None
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
            TandemError,
        ) as error:
            log.warning("the journal of stream %s cannot be used: %s", stream_id, error)
            return None
        if self._fence.was_overtaken(record.term):
            log.info("the journal of stream %s is not used: another orchestrator led since", stream_id)
            return None
        return record

    def named(self, name: str) -> list[Record]:
        """What is written of streams that their clients call so, of all tenants."""
        found = (self.load(stream_id) for stream_id, _ in self._files())
        return [record for record in found if record is not None and record.name == name]

    def is_younger_than(self, age_s: float, stream_id: StreamId) -> bool:
        """True when something was written of a stream less than `age_s` ago."""
        try:
            return time.time() - self._path(stream_id).stat().st_mtime < age_s
        except FileNotFoundError:
            return False

    def holds(self, stream_id: StreamId) -> bool:
        """True when something was written of a stream, usable or not."""
        return self._path(stream_id).exists()

    def forget(self, stream_id: StreamId) -> None:
        """Remove what is written of a stream."""
        self._path(stream_id).unlink(missing_ok=True)

    def forget_older_than(self, age_s: float, keep: set[StreamId]) -> None:
        """Remove what nobody came back for."""
        for stream_id, path in list(self._files()):
            if stream_id not in keep and time.time() - os.stat(path).st_mtime > age_s:
                path.unlink(missing_ok=True)

    def touch_all(self) -> None:
        """Give every client the full time to come back, counted from now."""
        for _, path in self._files():
            os.utime(path)

    def _files(self) -> Iterator[tuple[StreamId, Path]]:
        for path in self._directory.glob("*" + _SUFFIX):
            yield StreamId(path.name.removesuffix(_SUFFIX)), path

    def _path(self, stream_id: StreamId) -> Path:
        assert is_valid_id(stream_id), stream_id
        return self._directory / f"{stream_id}{_SUFFIX}"


def _append(path: Path, line: bytes) -> bool:
    """False when the file would become too long."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(file).st_size + len(line) > MAX_FILE_BYTES:
            return False
        os.write(file, line)
    finally:
        os.close(file)
    return True


def _last_line(path: Path) -> bytes:
    """The newest that was written to its end; empty when there is none."""
    if (size := path.stat().st_size) > MAX_READ_BYTES:
        raise ValueError(f"it has {size} bytes, over {MAX_READ_BYTES}")
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return whole.rstrip(b"\n").rpartition(b"\n")[2]


def encode_record(record: Record) -> bytes:
    """A record as it is written: one line."""
    return json.dumps(record_to_json(record)).encode()


def record_to_json(record: Record) -> dict[str, object]:
    """A record as it is written, without its stream's id."""
    return {
        "version": VERSION,
        "nonce": record.nonce,
        "epoch": record.epoch,
        "media_kind": record.media_kind,
        "sample_fps": record.sample_fps,
        "nominal_fps": record.nominal_fps,
        "safe_position": record.safe_position,
        "checkpoint_us": record.checkpoint_us,
        "watermark_us": record.watermark_us,
        "reasoner": record.reasoner,
        "decoder_header": base64.b64encode(record.decoder_header).decode(),
        "watching": base64.b64encode(record.watching).decode(),
        "standing": standing_to_json(record.standing),
        "alerts": alerts_to_json(record.alerts),
        "tenant": record.tenant,
        "name": record.name,
        "min_fps": record.min_fps,
        "max_lag_ms": record.max_lag_ms,
        "term": record.term,
        "gaps": [[gap.range.start_us, gap.range.end_us, gap.reason.value] for gap in record.gaps],
    }


def record_from_json(stream_id: StreamId, data: dict[str, object]) -> Record:
    """A record as it was written. Raises Incompatible, ValueError, KeyError, TypeError, or a TandemError."""
    if data["version"] not in range(READ.lowest, READ.newest + 1):
        raise Incompatible(unread("a record", data["version"], READ))
    gaps = data["gaps"]
    if not isinstance(gaps, list):
        raise TypeError("gaps is not a list")
    return Record(
        stream_id=stream_id,
        nonce=_text(data, "nonce"),
        epoch=_int(data, "epoch"),
        media_kind=_int(data, "media_kind", _MAX_KIND),
        sample_fps=_rate(data["sample_fps"]),
        nominal_fps=_rate(data["nominal_fps"]),
        safe_position=_int(data, "safe_position"),
        checkpoint_us=_int(data, "checkpoint_us"),
        watermark_us=_int(data, "watermark_us"),
        reasoner=str(data["reasoner"]),
        decoder_header=base64.b64decode(str(data["decoder_header"]), validate=True),
        gaps=tuple(Gap(TimeRange(int(a), int(b)), GapReason(reason)) for a, b, reason in gaps),
        watching=base64.b64decode(str(data.get("watching", "")), validate=True),
        standing=standing_from_json(data.get("standing", [])),
        alerts=alerts_from_json(data.get("alerts", [])),
        tenant=_id(data, "tenant", DEFAULT_TENANT),
        name=_id(data, "name", stream_id),
        min_fps=_rate(data.get("min_fps", 0.0)),
        max_lag_ms=_lag(data.get("max_lag_ms", 0)),
        term=_int({"term": 0} | data, "term"),
    )


def _text(data: dict[str, object], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}")
    return value


def _int(data: dict[str, object], key: str, most: int = 2**63 - 1) -> int:
    value = data[key]
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{key} is {value!r}")
    return value


def _rate(value: object) -> float:
    """Frames per second, 0 or more."""
    rate = float(str(value))
    if not math.isfinite(rate) or rate < 0:
        raise ValueError(f"a rate of {value!r}")
    return rate


def _lag(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError(f"max_lag_ms is {value!r}")
    return value


def _id(data: dict[str, object], key: str, unset: str) -> str:
    value = data.get(key, "") or unset
    if not isinstance(value, str) or not is_valid_id(value):
        raise ValueError(f"{key} is {value!r}")
    return value
