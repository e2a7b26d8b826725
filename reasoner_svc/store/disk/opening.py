"""Shell. Opens a stream's directory: lock, recover, bring the catalogue up to date."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reasoner_svc.store.disk.errors import DiskFull
from reasoner_svc.store.disk.folder import StreamFolder
from reasoner_svc.store.disk.losses import with_times
from reasoner_svc.store.disk.recovery import recover
from reasoner_svc.store.disk.slots import Aside, Claim, DiskSlot, Fsync, Identity, Lost, WriteSettings
from reasoner_svc.store.disk.stream import OpenStream
from tandem.core.blocks import BlockHeader, BlockKind
from tandem.core.errors import InvalidInput, TandemError, Unavailable
from tandem.core.timeline import TimeRange


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a directory holds of a stream; blocks by ascending number."""

    headers: list[BlockHeader]
    slots: list[DiskSlot]
    representatives: Tensor
    """float32, [blocks, layers, kv_heads * head_dim]."""
    durable: int
    """Every number up to this one is held or missing; -1: none."""
    missing: tuple[Lost, ...]
    aside: tuple[Aside, ...]

    @property
    def whole(self) -> TimeRange | None:
        """All that is known of, from its beginning to its end."""
        times = [header.time for header in self.headers if header.kind is BlockKind.VISUAL]
        times += [lost.time for lost in self.missing if lost.time is not None]
        return TimeRange(min(t.start_us for t in times), max(t.end_us for t in times)) if times else None


def take_up(
    folder: StreamFolder, identity: Identity, settings: WriteSettings, now_s: float, claim: Claim
) -> tuple[OpenStream, Recovered]:
    """The stream, open, with what was found of it. Raises StreamHeld, OSError, sqlite3.Error."""
    folder.lock(make=True)
    try:
        others = folder.claim(claim)
        found = recover(folder, identity, durable=settings.fsync.mode is not Fsync.NEVER)
        opened = OpenStream(folder, identity, found, settings)
    except BaseException:
        folder.unlock()
        raise
    try:
        opened.sync()
    except TandemError:  # A full disk: what was found is readable, and the next sync tries again.
        opened.changed(now_s)
    except BaseException:
        opened.close()
        raise
    headers = [held.header for held in found.held]
    reps = found.representatives.view(torch.float32) if headers else torch.empty(0)
    recovered = Recovered(
        headers=headers,
        slots=[held.slot for held in found.held],
        representatives=reps.view(len(headers), *identity.reps_shape),
        durable=opened.durable,
        missing=with_times(found.lost, headers),
        aside=(*others, *found.aside),
    )
    return opened, recovered


@contextlib.contextmanager
def as_disk_errors(root: Path) -> Iterator[None]:
    """What the system refuses, as errors of ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise DiskFull(f"a catalogue under {root} cannot be written: {error}") from error
    except OSError as error:
        raise Unavailable(f"the disk under {root} cannot be used: {error}") from error


def check_reps(header: BlockHeader, reps: Tensor, identity: Identity) -> None:
    """Raise InvalidInput unless these may be a block's representatives."""
    if reps.dtype != torch.float32 or tuple(reps.shape) != identity.reps_shape or reps.device.type != "cpu":
        raise InvalidInput(
            f"representatives of {header.key} are {reps.dtype} {tuple(reps.shape)} on {reps.device}, "
            f"expected float32 {identity.reps_shape} on the CPU"
        )
