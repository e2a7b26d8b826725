"""Shell. The catalogue of one stream: which blocks are durable and where, in an SQLite database.

Its word is only taken when its checksums hold and its counts agree; otherwise it is `CatalogueDamaged`, and
the caller makes a new one from the data files. One commit makes a batch durable, after the data is.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import xxhash

from reasoner_svc.store.disk.files import Files
from reasoner_svc.store.disk.numbers import Range
from reasoner_svc.store.disk.slots import Identity, Lost
from tandem.core.errors import DataLost
from tandem.core.timeline import TimeRange
from tandem.core.versions import Spoken, unread

VERSION = 2
"""A catalogue of another version is set aside and made anew from the data files."""
_TABLES = """
CREATE TABLE about (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE blocks (number INTEGER PRIMARY KEY, file INTEGER, row BLOB NOT NULL, reps BLOB NOT NULL);
"""
_DAMAGE = (sqlite3.DatabaseError, OverflowError, UnicodeDecodeError)
"""What SQLite's module raises of a damaged file; the last where its message quotes bytes of it."""
Row = tuple[int, int, bytes, bytes]
"""Number, file, the packed row (`rows.py`), representatives."""


class CatalogueDamaged(DataLost):
    """The catalogue cannot be trusted."""


@dataclass(frozen=True, slots=True)
class About:
    """What the catalogue says of itself and of what is not in it."""

    identity_hash: int
    """Of the stream, the model and the layout."""
    blocks: int = 0
    """Number of rows: tells when some have vanished."""
    floor: int = 0
    """Blocks below it, except the sink, were dropped on purpose."""
    next_file: int = 1
    """No data file has had this number or a higher one."""
    lost: tuple[Lost, ...] = field(default=())


def identity_hash(identity: Identity) -> int:
    """Equal when stream, model and layout are."""
    layout = identity.layout
    fields = (
        identity.stream,
        identity.fingerprint,
        layout.layers,
        layout.kv_heads,
        layout.head_dim,
        layout.dtype,
    )
    digest: int = xxhash.xxh3_64_intdigest(repr(fields).encode())
    return digest


class Catalogue:
    """An open database. Calls must not overlap; the stream's lock sees to that and to a single process."""

    def __init__(self, path: Path, files: Files) -> None:
        self._files = files
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)

    @classmethod
    def open(cls, path: Path, files: Files, *, durable: bool) -> Catalogue:
        """Open or make it. Raises CatalogueDamaged; sqlite3.Error when the disk is full."""
        catalogue = cls(path, files)
        try:
            catalogue._prepare(durable)
        except _DAMAGE as error:
            catalogue.close()
            if _is_full(error):
                raise
            raise CatalogueDamaged(f"the catalogue cannot be opened: {error}") from error
        return catalogue

    def _prepare(self, durable: bool) -> None:
        run = self._database.execute
        # One process has the stream: no shared-memory index, which network file systems lack.
        run("PRAGMA locking_mode=EXCLUSIVE")
        run("PRAGMA journal_mode=WAL")
        run(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        run("PRAGMA secure_delete=ON")
        if not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._files.call("commit", lambda: self._database.executescript(f"BEGIN;{_TABLES}COMMIT;"))

    def close(self) -> None:
        """Close; what was not committed is gone."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    def about(self) -> About | None:
        """None of a new catalogue. Raises CatalogueDamaged."""
        try:
            found = self._database.execute("SELECT body FROM about WHERE id = 1").fetchone()
            rows = self._database.execute("SELECT count(*) FROM blocks").fetchone()[0]
        except _DAMAGE as error:
            raise CatalogueDamaged(f"the catalogue cannot be read: {error}") from error
        if found is None:
            if rows:
                raise CatalogueDamaged("the catalogue has blocks but does not say whose")
            return None
        about = _decode(found[0])
        if about.blocks != rows:
            raise CatalogueDamaged(f"the catalogue has {rows} rows instead of {about.blocks}")
        return about

    def rows(self) -> Iterator[Row]:
        """All rows by ascending number. Raises CatalogueDamaged."""
        try:
            last = -1
            for number, file, row, reps in self._database.execute(
                "SELECT number, file, row, reps FROM blocks ORDER BY number"
            ):
                kinds = (type(number), type(file), type(row), type(reps))
                if kinds != (int, int, bytes, bytes) or number <= last:
                    raise CatalogueDamaged("a row of the catalogue is damaged")
                last = number
                yield number, file, row, reps
        except _DAMAGE as error:
            raise CatalogueDamaged(f"the catalogue cannot be read: {error}") from error

    def commit(self, about: About, added: Sequence[Row], removed: Iterable[Range]) -> int:
        """Take rows out, put rows in, all or nothing; returns the number of rows. Raises sqlite3.Error."""
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        try:
            run_many = self._database.executemany
            run_many("DELETE FROM blocks WHERE number >= ? AND number < ?", removed)
            run_many("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", added)
            run("INSERT OR REPLACE INTO about VALUES (1, ?)", (_encode(about),))
            self._files.call("commit", lambda: run("COMMIT"))
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                run("ROLLBACK")
            raise
        return about.blocks


def _is_full(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
    )


def _encode(about: About) -> bytes:
    lost = [
        (
            item.first,
            item.end,
            *((item.time.start_us, item.time.end_us) if item.time else (None, None)),
            item.reason,
        )
        for item in about.lost
    ]
    body: bytes = msgpack.packb(
        (VERSION, about.identity_hash, about.blocks, about.floor, about.next_file, lost)
    )
    return body + xxhash.xxh3_64_digest(body)


def _decode(data: Any) -> About:
    if type(data) is not bytes or xxhash.xxh3_64_digest(data[:-8]) != data[-8:]:
        raise CatalogueDamaged("what the catalogue says of itself is damaged")
    try:
        version, *fields = msgpack.unpackb(data[:-8])
        if version != VERSION:
            raise CatalogueDamaged(unread("a catalogue", version, Spoken(VERSION, VERSION)))
        digest, blocks, floor, next_file, lost = fields
        return About(
            identity_hash=_count(digest),
            blocks=_count(blocks),
            floor=_count(floor),
            next_file=_count(next_file),
            lost=tuple(_lost(*item) for item in lost),
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CatalogueDamaged(f"what the catalogue says of itself is none of it: {error}") from error


def _lost(first: object, end: object, start_us: object, end_us: object, reason: object) -> Lost:
    if not isinstance(reason, str):
        raise TypeError(f"a loss for {type(reason).__name__}")
    time = None if start_us is None else TimeRange(_number(start_us), _number(end_us))
    return Lost(_count(first), _count(end), time, reason)


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} where a number belongs")
    return value


def _count(value: object) -> int:
    if _number(value) < 0:
        raise ValueError(f"{value} where a count belongs")
    return _number(value)
