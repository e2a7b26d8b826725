"""Random lives of a disk store, ended by a stop, a kill, a full or broken disk, or damage; then reopened.

What must hold, always: a block that is read is bit for bit what was written under its number; every number up
to the durable one is held or reported missing; every error is a typed one. And without damage: every number
that was ever called durable can be read, unless it was dropped on purpose.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from bench._disk_faults import STOPS, Fault, FaultyFiles, Stopped, damage, lose_power
from kv_transfer.block import Block, seal_block
from reasoner_svc.store.disk.errors import DiskFull, SyncFailed
from reasoner_svc.store.disk.files import Files
from reasoner_svc.store.disk.slots import Fsync, FsyncPolicy
from reasoner_svc.store.disk.store import DiskStore, Recovered
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, KVLayout
from tandem.core.errors import TandemError
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange

FINGERPRINT = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=8, dtype="float32")
STREAM = StreamId("cam")
FILE_BYTES = 5000
KINDS = ("stop", "stop", "refuse", "damage", "damage", "foreign", "kill")


@dataclass(slots=True)
class Counts:
    """What came of some cases."""

    cases: int = 0
    wrong: int = 0
    """Blocks read that are not what was written, numbers unaccounted for, errors without a type."""
    lost_durable: int = 0
    """Blocks that were called durable and could not be read though nothing was damaged."""
    missing: int = 0
    """Numbers reported missing, or refused when they were read."""
    readable: int = 0
    failures: list[str] = field(default_factory=list)
    """Seed, kind and reason of whatever was wrong."""


@dataclass(slots=True)
class _Truth:
    """What a reader may find."""

    allowed: dict[int, set[bytes]] = field(default_factory=dict)
    """Payload and representatives, by number."""
    durable: int = -1
    """Highest number that the store called durable."""
    gone: set[int] = field(default_factory=set)
    """Dropped or given up on purpose, or by an error that says so."""
    floor: int = 0


def run_cases(n: int, seed: int) -> Counts:
    """`n` cases, each from its own seed."""
    counts = Counts()
    for index in range(n):
        run_case(seed * 1_000_003 + index, counts)
    return counts


def run_case(seed: int, counts: Counts, kind: str | None = None) -> None:
    """One life and what is found of it."""
    random = Random(seed)
    kind = kind or random.choice(KINDS)
    counts.cases += 1
    with tempfile.TemporaryDirectory(prefix="tandem-disk-") as folder:
        try:
            _CASES[kind](Path(folder), random, counts)
        except (Exception, Stopped):
            counts.wrong += 1
            counts.failures.append(f"seed {seed} ({kind}): {traceback.format_exc()}")


def make_block(number: int, random: Random, fingerprint: str = FINGERPRINT) -> tuple[Block, torch.Tensor]:
    """A block of random bytes and random representatives."""
    tokens = random.choice((1, 4, 4, 4, 7))
    header = BlockHeader(
        key=BlockKey(STREAM, number),
        kind=BlockKind.VISUAL if number else BlockKind.SINK,
        geometry=BlockGeometry(text_before=tokens, grid_t=0, grid_h=0, grid_w=0, text_after=0),
        layout=LAYOUT,
        fingerprint=fingerprint,
        time=TimeRange(max(0, number - 1), number),
        layer_checksums=(0,) * LAYOUT.layers,
    )
    payload = torch.frombuffer(bytearray(random.randbytes(header.payload_bytes)), dtype=torch.uint8)
    reps = torch.tensor([random.random() for _ in range(16)], dtype=torch.float32).view(2, 8)
    return seal_block(header, payload), reps


def _bytes_of(block: Block, reps: torch.Tensor) -> bytes:
    return block.payload.numpy().tobytes() + reps.numpy().tobytes()


def _store(root: Path, files: Files | None = None, mode: Fsync = Fsync.NEVER, **options: object) -> DiskStore:
    settings = {"fingerprint": FINGERPRINT, "layout": LAYOUT, "budget_bytes": 1 << 30, **options}
    return DiskStore(root, file_bytes=FILE_BYTES, fsync=FsyncPolicy(mode), files=files, **settings)  # type: ignore[arg-type]


def _live(store: DiskStore, random: Random, truth: _Truth, steps: int) -> None:
    """A random life: typed errors are part of it."""
    following = 0
    with contextlib.suppress(TandemError):
        store.open(STREAM)
    for _ in range(steps):
        choice = random.random()
        try:
            if choice < 0.6:
                following = _append(store, random, truth, following)
            elif choice < 0.85:
                truth.durable = max(truth.durable, store.sync(STREAM))
            elif choice < 0.90 and following > 4:
                truth.floor = max(truth.floor, following - 4)
                store.drop_before(STREAM, truth.floor)
            elif choice < 0.93:
                first = random.randrange(following + 1)
                truth.gone.add(first)
                store.give_up(STREAM, first, first + 1, "given up")
            else:
                store.close(STREAM)
                store.open(STREAM)
        except SyncFailed as error:
            truth.gone |= set(error.forgotten)
        except TandemError:
            with contextlib.suppress(TandemError):
                store.open(STREAM)


def _append(store: DiskStore, random: Random, truth: _Truth, following: int) -> int:
    numbers = list(range(following, following + random.randint(1, 4)))
    if random.random() < 0.2 and truth.gone:
        numbers = [number for number in sorted(truth.gone)[:1] if number >= truth.floor or number == 0]
    items = [make_block(number, random) for number in numbers]
    before = {number: truth.allowed.get(number, set()) for number in numbers}
    for number, item in zip(numbers, items, strict=True):
        truth.allowed[number] = before[number] | {_bytes_of(*item)}
    stored = 0
    try:
        stored = len(store.append(STREAM, items))
    except DiskFull as error:
        stored = len(error.stored)
    except SyncFailed as error:
        truth.gone |= set(error.forgotten)
        stored = len(items)
    except TandemError:
        stored = 0
    for place, (number, item) in enumerate(zip(numbers, items, strict=True)):
        # What was stored before may come back: its replacement, or the news of it, may not be durable yet.
        truth.allowed[number] = before[number] | ({_bytes_of(*item)} if place < stored else set())
        if place >= stored:
            truth.gone.add(number)
    return max(following, numbers[-1] + 1) if numbers else following


def _stop(folder: Path, random: Random, counts: Counts) -> None:
    """The process ends at the n-th system call, with or without the machine."""
    truth, root, copy = _Truth(), folder / "root", folder / "copy"
    root.mkdir()
    mode = random.choice((Fsync.ALWAYS, Fsync.INTERVAL, Fsync.NEVER))
    files = FaultyFiles(random.choice(STOPS), random.randint(1, 60), 1, root, copy, random)
    store: DiskStore | None = None
    try:
        store = _store(root, files, mode)
        _live(store, random, truth, 40)
        files.stop()
    except Stopped:
        files.at = 0
    if store is not None:
        store.close_all(sync=False)
    if mode is not Fsync.NEVER and random.random() < 0.5:
        lose_power(copy, files.synced, random)
    _check(copy, truth, counts, random, harmed=False)


def _refuse(folder: Path, random: Random, counts: Counts) -> None:
    """The disk refuses some calls, then works again; the store goes on, and is killed at the end."""
    truth, root, copy = _Truth(), folder / "root", folder / "copy"
    root.mkdir()
    fault = random.choice((Fault.FULL, Fault.BROKEN, Fault.SHORT))
    mode = random.choice(list(Fsync))
    files = FaultyFiles(fault, random.randint(2, 60), random.choice((1, 1, 3, 10)), root, copy, random)
    store = _store(root, files, mode)
    _live(store, random, truth, 40)
    shutil.copytree(root, copy)
    store.close_all(sync=False)
    _check(copy, truth, counts, random, harmed=False)


def _damage(folder: Path, random: Random, counts: Counts) -> None:
    truth, root, copy = _Truth(), folder / "root", folder / "copy"
    store = _store(root)
    _live(store, random, truth, 30)
    if random.random() < 0.5:
        store.close_all()
    shutil.copytree(root, copy)
    store.close_all(sync=False)
    damage(copy, random)
    _check(copy, truth, counts, random, harmed=True)


def _foreign(folder: Path, random: Random, counts: Counts) -> None:
    """The files are of another model or of another version of the layout."""
    truth, root = _Truth(), folder / "root"
    if random.random() < 0.5:
        store = _store(root, fingerprint=OTHER)
        store.open(STREAM)
        store.append(STREAM, [make_block(number, random, OTHER) for number in range(6)])
        store.close_all()
    else:
        store = _store(root)
        _live(store, random, truth, 20)
        store.close_all()
        for path in random.sample(found := sorted(root.rglob("*.tkv")), min(len(found), 2)):
            with path.open("r+b") as file:
                file.seek(4)
                file.write(b"\0" if random.random() < 0.5 else b"\7")
    _check(root, truth, counts, random, harmed=True)


def _kill(folder: Path, random: Random, counts: Counts) -> None:
    """A real process is killed at a random moment."""
    truth, root = _Truth(), folder / "root"
    seed, receiving, sending = random.random(), *os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receiving)
            _write_until_killed(root, seed, sending)
        finally:
            os._exit(1)
    os.close(sending)
    with os.fdopen(receiving, "rb") as told:
        first = told.read(8)
        time.sleep(random.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        words = first + told.read()
    whole = words[: len(words) // 8 * 8]
    truth.durable = int.from_bytes(whole[-8:], "little", signed=True) if whole else -1
    again = Random(seed)
    truth.allowed = {number: {_bytes_of(*make_block(number, again))} for number in range(2000)}
    _check(root, truth, counts, random, harmed=False)


def _write_until_killed(root: Path, seed: float, sending: int) -> None:
    random = Random(seed)
    store = _store(root, mode=Fsync.INTERVAL)
    store.open(STREAM)
    for number in range(0, 2000, 2):
        store.append(STREAM, [make_block(number, random), make_block(number + 1, random)])
        os.write(sending, store.sync(STREAM).to_bytes(8, "little", signed=True))


def _check(root: Path, truth: _Truth, counts: Counts, random: Random, *, harmed: bool) -> None:
    """Take the directory up, read everything, go on writing, and take it up once more."""
    held: list[int] = []
    for turn in range(2):
        store = _store(root)
        found = store.open(STREAM)
        good = _check_found(store, found, truth, counts if turn == 0 else Counts())
        if turn == 0:
            durable = range(max(truth.floor, 0), truth.durable + 1)
            lost = [n for n in durable if n not in good and n not in truth.gone]
            if lost and not harmed:
                counts.lost_durable += len(lost)
                raise AssertionError(f"durable blocks {lost} are lost; missing: {found.missing}")
        else:
            assert set(held) <= set(good), f"{held} became {good} without harm"
        following = max((*truth.allowed, found.durable, *(item.end for item in found.missing)), default=0) + 1
        item = make_block(following, random)
        store.append(STREAM, [item])
        truth.allowed[following] = {_bytes_of(*item)}
        store.sync(STREAM)
        held = [*good, following]
        store.close_all()


def _check_found(store: DiskStore, found: Recovered, truth: _Truth, counts: Counts) -> list[int]:
    numbers = [header.key.number for header in found.headers]
    assert numbers == sorted(set(numbers)), numbers
    missing = {number for item in found.missing for number in range(item.first, item.end)}
    assert not missing & set(numbers), "held and missing"
    dropped = set(range(1, truth.floor))
    unknown = set(range(found.durable + 1)) - set(numbers) - missing - dropped
    assert not unknown, f"nothing is said of {sorted(unknown)}"
    good = []
    wants = list(zip(found.slots, found.headers, strict=True))
    layers = [store.read_layer_many(wants, layer) for layer in range(LAYOUT.layers)]
    for place, (number, (slot, header)) in enumerate(zip(numbers, wants, strict=True)):
        try:
            payload = store.read(slot, header).numpy().tobytes()
        except TandemError:
            counts.missing += 1
            continue
        parts = [layer[place] for layer in layers]
        assert all(isinstance(part, torch.Tensor) for part in parts), parts
        apart = b"".join(part.numpy().tobytes() for part in parts if isinstance(part, torch.Tensor))
        if (
            apart != payload
            or payload + found.representatives[place].numpy().tobytes() not in truth.allowed[number]
        ):
            raise AssertionError(f"block {number} is not what was written")
        counts.readable += 1
        good.append(number)
    counts.missing += len(missing)
    return good


_CASES = {"stop": _stop, "refuse": _refuse, "damage": _damage, "foreign": _foreign, "kill": _kill}
