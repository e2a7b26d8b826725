"""The disk tier beside plain files: write and verified read of blocks, cold and warm, and wrong answers.

``write_<size>``: a turn appends all blocks to one open stream and commits the catalogue, next to one plain
file per block, written under a temporary name and renamed. Nothing is synced inside the timed part, on either
side. A block comes with the checksums of its layers, as from an encoder; ``write_<size>_verified`` also
computes all of them anew and compares, in the timed part. ``write_<size>_fsync`` does not; there both sides
bring every batch to stable storage at its end (ours: data, then catalogue; theirs: each file before its
renaming, then the directory).

``read_warm_<size>``, ``read_cold_<size>``: all blocks in the same shuffled order, ours verified layer by
layer, next to open, readinto and close of the plain files; both read into one buffer that is used again.
Cold: everything was synced and dropped from the page cache before each turn.

``wrong_answers``: of that many random cases of `bench/_disk_cases.py`; ``lost_durable`` counts blocks that
were called durable and could not be read though nothing was damaged. Both must be 0.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench._disk_cases import run_cases
from kv_transfer.block import Block, seal_block, verify_block
from reasoner_svc.store.disk.slots import DiskSlot, Fsync, FsyncPolicy
from reasoner_svc.store.disk.store import DiskStore
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, KVLayout
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange

KIB, MIB = 1024, 1024 * 1024
LAYOUT = KVLayout(layers=4, kv_heads=2, head_dim=64, dtype="bfloat16")
FINGERPRINT = "0" * 32
SEED = 20
CASES, CASES_QUICK = 1000, 50
SETTINGS = {
    "layers": LAYOUT.layers,
    "checksums": "xxh3-64 per layer: given with a block that is written, computed on reading",
    "fsync": "none in the timed part, except in the rows named _fsync: at the end of each batch, both sides",
    "folder": tempfile.gettempdir(),
}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Size:
    name: str
    block_bytes: int
    blocks: int
    batch: int


SIZES = (
    _Size("64KiB", 64 * KIB, 512, 16),
    _Size("1MiB", MIB, 64, 4),
    _Size("16MiB", 16 * MIB, 8, 1),
)


def run(*, quick: bool = False) -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        for size in SIZES:
            bench = _Bench(Path(folder), size)
            rows += bench.rows(3 if quick else 15)
    counts = run_cases(CASES_QUICK if quick else CASES, SEED)
    if counts.failures:
        print("\n".join(counts.failures[:3]))
    for metric, value in (("wrong_answers", counts.wrong), ("lost_durable", counts.lost_durable)):
        rows.append(
            {"metric": metric, "value": value, "unit": "blocks", "baseline": None, "ratio": None}
            | {"n": counts.cases, "spread": None}
        )
    return rows


class _Bench:
    """One size of blocks, on both sides."""

    def __init__(self, folder: Path, size: _Size) -> None:
        self.size = size
        self.plain = folder / f"plain-{size.name}"
        self.plain.mkdir()
        self.stores = {
            mode: DiskStore(
                folder / f"ours-{size.name}-{mode.value}",
                fingerprint=FINGERPRINT,
                layout=LAYOUT,
                budget_bytes=1 << 40,
                fsync=FsyncPolicy(mode),
            )
            for mode in (Fsync.NEVER, Fsync.INTERVAL)
        }
        self.blocks = [_block(number, size.block_bytes) for number in range(1, size.blocks + 1)]
        self.reps = torch.randn(LAYOUT.layers, LAYOUT.kv_heads * LAYOUT.head_dim)
        self.out = torch.zeros(size.block_bytes, dtype=torch.uint8)
        self.slots: list[DiskSlot] = []

    def rows(self, turns: int) -> list[Row]:
        """All rows of this size; the two sides take turns, and so does who goes first."""
        name, few = self.size.name, max(3, turns // 3)
        rows = [
            self._compare(f"write_{name}", turns, self._write, self._write_plain, self._begin),
            self._compare(
                f"write_{name}_verified",
                turns,
                lambda: self._write(verify=True),
                self._write_plain,
                self._begin,
            ),
            self._compare(
                f"write_{name}_fsync",
                few,
                lambda: self._write(Fsync.INTERVAL),
                lambda: self._write_plain(fsync=True),
                self._begin,
            ),
        ]
        self._begin()
        self._write()
        self._write_plain()
        order = list(range(self.size.blocks))
        random.Random(SEED).shuffle(order)
        for heat, prepare in (("cold", self._chill), ("warm", lambda: None)):
            rows.append(
                self._compare(
                    f"read_{heat}_{name}",
                    turns,
                    lambda: self._read(order),
                    lambda: self._read_plain(order),
                    prepare,
                )
            )
        self._clear()
        return rows

    def _compare(
        self,
        metric: str,
        turns: int,
        ours: Callable[[], None],
        theirs: Callable[[], None],
        prepare: Callable[[], None],
    ) -> Row:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(turns + 1):
            for mine in (True, False) if turn % 2 else (False, True):
                prepare()
                took_s = _seconds(ours if mine else theirs)
                if turn:  # The first turn warms up.
                    seconds[mine].append(took_s)
        total = self.size.block_bytes * self.size.blocks / 1e9
        rates, plain = [total / s for s in seconds[True]], [total / s for s in seconds[False]]
        middle, baseline = statistics.median(rates), statistics.median(plain)
        # Of the turns' own ratios: both sides of a turn met the same neighbours on the machine.
        ratio = statistics.median(our / their for our, their in zip(rates, plain, strict=True))
        return {
            "metric": metric,
            "value": round(middle, 3),
            "unit": "GB/s",
            "baseline": round(baseline, 3),
            "ratio": round(ratio, 3),
            "n": turns,
            "spread": round((max(rates) - min(rates)) / middle, 3),
        }

    def _write(self, mode: Fsync = Fsync.NEVER, *, verify: bool = False) -> None:
        store = self.stores[mode]
        self.slots = []
        for batch in _batches(self.blocks, self.size.batch):
            if verify:
                for block in batch:
                    verify_block(block)
            self.slots += store.append(STREAM, [(block, self.reps) for block in batch])
            if mode is not Fsync.NEVER:
                store.sync(STREAM)
        store.sync(STREAM)

    def _write_plain(self, *, fsync: bool = False) -> None:
        for batch in _batches(self.blocks, self.size.batch):
            for block in batch:
                path = self.plain / f"{block.key.number}.kv"
                spare = path.with_suffix(".part")
                with spare.open("wb", buffering=0) as file:
                    file.write(block.payload.numpy().data)
                    if fsync:
                        os.fsync(file.fileno())
                spare.rename(path)
            if fsync:
                fd = os.open(self.plain, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)

    def _read(self, order: Sequence[int]) -> None:
        store = self.stores[Fsync.NEVER]
        for place in order:
            store.read(self.slots[place], self.blocks[place].header, out=self.out)

    def _read_plain(self, order: Sequence[int]) -> None:
        buffer = self.out.numpy().data
        for place in order:
            with (self.plain / f"{place + 1}.kv").open("rb", buffering=0) as file:
                assert file.readinto(buffer) == len(buffer)

    def _files(self) -> list[Path]:
        return [path for path in self.plain.parent.rglob("*") if path.suffix in (".kv", ".tkv")]

    def _clear(self) -> None:
        """An empty disk that is at rest."""
        for store in self.stores.values():
            for stream in store.streams():
                store.delete(stream)
        for path in self.plain.iterdir():
            path.unlink()
        os.sync()

    def _begin(self) -> None:
        """An empty stream, open."""
        self._clear()
        for store in self.stores.values():
            store.open(STREAM)
        os.sync()

    def _chill(self) -> None:
        """Nothing in the page cache."""
        for path in self._files():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


STREAM = StreamId("bench")


def _block(number: int, block_bytes: int) -> Block:
    tokens = block_bytes // LAYOUT.block_bytes(1)
    header = BlockHeader(
        key=BlockKey(STREAM, number),
        kind=BlockKind.VISUAL,
        geometry=BlockGeometry(text_before=tokens, grid_t=0, grid_h=0, grid_w=0, text_after=0),
        layout=LAYOUT,
        fingerprint=FINGERPRINT,
        time=TimeRange(number, number + 1),
        layer_checksums=(0,) * LAYOUT.layers,
    )
    generator = torch.Generator().manual_seed(number)
    return seal_block(header, torch.randint(0, 256, (block_bytes,), dtype=torch.uint8, generator=generator))


def _batches(blocks: Sequence[Block], length: int) -> list[Sequence[Block]]:
    return [blocks[start : start + length] for start in range(0, len(blocks), length)]


def _seconds(work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
