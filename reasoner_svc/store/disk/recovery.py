"""Shell. Takes up a stream's directory as it was left: by a clean end, a kill, a full disk or a bad one.

The catalogue says what is durable; what lies behind it in the data files is adopted where it is whole; a torn
tail is cut off; files that are foreign or unreadable are set aside. Nothing is written to the catalogue here:
what must change in it is returned. `docs/storage.md` has the rules.
"""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kv_transfer.header import HeaderCorrupt
from reasoner_svc.store.disk.catalogue import About, Catalogue, CatalogueDamaged, Row, identity_hash
from reasoner_svc.store.disk.datafile import DataFile
from reasoner_svc.store.disk.folder import StreamFolder
from reasoner_svc.store.disk.format import FILE_HEAD_BYTES
from reasoner_svc.store.disk.losses import settle, unknown
from reasoner_svc.store.disk.numbers import NumberSet, Range, ranges_of
from reasoner_svc.store.disk.rows import Headers, encode_row, row_times
from reasoner_svc.store.disk.scan import read_file_head, scan_file
from reasoner_svc.store.disk.slots import Aside, Held, Identity, Lost
from tandem.core.errors import DataLost, Incompatible


@dataclass(slots=True)
class Found:
    """What recovery found, and what the catalogue must be told."""

    catalogue: Catalogue
    files: dict[int, DataFile] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    """By ascending number."""
    representatives: Tensor = field(default_factory=lambda: torch.empty(0))
    lost: tuple[Lost, ...] = ()
    aside: list[Aside] = field(default_factory=list)
    floor: int = 0
    next_file: int = 1
    added: list[Row] = field(default_factory=list)
    removed: list[Range] = field(default_factory=list)
    growing: int | None = None
    """The file that appends may go on in."""
    hurt: set[int] = field(default_factory=set)
    """Files in which blocks were lost."""


@dataclass(slots=True)
class _Known:
    """Blocks by number, as the catalogue or a scan found them."""

    rows: dict[int, tuple[Held, int]] = field(default_factory=dict)
    """With the place in `reps`."""
    reps: np.ndarray[tuple[int, int], np.dtype[np.uint8]] | None = None
    scanned: dict[int, tuple[Held, bytes]] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)

    def adopt(self, held: Held, reps: bytes) -> None:
        """A scanned block; of two with one number the later one counts (the former was lost when it came)."""
        number = held.header.key.number
        other = self.rows.get(number) or self.scanned.get(number)
        if other is not None and other[0].slot > held.slot:
            return
        self.rows.pop(number, None)
        self.scanned[number] = held, reps

    def lose(self, held: Held, reason: str) -> None:
        """A block of the catalogue that cannot be had."""
        del self.rows[held.header.key.number]
        number = held.header.key.number
        self.lost.append(Lost(number, number + 1, held.header.time, reason))


def recover(folder: StreamFolder, identity: Identity, *, durable: bool) -> Found:
    """Look at a locked directory. Raises OSError or sqlite3.Error when the disk does not let it."""
    headers, known, aside = Headers(identity), _Known(), list[Aside]()
    catalogue, about = _read_catalogue(folder, identity, headers, known, aside, durable=durable)
    try:
        found = Found(catalogue, aside=aside, floor=about.floor)
        before = set(known.rows)
        by_file: dict[int, list[Held]] = defaultdict(list)
        for held, _ in known.rows.values():
            by_file[held.slot.file].append(held)
        on_disk = folder.data_numbers()
        for number in sorted({*on_disk, *by_file}):
            _look_at_file(folder, number, by_file[number], identity, headers, known, found)
        found.next_file = max(about.next_file, *(n + 1 for n in (*on_disk, *by_file)), 1)
        _settle(found, known, about, before)
        _tidy(folder, found)
    except BaseException:
        catalogue.close()
        raise
    return found


def _read_catalogue(
    folder: StreamFolder,
    identity: Identity,
    headers: Headers,
    known: _Known,
    aside: list[Aside],
    *,
    durable: bool,
) -> tuple[Catalogue, About]:
    catalogue: Catalogue | None = None
    nothing = About(identity_hash(identity))
    try:
        catalogue = Catalogue.open(folder.catalogue, folder.files, durable=durable)
        about = catalogue.about()
        if about is None:
            return catalogue, nothing
        if about.identity_hash == nothing.identity_hash:
            _read_rows(catalogue, about, identity, headers, known)
            return catalogue, about
        reason = "the catalogue is of another model"
        for _, _, row, _ in catalogue.rows():
            number, time, _ = row_times(row)
            known.lost.append(Lost(number, number + 1, time, "the block is of another model"))
        known.lost += about.lost
    except (CatalogueDamaged, HeaderCorrupt) as error:
        known.rows.clear()
        known.reps = None
        reason = str(error)
    except BaseException:
        if catalogue is not None:
            catalogue.close()
        raise
    if catalogue is not None:
        catalogue.close()
    aside.append(folder.set_catalogue_aside(reason))
    try:
        return Catalogue.open(folder.catalogue, folder.files, durable=durable), nothing
    except CatalogueDamaged as error:
        raise sqlite3.OperationalError(f"a new catalogue cannot be made: {error}") from error


def _read_rows(
    catalogue: Catalogue, about: About, identity: Identity, headers: Headers, known: _Known
) -> None:
    reps_of = np.empty((about.blocks, identity.reps_bytes), np.uint8)
    for index, (number, file, row, reps) in enumerate(catalogue.rows()):
        if index == about.blocks:
            raise CatalogueDamaged("the catalogue has more rows than it should")
        held = headers.from_row(row, reps)
        if (held.header.key.number, held.slot.file) != (number, file):
            raise CatalogueDamaged("a row of the catalogue is of another block")
        reps_of[index] = np.frombuffer(reps, np.uint8)
        known.rows[number] = held, index
    if len(known.rows) != about.blocks:
        raise CatalogueDamaged("rows of the catalogue are missing")
    known.reps = reps_of


def _look_at_file(
    folder: StreamFolder,
    number: int,
    rows: list[Held],
    identity: Identity,
    headers: Headers,
    known: _Known,
    found: Found,
) -> None:
    path = folder.data(number)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        for held in rows:
            known.lose(held, "its data file is gone")
        return
    try:
        size = os.fstat(fd).st_size
        try:
            head = read_file_head(fd)
            if head.identity != identity:
                raise Incompatible("the file is of another model or stream")
            if head.number != number:
                raise Incompatible(f"the file says that its number is {head.number}")
        except (DataLost, Incompatible) as error:
            for held in rows:
                known.lose(held, str(error))
            if rows or size >= FILE_HEAD_BYTES:
                found.aside.append(folder.set_aside(path, str(error)))
            else:  # Its writer was stopped before the head was whole: nothing was ever in it.
                folder.files.unlink(path)
            return
        vouched = max((held.record_end for held in rows), default=FILE_HEAD_BYTES)
        cut = [held for held in rows if held.record_end > size]
        for held in cut:
            known.lose(held, "its data file is cut off")
        scan = scan_file(fd, number, vouched, identity, headers)
    finally:
        os.close(fd)
    for held, reps in scan.found:
        if held.header.key.number >= found.floor or held.header.key.number == 0:
            known.adopt(held, reps)
    known.lost += scan.lost
    if cut or scan.lost:
        found.hurt.add(number)
    file = DataFile(
        number, min(size, scan.end), head.sink, dirty=bool(scan.found), durable_size=min(vouched, size)
    )
    found.files[number] = file
    whole = not cut and not scan.holed and _cut_tail(folder, file, size, scan.end)
    found.growing = number if whole and not head.sink else None


def _cut_tail(folder: StreamFolder, file: DataFile, size: int, end: int) -> bool:
    """Cut off what lies behind the last whole record; False when the disk does not let us."""
    if size == end:
        return True
    try:
        fd = folder.files.open_to_write(folder.data(file.number))
        try:
            folder.files.truncate(fd, end)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _settle(found: Found, known: _Known, about: About, before: set[int]) -> None:
    """Bring together what the files said: blocks by number, losses, changes to the catalogue."""
    numbers = sorted((*known.rows, *known.scanned))
    numbers = [number for number in numbers if number >= about.floor or number == 0]
    scanned = known.scanned
    found.held = [scanned[n][0] if n in scanned else known.rows[n][0] for n in numbers]
    found.representatives = _representatives(numbers, known)
    found.added = [
        (n, scanned[n][0].slot.file, encode_row(scanned[n][0]), scanned[n][1])
        for n in numbers
        if n in scanned
    ]
    kept = {n for n in numbers if n not in scanned}
    found.removed = ranges_of(before - kept)
    held = NumberSet((n, n + 1) for n in numbers)
    lost = settle((*about.lost, *known.lost), held, about.floor)
    end = max(held.end, *(item.end for item in lost), 0)
    found.lost = settle((*lost, *unknown(lost, held, about.floor, end)), held, about.floor)
    for item in sorted(found.held, key=lambda item: item.slot):
        found.files[item.slot.file].add(item)


def _representatives(numbers: list[int], known: _Known) -> Tensor:
    """Of all blocks, one tensor of bytes in number order; as the catalogue was read if nothing changed."""
    if known.reps is not None and not known.scanned and len(numbers) == len(known.reps):
        return torch.from_numpy(known.reps)
    width = known.reps.shape[1] if known.reps is not None else 0
    if known.scanned:
        width = len(next(iter(known.scanned.values()))[1])
    table = np.empty((len(numbers), width), np.uint8)
    for place, number in enumerate(numbers):
        if number in known.scanned:
            table[place] = np.frombuffer(known.scanned[number][1], np.uint8)
        else:
            assert known.reps is not None
            table[place] = known.reps[known.rows[number][1]]
    return torch.from_numpy(table)


def _tidy(folder: StreamFolder, found: Found) -> None:
    """Files without a block that is held: away, or aside when blocks were lost in them."""
    for number, file in list(found.files.items()):
        if file.numbers or number == found.growing:
            continue
        del found.files[number]
        if number in found.hurt:
            found.aside.append(folder.set_aside(folder.data(number), "no block of it can be read"))
        else:
            folder.files.unlink(folder.data(number))
