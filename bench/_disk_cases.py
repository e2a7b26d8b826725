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
from pathlib import Path
from random import Random

from bench._disk_faults import STOPS, Fault, FaultyFiles, Stopped, damage, lose_power
from bench._disk_truth import OTHER, STREAM, Counts, Truth, bytes_of, check, make_block, make_store
from reasoner_svc.store.disk.errors import DiskFull, SyncFailed
from reasoner_svc.store.disk.slots import Fsync
from reasoner_svc.store.disk.store import DiskStore
from tandem.core.errors import TandemError

KINDS = ("stop", "stop", "refuse", "damage", "damage", "foreign", "kill")


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


def _live(store: DiskStore, random: Random, truth: Truth, steps: int) -> None:
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


def _append(store: DiskStore, random: Random, truth: Truth, following: int) -> int:
    numbers = list(range(following, following + random.randint(1, 4)))
    if random.random() < 0.2 and truth.gone:
        numbers = [number for number in sorted(truth.gone)[:1] if number >= truth.floor or number == 0]
    items = [make_block(number, random) for number in numbers]
    before = {number: truth.allowed.get(number, set()) for number in numbers}
    for number, item in zip(numbers, items, strict=True):
        truth.allowed[number] = before[number] | {bytes_of(*item)}
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
        truth.allowed[number] = before[number] | ({bytes_of(*item)} if place < stored else set())
        if place >= stored:
            truth.gone.add(number)
    return max(following, numbers[-1] + 1) if numbers else following


def _stop(folder: Path, random: Random, counts: Counts) -> None:
    """The process ends at the n-th system call, with or without the machine."""
    truth, root, copy = Truth(), folder / "root", folder / "copy"
    root.mkdir()
    mode = random.choice((Fsync.ALWAYS, Fsync.INTERVAL, Fsync.NEVER))
    files = FaultyFiles(random.choice(STOPS), random.randint(1, 60), 1, root, copy, random)
    store: DiskStore | None = None
    try:
        store = make_store(root, files, mode)
        _live(store, random, truth, 40)
        files.stop()
    except Stopped:
        files.at = 0
    if store is not None:
        store.close_all(sync=False)
    if mode is not Fsync.NEVER and random.random() < 0.5:
        lose_power(copy, files, random)
    check(copy, truth, counts, random, harmed=False)


def _refuse(folder: Path, random: Random, counts: Counts) -> None:
    """The disk refuses some calls, then works again; the store goes on, and is killed at the end."""
    truth, root, copy = Truth(), folder / "root", folder / "copy"
    root.mkdir()
    fault = random.choice((Fault.FULL, Fault.BROKEN, Fault.SHORT))
    mode = random.choice(list(Fsync))
    files = FaultyFiles(fault, random.randint(2, 60), random.choice((1, 1, 3, 10)), root, copy, random)
    store = make_store(root, files, mode)
    _live(store, random, truth, 40)
    shutil.copytree(root, copy)
    store.close_all(sync=False)
    check(copy, truth, counts, random, harmed=False)


def _damage(folder: Path, random: Random, counts: Counts) -> None:
    truth, root, copy = Truth(), folder / "root", folder / "copy"
    store = make_store(root)
    _live(store, random, truth, 30)
    if random.random() < 0.5:
        store.close_all()
    shutil.copytree(root, copy)
    store.close_all(sync=False)
    damage(copy, random)
    check(copy, truth, counts, random, harmed=True)


def _foreign(folder: Path, random: Random, counts: Counts) -> None:
    """The files are of another model or of another version of the layout."""
    truth, root = Truth(), folder / "root"
    if random.random() < 0.5:
        store = make_store(root, fingerprint=OTHER)
        store.open(STREAM)
        store.append(STREAM, [make_block(number, random, OTHER) for number in range(6)])
        store.close_all()
    else:
        store = make_store(root)
        _live(store, random, truth, 20)
        store.close_all()
        for path in random.sample(found := sorted(root.rglob("*.tkv")), min(len(found), 2)):
            with path.open("r+b") as file:
                file.seek(4)
                file.write(b"\0" if random.random() < 0.5 else b"\7")
    check(root, truth, counts, random, harmed=True)


def _kill(folder: Path, random: Random, counts: Counts) -> None:
    """A real process is killed at a random moment."""
    truth, root = Truth(), folder / "root"
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
    truth.allowed = {number: {bytes_of(*make_block(number, again))} for number in range(2000)}
    check(root, truth, counts, random, harmed=False)


def _write_until_killed(root: Path, seed: float, sending: int) -> None:
    random = Random(seed)
    store = make_store(root, mode=Fsync.INTERVAL)
    store.open(STREAM)
    for number in range(0, 2000, 2):
        store.append(STREAM, [make_block(number, random), make_block(number + 1, random)])
        os.write(sending, store.sync(STREAM).to_bytes(8, "little", signed=True))


_CASES = {"stop": _stop, "refuse": _refuse, "damage": _damage, "foreign": _foreign, "kill": _kill}
