"""Shell. The disk tier: all streams under one directory, of one model, inside a byte budget.

Appending, syncing and dropping belong to one thread at a time per stream; reading is for any thread, at any
time: what was deleted meanwhile is `DataLost`, and nothing is returned that does not match its checksums.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.store.disk.appending import make_batch
from reasoner_svc.store.disk.errors import DiskFull
from reasoner_svc.store.disk.files import Files
from reasoner_svc.store.disk.folder import GONE, StreamFolder, folder_of, stream_of
from reasoner_svc.store.disk.handles import Handles
from reasoner_svc.store.disk.opening import Recovered, as_disk_errors, check_reps, take_up
from reasoner_svc.store.disk.reading import DiskReader, Want
from reasoner_svc.store.disk.room import Left, Room
from reasoner_svc.store.disk.slots import (
    Claim,
    DiskSlot,
    Dropped,
    Fsync,
    FsyncPolicy,
    Identity,
    Lost,
    WriteSettings,
)
from reasoner_svc.store.disk.stream import OpenStream
from tandem.core.blocks import BlockHeader, KVLayout
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import InvalidInput, NotFound, TandemError, WrongState
from tandem.core.ids import StreamId, is_valid_id
from tandem.core.timeline import TimeRange


class DiskStore:
    """Blocks on disk."""

    def __init__(
        self,
        root: Path,
        *,
        fingerprint: str,
        layout: KVLayout,
        budget_bytes: int,
        stream_bytes: int = 0,
        keep_s: float = 0.0,
        file_bytes: int = 64 << 20,
        fsync: FsyncPolicy | None = None,
        clock: Clock = monotonic_clock,
        wall_clock: Callable[[], float] = time.time,
        files: Files | None = None,
        max_handles: int = 256,
    ) -> None:
        self._root = root
        self._fingerprint, self._layout = fingerprint, layout
        self._fsync = fsync or FsyncPolicy()
        self._settings = WriteSettings(file_bytes, keep_s / 10, self._fsync)
        self._clock, self._wall_clock = clock, wall_clock
        self._files = files or Files()
        self._handles = Handles(max_handles)
        self._reader = DiskReader(self._handles)
        self._open: dict[StreamId, OpenStream] = {}
        self._lock = threading.RLock()
        with as_disk_errors(root):
            self._files.mkdir(root)
            for path in root.glob(f"{GONE}*"):  # A deletion that was interrupted.
                with contextlib.suppress(OSError):
                    StreamFolder(path, self._files).remove()
        self._room = Room(root, self._files, self._open, budget_bytes, stream_bytes, keep_s)

    @property
    def used_bytes(self) -> int:
        """Bytes of all data files and of what was set aside; the catalogues are not counted.

        Never waits, unlike everything else here: a stream that is being opened must not hold a heartbeat up.
        """
        return self._room.used_bytes()

    def stream_bytes(self, stream: StreamId) -> int:
        """The same of one stream; never waits either."""
        return self._room.stream_bytes(stream)

    def streams(self) -> list[StreamId]:
        """The streams that lie on disk, open or not."""
        with as_disk_errors(self._root):
            found = [stream_of(path) for path in self._root.iterdir() if path.is_dir()]
        return sorted(stream for stream in found if stream is not None)

    def holds(self, stream: StreamId) -> bool:
        """A stream lies on disk, open or not."""
        return is_valid_id(stream) and folder_of(self._root, stream).is_dir()

    def is_open(self, stream: StreamId) -> bool:
        """A stream can be appended to."""
        return stream in self._open

    def open(self, stream: StreamId, claim: Claim = Claim()) -> Recovered:  # noqa: B008 - it is frozen
        """Take a stream up, or begin it. Raises StreamHeld (by another process), WrongState (open)."""
        if not is_valid_id(stream):
            raise InvalidInput(f"not a stream id: {stream!r}")
        with self._lock, as_disk_errors(self._root):
            if stream in self._open:
                raise WrongState(f"stream {stream!r} is open already")
            opened, recovered = self._take_up(stream, claim)
            self._open[stream] = opened
            self._handles.add_stream(stream, opened.folder)
            self._room.measure(stream)
            return recovered

    def _take_up(self, stream: StreamId, claim: Claim) -> tuple[OpenStream, Recovered]:
        identity = Identity(stream, self._fingerprint, self._layout)
        folder = StreamFolder(folder_of(self._root, stream), self._files)
        return take_up(folder, identity, self._settings, self._clock(), claim)

    def append(self, stream: StreamId, items: Sequence[tuple[Block, Tensor]]) -> list[DiskSlot]:
        """Write blocks with their representatives (float32, [layers, kv_heads * head_dim]) behind each other.

        Raises AlreadyExists, Incompatible, InvalidInput before anything is written, and DiskFull with the
        slots of those that got in. Under `Fsync.ALWAYS` they are durable on return (or SyncFailed, DiskFull).
        """
        with self._owned(stream) as opened:
            opened.check([block.header for block, _ in items])
            for block, reps in items:
                check_reps(block.header, reps, opened.identity)
            now_us = round(self._wall_clock() * 1e6)
            batch = make_batch(items, now_us)
            self._room.check(stream, batch.total_bytes)
            try:
                slots = opened.append(batch, self._clock(), now_us)
            finally:
                self._count(stream)
            if self._fsync.mode is Fsync.ALWAYS:
                try:
                    opened.sync()
                except DiskFull as error:
                    raise DiskFull(error.message, tuple(slots)) from error
            return slots

    def sync(self, stream: StreamId) -> int:
        """Make durable what was appended; returns the durable number. Raises SyncFailed, DiskFull."""
        with self._owned(stream) as opened:
            return opened.sync()

    def sync_due(self, now_s: float) -> dict[StreamId, int | TandemError]:
        """Sync the streams that have waited for as long as the policy lets them."""
        with self._lock:
            waiting = [(stream, opened.due_s()) for stream, opened in self._open.items()]
        done: dict[StreamId, int | TandemError] = {}
        for stream, since_s in waiting:
            if since_s is not None and now_s - since_s >= self._fsync.interval_s:
                try:
                    done[stream] = self.sync(stream)
                except TandemError as error:
                    done[stream] = error
        return done

    def durable(self, stream: StreamId) -> int:
        """The durable number as it is."""
        with self._owned(stream) as opened:
            return opened.durable

    def missing(self, stream: StreamId) -> tuple[Lost, ...]:
        """What of a stream cannot be had from here."""
        with self._owned(stream) as opened:
            return opened.lost

    def read(
        self, slot: DiskSlot, header: BlockHeader, layers: range | None = None, out: Tensor | None = None
    ) -> Tensor:
        """The verified bytes of a block or of some layers. Raises BlockCorrupt, DataLost."""
        return self._reader.read(slot, header, layers, out)

    def read_layer_many(
        self, wants: Sequence[Want], layer: int, out: Tensor | None = None
    ) -> list[Tensor | TandemError]:
        """One layer of many blocks in few large reads: bytes, or why there are none."""
        return self._reader.read_layer_many(wants, layer, out)

    def will_need(self, wants: Sequence[Want], layer: int) -> None:
        """Read one layer of these blocks ahead."""
        self._reader.will_need(wants, layer)

    def give_up(
        self, stream: StreamId, first: int, end: int, reason: str, time: TimeRange | None = None
    ) -> None:
        """Say that the blocks ``[first, end)`` will not be had: found damaged, or never to be written.

        Without this a number that was never appended holds the durable number back. They may come anew.
        """
        with self._owned(stream) as opened:
            opened.give_up(first, end, time, reason)
            opened.changed(self._clock())

    def drop_before(self, stream: StreamId, number: int) -> Dropped:
        """Forget all blocks below `number` but the sink; files that hold nothing else are deleted."""
        with self._owned(stream) as opened:
            before = set(opened.files)
            dropped = opened.drop_before(number)
            self._after_drop(opened, before)
            return dropped

    def make_room(self, length: int, stream: StreamId | None = None) -> list[Left]:
        """Delete the oldest files until `length` more bytes fit the quota (of `stream`) and the budget.

        Raises DiskFull when no choice of files makes room.
        """
        with self._lock, as_disk_errors(self._root):
            return self._room.make_room(length, stream, self._drop_files, self._peek)

    def expire(self, now_wall_s: float) -> list[Left]:
        """Delete files (and closed streams) that were written longer ago than they are to be kept."""
        with self._lock, as_disk_errors(self._root):
            return self._room.expire(now_wall_s, self._drop_files, self._peek)

    def delete(self, stream: StreamId) -> None:
        """Remove a stream from the disk. Raises NotFound, StreamHeld (another process has it)."""
        with self._lock, as_disk_errors(self._root):
            opened = self._open.pop(stream, None)
            if opened is not None:
                with opened.lock:
                    self._handles.drop_stream(stream)
                    opened.close(unlock=False)
                folder = opened.folder
            else:
                folder = StreamFolder(folder_of(self._root, stream), self._files)
                if not is_valid_id(stream) or not folder.path.is_dir():
                    raise NotFound(f"stream {stream!r} is not on disk")
                folder.lock(make=False)
            try:
                folder.remove()
            finally:
                folder.unlock()
                self._room.measure(stream)

    def close(self, stream: StreamId, *, sync: bool = True) -> None:
        """Sync a stream and let it go; another process may take it up."""
        with self._lock, as_disk_errors(self._root):
            opened = self._open.get(stream)
            if opened is None:
                return
            with opened.lock:
                try:
                    if sync:
                        opened.sync()
                finally:
                    del self._open[stream]
                    self._handles.drop_stream(stream)
                    opened.close()
                    self._room.measure(stream)

    def close_all(self, *, sync: bool = True) -> None:
        """Close every stream; one that cannot be synced does not keep the others open."""
        for stream in list(self._open):
            with contextlib.suppress(TandemError):
                self.close(stream, sync=sync)

    def _count(self, stream: StreamId) -> None:
        with self._lock:
            self._room.count(stream)

    def _drop_files(self, opened: OpenStream, which: Sequence[int], reason: str) -> Dropped:
        with opened.lock:
            before = set(opened.files)
            dropped = opened.drop_files(which, reason)
            self._after_drop(opened, before)
            return dropped

    def _after_drop(self, opened: OpenStream, before: set[int]) -> None:
        for file in before - set(opened.files):
            self._handles.drop_file(opened.identity.stream, file)
        opened.changed(self._clock())
        self._count(opened.identity.stream)

    @contextlib.contextmanager
    def _peek(self, stream: StreamId) -> Iterator[OpenStream]:
        """A stream that nobody has open, for a moment."""
        opened, _ = self._take_up(stream, Claim())
        try:
            yield opened
            opened.sync()
        finally:
            opened.close()

    @contextlib.contextmanager
    def _owned(self, stream: StreamId) -> Iterator[OpenStream]:
        with self._lock:
            opened = self._open.get(stream)
        if opened is None:
            raise WrongState(f"stream {stream!r} is not open on disk")
        with opened.lock, as_disk_errors(self._root):
            yield opened
