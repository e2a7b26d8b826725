"""What a disk store holds in a random case, and whether what is found of it agrees."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from kv_transfer.block import Block, seal_block
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
class Truth:
    """What a reader may find."""

    allowed: dict[int, set[bytes]] = field(default_factory=dict)
    """Payload and representatives, by number."""
    durable: int = -1
    """Highest number that the store called durable."""
    gone: set[int] = field(default_factory=set)
    """Dropped or given up on purpose, or by an error that says so."""
    floor: int = 0


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


def bytes_of(block: Block, reps: torch.Tensor) -> bytes:
    """What is compared: payload and representatives."""
    return block.payload.numpy().tobytes() + reps.numpy().tobytes()


def make_store(
    root: Path, files: Files | None = None, mode: Fsync = Fsync.NEVER, **options: object
) -> DiskStore:
    """A store of small files."""
    settings = {"fingerprint": FINGERPRINT, "layout": LAYOUT, "budget_bytes": 1 << 30, **options}
    return DiskStore(root, file_bytes=FILE_BYTES, fsync=FsyncPolicy(mode), files=files, **settings)  # type: ignore[arg-type]


def check(root: Path, truth: Truth, counts: Counts, random: Random, *, harmed: bool) -> None:
    """Take the directory up, read everything, go on writing, and take it up once more."""
    held: list[int] = []
    for turn in range(2):
        store = make_store(root)
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
        truth.allowed[following] = {bytes_of(*item)}
        store.sync(STREAM)
        held = [*good, following]
        store.close_all()


def _check_found(store: DiskStore, found: Recovered, truth: Truth, counts: Counts) -> list[int]:
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
