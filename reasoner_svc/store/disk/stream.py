"""Shell. One stream that is open: appends to its data files, makes them durable, drops what is old.

Owned by one thread at a time (a lock sees to it). Readers do not come here: they have their own descriptors.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from reasoner_svc.store.disk.appending import Batch
from reasoner_svc.store.disk.catalogue import About, Row, identity_hash
from reasoner_svc.store.disk.datafile import DataFile
from reasoner_svc.store.disk.errors import DiskFull, SyncFailed
from reasoner_svc.store.disk.folder import StreamFolder
from reasoner_svc.store.disk.growth import Growth
from reasoner_svc.store.disk.losses import contiguous_end, settle
from reasoner_svc.store.disk.numbers import NumberSet, Range
from reasoner_svc.store.disk.recovery import Found
from reasoner_svc.store.disk.rows import encode_row
from reasoner_svc.store.disk.slots import DiskSlot, Dropped, Fsync, Identity, Lost, WriteSettings
from tandem.core.blocks import BlockHeader
from tandem.core.errors import AlreadyExists, Incompatible, InvalidInput, WrongState
from tandem.core.timeline import TimeRange


@dataclass(slots=True)
class _Pending:
    """What the next commit of the catalogue brings."""

    rows: dict[int, Row] = field(default_factory=dict)
    removed: list[Range] = field(default_factory=list)
    changed: bool = False
    since_s: float | None = None


class OpenStream:
    """The writer of one stream's directory, whose lock it holds."""

    def __init__(
        self, folder: StreamFolder, identity: Identity, found: Found, settings: WriteSettings
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.lock = threading.RLock()
        self.closed = False
        self.files = found.files
        self._fsync = settings.fsync
        self._system = folder.files
        self._catalogue = found.catalogue
        self._held = NumberSet((h.header.key.number, h.header.key.number + 1) for h in found.held)
        self._lost = found.lost
        self._floor = found.floor
        growing = self.files[found.growing] if found.growing is not None else None
        self._growth = Growth(folder, identity, settings, self.files, growing, found.next_file)
        self._pending = _Pending({row[0]: row for row in found.added}, list(found.removed), changed=True)

    @property
    def lost(self) -> tuple[Lost, ...]:
        """What cannot be had."""
        return self._lost

    @property
    def used_bytes(self) -> int:
        """Bytes of the data files."""
        return sum(file.size for file in self.files.values())

    @property
    def durable(self) -> int:
        """Every block up to this number is on stable storage and catalogued, or lost; -1: none."""
        end = contiguous_end(self._held, self._lost, self._floor)
        return min(end, *self._pending.rows, end) - 1 if self._pending.rows else end - 1

    def due_s(self) -> float | None:
        """Since when something waits for `sync`, None when nothing does."""
        return self._pending.since_s

    def check(self, headers: Sequence[BlockHeader]) -> None:
        """Raise unless these blocks may be appended."""
        if self.closed:
            raise WrongState(f"stream {self.identity.stream!r} is closed")
        seen = set[int]()
        for header in headers:
            number = header.key.number
            if header.key.stream != self.identity.stream:
                raise InvalidInput(f"block {header.key} was given to stream {self.identity.stream!r}")
            if header.fingerprint != self.identity.fingerprint or header.layout != self.identity.layout:
                raise Incompatible(f"block {header.key} is of another model")
            if number in self._held or number in seen:
                raise AlreadyExists(f"block {number} of stream {self.identity.stream!r} is on disk already")
            if 0 < number < self._floor:
                raise WrongState(f"block {number} lies below {self._floor}: it was dropped")
            seen.add(number)

    def append(self, batch: Batch, now_s: float, now_us: int) -> list[DiskSlot]:
        """Write checked blocks; raises DiskFull with the slots of those that got in."""
        slots: list[DiskSlot] = []
        try:
            for written in self._growth.append(batch, now_us):
                for held, reps in written:
                    number = held.header.key.number
                    self._held.add(number, number + 1)
                    self._pending.rows[number] = number, held.slot.file, encode_row(held), reps
                    self._pending.changed = True
                    slots.append(held.slot)
        except OSError as error:
            raise DiskFull(
                f"the disk took {len(slots)} of {len(batch)} blocks of {self.identity.stream!r}: {error}",
                tuple(slots),
            ) from error
        finally:
            if slots:
                self._wait_since(now_s)
                if self._lost:
                    self._lost = settle(self._lost, self._held, self._floor)
        return slots

    def _wait_since(self, now_s: float) -> None:
        if self._pending.since_s is None:
            self._pending.since_s = now_s

    def changed(self, now_s: float) -> None:
        """Something was dropped: the catalogue learns of it with the next `sync` that is due."""
        if self._pending.changed:
            self._wait_since(now_s)

    def sync(self) -> int:
        """Bring everything to stable storage, then commit the catalogue; returns the durable number."""
        if self.closed:
            raise WrongState(f"stream {self.identity.stream!r} is closed")
        if not self._pending.changed:
            self._pending.since_s = None
            return self.durable
        if self._fsync.mode is not Fsync.NEVER:
            self._sync_data()
        pending = self._pending
        rows = len(self._held)
        about = About(identity_hash(self.identity), rows, self._floor, self._growth.next_file, self._lost)
        try:
            self._catalogue.commit(about, list(pending.rows.values()), pending.removed)
        except sqlite3.Error as error:
            raise DiskFull(f"the catalogue of {self.identity.stream!r} took no more: {error}") from error
        self._pending = _Pending()
        for file in self.files.values():
            file.durable_size = file.size
            if file is not self._growth.current:
                file.close()
        return self.durable

    def _sync_data(self) -> None:
        for file in self.files.values():
            if not file.dirty:
                continue
            try:
                if file.fd is None:
                    file.fd = self._system.open_to_write(self.folder.data(file.number))
                self._system.fdatasync(file.fd)
                file.dirty = False
            except OSError as error:
                raise self._not_safe(file, error) from error
        if self._growth.unnamed:
            try:
                self._system.sync_folder(self.folder.path)
                self._system.sync_folder(self.folder.path.parent)
            except OSError as error:
                raise SyncFailed(f"the directory {self.folder.path} cannot be synced: {error}", ()) from error
            self._growth.unnamed = False

    def _not_safe(self, file: DataFile, error: OSError) -> SyncFailed:
        """After a failed fsync the kernel may drop the bytes and call the next one a success: forget them."""
        gone = tuple(n for n, row in self._pending.rows.items() if row[1] == file.number)
        for number in gone:
            del self._pending.rows[number]
            self._held.remove(number, number + 1)
            self._pending.removed.append((number, number + 1))
        file.forget([(n, n + 1) for n in gone])
        file.size, file.dirty = file.durable_size, False
        if file.fd is not None:
            with contextlib.suppress(OSError):
                self._system.truncate(file.fd, file.size)
        file.close()
        if self._growth.current is file:
            self._growth.current = None
        return SyncFailed(f"{self.folder.data(file.number)} cannot be synced: {error}", gone)

    def drop_before(self, floor: int) -> Dropped:
        """Forget the blocks below `floor`, except the sink; files without any other block are removed."""
        if floor <= self._floor:
            return Dropped((), (), 0, "nothing lies below")
        numbers = NumberSet(self._held)
        numbers.remove(0, 1)
        numbers.remove(floor, max(floor, numbers.end))
        self._floor = floor
        whole = [f for f in self.files.values() if not f.sink and max(f.numbers, default=-1) < floor]
        self._forget(list(numbers))
        times, freed = self._remove_files(whole)
        return Dropped(tuple(numbers), times, freed, f"dropped below {floor}")

    def drop_files(self, which: Iterable[int], reason: str) -> Dropped:
        """Remove data files; what was in them is lost, for this reason."""
        numbers, times, freed = list[Range](), list[TimeRange](), 0
        for file in [self.files[number] for number in which if number in self.files]:
            ranges, hull = file.ranges(), _hull(file.times())
            lost = [Lost(first, end, hull, reason) for first, end in ranges]
            gone, size = self._remove_files([file])
            self._forget(ranges)
            self._lost = settle((*self._lost, *lost), self._held, self._floor)
            numbers, times, freed = numbers + ranges, [*times, *gone], freed + size
        return Dropped(tuple(numbers), tuple(times), freed, reason)

    def give_up(self, first: int, end: int, time: TimeRange | None, reason: str) -> None:
        """The blocks ``[first, end)`` are damaged or will never be written; they may come anew."""
        gone = list(NumberSet([(first, end)]))
        self._forget(gone)
        self._lost = settle((*self._lost, Lost(first, end, time, reason)), self._held, self._floor)

    def _forget(self, ranges: Sequence[Range]) -> None:
        for first, end in ranges:
            self._held.remove(first, end)
            for number in [n for n in self._pending.rows if first <= n < end]:
                del self._pending.rows[number]
        for file in self.files.values():
            file.forget(ranges)
        self._pending.removed += ranges
        self._pending.changed = True
        self._lost = settle(self._lost, self._held, self._floor)

    def _remove_files(self, files: Iterable[DataFile]) -> tuple[tuple[TimeRange, ...], int]:
        times, freed = list[TimeRange](), 0
        for file in files:
            times += file.times()
            freed += file.size
            self._system.unlink(self.folder.data(file.number))
            file.close()
            del self.files[file.number]
            self._growth.unnamed = True
            if self._growth.current is file:
                self._growth.current = None
        return tuple(times), freed

    def close(self, *, unlock: bool = True) -> None:
        """Close everything and let the directory go; what was not synced is found again by recovery."""
        self.closed = True
        self._catalogue.close()
        for file in self.files.values():
            file.close()
        if unlock:
            self.folder.unlock()


def _hull(times: Sequence[TimeRange]) -> TimeRange | None:
    if not times:
        return None
    return TimeRange(min(t.start_us for t in times), max(t.end_us for t in times))
