"""Ways to hurt a disk store: a system that stops or refuses at the n-th call, power loss, damaged files.

What the loss of power takes is taken as POSIX allows it: bytes that were not synced, in data files and at the
end of the catalogue's log, and names whose directory was not synced since they were made, even where the
file itself was.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from typing import TypeVar

from reasoner_svc.store.disk.files import Buffer, Files

Result = TypeVar("Result")


class Stopped(BaseException):
    """The process ended here: not an Exception, so that nothing catches it."""


class Fault(Enum):
    """What happens at the chosen call."""

    STOP_BEFORE = "stop before"
    STOP_AFTER = "stop after"
    STOP_INSIDE = "stop inside of a write"
    FULL = "no space"
    BROKEN = "input/output error"
    SHORT = "a short write, then no space"


STOPS = (Fault.STOP_BEFORE, Fault.STOP_AFTER, Fault.STOP_INSIDE)


class FaultyFiles(Files):
    """The real system up to call number `at`; keeps what had been synced, for the loss of power."""

    def __init__(self, fault: Fault, at: int, lasting: int, root: Path, copy: Path, random: Random) -> None:
        self.fault, self.at, self.lasting = fault, at, lasting
        self.root, self.copy, self.random = root, copy, random
        self.step = 0
        self.synced: dict[str, int] = {}
        """Bytes of each file that would survive the loss of power."""
        self.named: dict[str, int] = {}
        """Inodes of the names that would survive it."""
        self.unnamed: list[str] = []
        """Names that were there at the stop and might not survive it."""

    def call(self, name: str, work: Callable[[], Result]) -> Result:
        self.step += 1
        if self.step == self.at and self.fault in STOPS:
            logs = self._logs()
            if self.fault is Fault.STOP_AFTER or (self.fault is Fault.STOP_INSIDE and name == "commit"):
                work()
            if self.fault is Fault.STOP_INSIDE:
                self.synced |= (
                    logs  # The commit is on its way: of what it added to the log, any part may last.
                )
            elif self.fault is Fault.STOP_AFTER and name == "commit":
                self._committed()
            self.stop()
        if self.fault not in STOPS and self.at <= self.step < self.at + self.lasting:
            self.refuse(name)
        result = work()
        if name == "commit":
            self._committed()
        return result

    def _logs(self) -> dict[str, int]:
        """Bytes of every catalogue's log."""
        return {self._of(path): path.stat().st_size for path in self.root.rglob("*-wal")}

    def _of(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _committed(self) -> None:
        """SQLite has synced its log, and the directory when the log was new."""
        self.synced |= (logs := self._logs())
        for log in logs:
            path = self.root / log
            if self.named.get(log) != path.stat().st_ino:
                self._keep_names(path.parent)

    def _keep_names(self, folder: Path) -> None:
        for path in folder.iterdir():
            self.named[self._of(path)] = path.stat().st_ino

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._keep_names(path)

    def stop(self) -> None:
        """Keep the bytes as they are at this moment."""
        self.unnamed = [
            name
            for path in sorted(self.root.rglob("*"))
            if self.named.get(name := self._of(path)) != path.stat().st_ino
        ]
        shutil.copytree(self.root, self.copy)
        raise Stopped

    def refuse(self, name: str) -> None:
        if name == "commit":
            raise sqlite3.OperationalError("database or disk is full")
        if self.fault is Fault.BROKEN or name not in ("create", "mkdir"):
            broken = self.fault is Fault.BROKEN or name == "fsync"
            if name in ("write", "fsync", "truncate", "create", "open") and (broken or name == "write"):
                raise OSError(errno.EIO if broken else errno.ENOSPC, "injected")
            return
        raise OSError(errno.ENOSPC, "injected")

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        inside = self.step + 1 == self.at and self.fault in (Fault.STOP_INSIDE, Fault.SHORT)
        if inside:
            data = b"".join(buffers)
            os.pwrite(fd, data[: self.random.randrange(len(data))], offset)
        return super().pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        self.synced[self._of(path)] = os.fstat(fd).st_size


def lose_power(root: Path, files: FaultyFiles, random: Random) -> None:
    """Of data that was not synced, some is cut off and some is other bytes; some names are gone."""
    synced = files.synced
    for name in files.unnamed:
        if random.random() < 0.5:
            _forget_name(root / name)
    for path in sorted(root.rglob("*-wal")):  # A damaged end is `damage`'s business: SQLite sums its log.
        safe, size = min(synced.get(str(path.relative_to(root)), 0), path.stat().st_size), path.stat().st_size
        os.truncate(path, random.randint(safe, size))
    for path in sorted(root.rglob("*.tkv")):
        safe, size = synced.get(str(path.relative_to(root)), 0), path.stat().st_size
        if safe >= size:
            continue
        with path.open("r+b") as file:
            file.truncate(random.randint(safe, size))
            end = file.seek(0, os.SEEK_END)
            if end > safe and random.random() < 0.5:
                start = random.randrange(safe, end)
                file.seek(start)
                length = min(end - start, 4096)
                file.write(random.choice((bytes(length), random.randbytes(length))))


def _forget_name(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def damage(root: Path, random: Random) -> list[str]:
    """Hurt one to three files anywhere below `root`; returns what was done."""
    done = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
        if paths:
            path, way = random.choice(paths), random.choice(_WAYS)
            way(path, random)
            done.append(f"{way.__name__.strip('_')} {path.name}")
    return done


def _truncate(path: Path, random: Random) -> None:
    os.truncate(path, random.randint(0, path.stat().st_size))


def _flip(path: Path, random: Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(random.choice((1, 1, 5, 50)) if size else 0):
            at = random.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << random.randrange(8))]))


def _overwrite(path: Path, random: Random) -> None:
    size = path.stat().st_size
    if size:
        start = random.randrange(size)
        length = min(size - start, random.choice((16, 512, 4096)))
        with path.open("r+b") as file:
            file.seek(start)
            file.write(random.choice((bytes(length), random.randbytes(length))))


def _extend(path: Path, random: Random) -> None:
    with path.open("ab") as file:
        file.write(random.choice((bytes(700), random.randbytes(700))))


def _remove(path: Path, _: Random) -> None:
    path.unlink()


def _swap(path: Path, random: Random) -> None:
    """Two data files change places."""
    others = sorted(path.parent.glob("*.tkv"))
    if path.suffix == ".tkv" and len(others) > 1:
        other = random.choice(others)
        if other != path:
            spare = path.with_name("spare")
            path.rename(spare)
            other.rename(path)
            spare.rename(other)


def _repeat(path: Path, random: Random) -> None:
    """A part of the file is written again behind its end."""
    data = path.read_bytes()
    start = random.randrange(0, len(data), 64) if data else 0
    path.write_bytes(data + data[start : start + 4096])


_WAYS = (_truncate, _truncate, _flip, _flip, _flip, _overwrite, _extend, _remove, _swap, _repeat)
