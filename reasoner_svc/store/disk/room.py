"""Shell. How many bytes each stream has on disk, and the deletion of what a plan says must go."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from reasoner_svc.store.disk.errors import DiskFull, StreamHeld
from reasoner_svc.store.disk.files import Files
from reasoner_svc.store.disk.folder import StreamFolder, folder_of, stream_of
from reasoner_svc.store.disk.leaving import FileFacts, Leave, NoRoom, plan_expiry, plan_room
from reasoner_svc.store.disk.scan import read_file_head
from reasoner_svc.store.disk.slots import Dropped
from reasoner_svc.store.disk.stream import OpenStream
from tandem.core.errors import TandemError
from tandem.core.ids import StreamId

DropFiles = Callable[[OpenStream, Sequence[int], str], Dropped]
Peek = Callable[[StreamId], AbstractContextManager[OpenStream]]


@dataclass(frozen=True, slots=True)
class Left:
    """What left the disk of one stream; `dropped` is None when the whole stream went."""

    stream: StreamId
    dropped: Dropped | None
    reason: str


class Room:
    """Owned by the store, under its lock."""

    def __init__(
        self,
        root: Path,
        files: Files,
        opened: Mapping[StreamId, OpenStream],
        budget_bytes: int,
        stream_bytes: int,
        keep_s: float,
    ) -> None:
        self._root = root
        self._files = files
        self._open = opened
        self._budget_bytes, self._quota_bytes, self._keep_s = budget_bytes, stream_bytes, keep_s
        self._closed: dict[StreamId, list[FileFacts]] = {}
        self._aside: dict[StreamId, int] = {}
        self._used: dict[StreamId, int] = {}
        self._total = 0
        self._measure_all()

    def used_bytes(self) -> int:
        """Of all streams."""
        return self._total

    def stream_bytes(self, stream: StreamId) -> int:
        """Data files and what was set aside."""
        return self._used.get(stream, 0)

    def count(self, stream: StreamId) -> None:
        """Something was written or dropped: sum up anew."""
        opened = self._open.get(stream)
        facts = self._closed.get(stream, ())
        used = opened.used_bytes if opened is not None else sum(item.size_bytes for item in facts)
        used += self._aside.get(stream, 0)
        self._total += used - self._used.pop(stream, 0)
        if used:
            self._used[stream] = used

    def check(self, stream: StreamId, length: int) -> None:
        """Raise DiskFull unless `length` more bytes are within quota and budget."""
        if self._quota_bytes and self.stream_bytes(stream) + length > self._quota_bytes:
            raise DiskFull(f"stream {stream!r} has used its quota of {self._quota_bytes} bytes on disk")
        if self.used_bytes() + length > self._budget_bytes:
            raise DiskFull(f"the disk budget of {self._budget_bytes} bytes is used up")

    def measure(self, stream: StreamId) -> None:
        """Look again at what a stream has on disk: it was opened, closed or deleted."""
        folder = StreamFolder(folder_of(self._root, stream), self._files)
        self._closed.pop(stream, None)
        self._aside.pop(stream, None)
        if folder.path.is_dir():
            self._aside[stream] = folder.bytes_aside()
            if stream not in self._open:
                self._closed[stream] = list(_facts_on_disk(folder, stream))
        self.count(stream)

    def make_room(self, length: int, stream: StreamId | None, drop: DropFiles, peek: Peek) -> list[Left]:
        """Carry out `plan_room`, for the quota first."""
        left: list[Left] = []
        self._measure_all()
        if self.used_bytes() + length > self._budget_bytes:
            self._clear_aside(list(self._aside))
        if stream is not None and self._quota_bytes:
            if self.stream_bytes(stream) + length > self._quota_bytes:
                self._clear_aside([stream])
            facts, used = self._facts(stream), self.stream_bytes(stream)
            plan = plan_room(facts, used, self._quota_bytes, length, f"the quota of stream {stream!r}")
            left += self._carry_out(plan, drop, peek)
        held = set[StreamId]()
        while True:
            candidates = [facts for name in self._names() - held for facts in self._facts(name)]
            plan = plan_room(candidates, self.used_bytes(), self._budget_bytes, length, "the disk budget")
            try:
                return left + self._carry_out(plan, drop, peek)
            except _HeldElsewhere as error:
                left += error.left
                held.add(error.stream)

    def expire(self, now_s: float, drop: DropFiles, peek: Peek) -> list[Left]:
        """Carry out `plan_expiry`; a closed stream all of whose files are old goes as a whole."""
        self._measure_all()
        if self._keep_s:
            self._clear_aside(list(self._aside), before_s=now_s - self._keep_s)
        facts = [item for name in self._names() for item in self._facts(name)]
        plan = plan_expiry(facts, now_s, self._keep_s)
        left: list[Left] = []
        for stream, which in _by_stream(plan.files).items():
            with contextlib.suppress(StreamHeld):
                if stream not in self._open and len(which) == len(self._facts(stream)):
                    left.append(self._remove_stream(stream, plan.reason))
                    continue
                keep = [item.file for item in which if not item.sink]
                if keep:
                    left.append(self._drop(stream, keep, plan.reason, drop, peek))
        return left

    def _carry_out(self, plan: Leave | NoRoom, drop: DropFiles, peek: Peek) -> list[Left]:
        if isinstance(plan, NoRoom):
            raise DiskFull(plan.reason)
        left: list[Left] = []
        for stream, which in _by_stream(plan.files).items():
            try:
                left.append(self._drop(stream, [item.file for item in which], plan.reason, drop, peek))
            except StreamHeld as error:
                raise _HeldElsewhere(stream, left) from error
        return left

    def _drop(self, stream: StreamId, which: Sequence[int], reason: str, drop: DropFiles, peek: Peek) -> Left:
        opened = self._open.get(stream)
        if opened is not None:
            dropped = drop(opened, which, reason)
            self.count(stream)
            return Left(stream, dropped, reason)
        with peek(stream) as briefly:
            dropped = drop(briefly, which, reason)
        self.measure(stream)
        return Left(stream, dropped, reason)

    def _remove_stream(self, stream: StreamId, reason: str) -> Left:
        folder = StreamFolder(folder_of(self._root, stream), self._files)
        folder.lock(make=False)
        try:
            folder.remove()
        finally:
            folder.unlock()
            self.measure(stream)
        return Left(stream, None, reason)

    def _clear_aside(self, streams: Iterable[StreamId], before_s: float = math.inf) -> None:
        """Nobody reads these files again: they go before any that somebody may read, and with their age."""
        for stream in [stream for stream in streams if self._aside.get(stream)]:
            folder = StreamFolder(folder_of(self._root, stream), self._files)
            for path in list(folder.aside.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < before_s:
                        self._files.unlink(path)
            self._aside[stream] = folder.bytes_aside()
            self.count(stream)

    def _names(self) -> set[StreamId]:
        return {*self._open, *self._closed}

    def _facts(self, stream: StreamId) -> list[FileFacts]:
        opened = self._open.get(stream)
        if opened is None:
            return self._closed.get(stream, [])
        return [
            FileFacts(stream, file.number, file.size, file.last_us / 1e6, file.sink)
            for file in opened.files.values()
        ]

    def _measure_all(self) -> None:
        on_disk = {stream for path in self._root.iterdir() if (stream := stream_of(path)) is not None}
        for stream in {*on_disk, *self._closed}:
            self.measure(stream)


class _HeldElsewhere(TandemError):
    """Another process has a stream whose files were to go; `left` had gone by then."""

    def __init__(self, stream: StreamId, left: list[Left]) -> None:
        super().__init__(f"stream {stream!r} is held by another process")
        self.stream = stream
        self.left = left


def _by_stream(files: Iterable[FileFacts]) -> dict[StreamId, list[FileFacts]]:
    groups: dict[StreamId, list[FileFacts]] = {}
    for facts in files:
        groups.setdefault(facts.stream, []).append(facts)
    return groups


def _facts_on_disk(folder: StreamFolder, stream: StreamId) -> Iterable[FileFacts]:
    for number in folder.data_numbers():
        with contextlib.suppress(OSError):
            fd = os.open(folder.data(number), os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                try:
                    sink = read_file_head(fd).sink
                except TandemError:
                    sink = False
                yield FileFacts(stream, number, status.st_size, status.st_mtime, sink)
            finally:
                os.close(fd)
