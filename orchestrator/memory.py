"""Pure but for argparse. How the services of `tandem up` write, keep and recall blocks: options, checks, and
the command line that hands them on. What they mean in full: `docs/storage.md`, `docs/retrieval.md`.

All reasoners get the same `--data-dir`. A stream's directory is locked while a process has it open, and any
reasoner of the same model can take it up, so a stream whose reasoner is lost goes on at another one with
everything that is on disk. Folders of their own would leave it behind.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from tandem.core.blocks import Codec
from tandem.core.choices import EVICTION, OTHER_RETRIEVAL, RETRIEVAL

MIB = 1024 * 1024
MIN_DISK_BYTES = MIN_POOL_BYTES = 65_536
"""Less holds not even a few blocks of the smallest model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Settings of every reasoner that is started here."""

    ram_bytes: int = 2048 * MIB
    eviction: str = ""
    """Empty: the reasoner's own choice."""
    data_dir: str = ""
    """Absolute; empty: no disk tier."""
    disk_bytes: int = 100 * 1024 * MIB
    """Of the whole data folder, whoever wrote it."""
    stream_disk_bytes: int = 0
    """0: no quota."""
    keep_hours: float = 0.0
    """0: only the budget counts."""
    fsync_seconds: float = 1.0
    """0: at once; negative: when the system likes."""
    view_tokens: int = 0
    """0: what the model was made for."""
    notes_tokens: int = -1
    """0: no stream can be watched."""
    retrieval: str = "rekv"
    other_retrieval: tuple[str, ...] = OTHER_RETRIEVAL
    retrieve_blocks: int = -1
    """0: none; -1: what the model was made for."""
    pool_bytes: int = 64 * MIB
    block_codec: str = Codec.RAW.value
    """How the encoders write blocks, and so how all tiers hold them."""
    embedder: str = "auto"
    """Given to the encoders too: both must embed into the same space."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, with their defaults."""
    add, own = parser.add_argument_group("memory of the reasoners").add_argument, Memory()
    add("--ram-bytes", type=int, default=own.ram_bytes, help="of each reasoner's blocks (%(default)s)")
    add("--eviction", default=own.eviction, metavar="NAME", help=f"who leaves RAM first: {_list(EVICTION)}")
    add(
        "--data-dir",
        default=own.data_dir,
        metavar="DIR",
        help="folder for blocks on disk, shared by the reasoners; without it what leaves RAM is lost",
    )
    add("--disk-bytes", type=int, default=own.disk_bytes, help="budget of that folder (%(default)s)")
    add("--stream-disk-bytes", type=int, default=0, help="quota of one stream on disk; 0: none (%(default)s)")
    add(
        "--keep-hours",
        type=float,
        default=own.keep_hours,
        help="delete older blocks from disk; 0: only when it is full (%(default)s)",
    )
    add(
        "--fsync-seconds",
        type=float,
        default=own.fsync_seconds,
        help="longest time until blocks are on stable storage; 0: at once, negative: never (%(default)s)",
    )
    add("--view-tokens", type=int, default=0, help="newest video tokens in view; 0: the model's own")
    add(
        "--notes-tokens",
        type=int,
        default=own.notes_tokens,
        help="most tokens of a watcher's notes in view; 0: no stream can be watched, -1: the model's own "
        "(%(default)s)",
    )
    add("--retrieval", default=own.retrieval, metavar="NAME", help=f"{_list(RETRIEVAL)} (%(default)s)")
    add(
        "--other-retrieval",
        default=",".join(own.other_retrieval),
        metavar="NAMES",
        help="more that questions may name, with commas between (%(default)s)",
    )
    add(
        "--retrieve-blocks",
        type=int,
        default=own.retrieve_blocks,
        help="most older blocks that come back into view; 0: none, -1: the model's own (%(default)s)",
    )
    add("--pool-bytes", type=int, default=own.pool_bytes, help="device memory for them (%(default)s)")
    add(
        "--block-codec",
        default=own.block_codec,
        metavar="NAME",
        help=f"how blocks are written on the wire and in all tiers: {', '.join(Codec)} (%(default)s)",
    )
    add(
        "--embedder",
        default=own.embedder,
        help="embeds pictures and questions for external retrieval: auto, pooled, off, or a SigLIP or CLIP "
        "checkpoint (%(default)s)",
    )


def from_arguments(args: argparse.Namespace) -> Memory:
    """What was parsed; not checked yet."""
    return Memory(
        ram_bytes=args.ram_bytes,
        eviction=args.eviction,
        data_dir=str(Path(args.data_dir).expanduser().absolute()) if args.data_dir else "",
        disk_bytes=args.disk_bytes,
        stream_disk_bytes=args.stream_disk_bytes,
        keep_hours=args.keep_hours,
        fsync_seconds=args.fsync_seconds,
        view_tokens=args.view_tokens,
        notes_tokens=args.notes_tokens,
        retrieval=args.retrieval,
        other_retrieval=tuple(name for name in args.other_retrieval.split(",") if name),
        retrieve_blocks=args.retrieve_blocks,
        pool_bytes=args.pool_bytes,
        block_codec=args.block_codec,
        embedder=args.embedder,
    )


def problems(memory: Memory) -> list[str]:
    """What is wrong, each with the option's name and what to do; looks at `data_dir`."""
    least = {
        "--ram-bytes": (memory.ram_bytes, MIB),
        "--disk-bytes": (memory.disk_bytes, MIN_DISK_BYTES),
        "--stream-disk-bytes": (memory.stream_disk_bytes, 0),
        "--view-tokens": (memory.view_tokens, 0),
        "--notes-tokens": (memory.notes_tokens, -1),
        "--retrieve-blocks": (memory.retrieve_blocks, -1),
        "--pool-bytes": (memory.pool_bytes, MIN_POOL_BYTES),
    }
    found = [
        f"{option} is {value}: give at least {minimum}"
        for option, (value, minimum) in least.items()
        if value < minimum
    ]
    if not (math.isfinite(memory.keep_hours) and memory.keep_hours >= 0):
        found.append(f"--keep-hours is {memory.keep_hours}: give hours, or 0 to keep until the disk is full")
    if not math.isfinite(memory.fsync_seconds):
        found.append(f"--fsync-seconds is {memory.fsync_seconds}: give seconds, 0 or -1")
    if memory.eviction and memory.eviction not in EVICTION:
        found.append(f"--eviction {memory.eviction!r} is not known: give one of {_list(EVICTION)}")
    if memory.retrieval not in RETRIEVAL:
        found.append(f"--retrieval {memory.retrieval!r} is not known: give one of {_list(RETRIEVAL)}")
    unknown = [name for name in memory.other_retrieval if name not in RETRIEVAL]
    if unknown:
        found.append(f"--other-retrieval {_list(unknown)}: not known, give some of {_list(RETRIEVAL)}")
    if Codec.named(memory.block_codec) is None:
        found.append(f"--block-codec {memory.block_codec!r} is not known: give one of {', '.join(Codec)}")
    if memory.embedder == "off" and "external" in (memory.retrieval, *memory.other_retrieval):
        found.append("external retrieval needs an embedder: leave --embedder off out, or external")
    return found + _disk_problems(memory)


def flags(memory: Memory) -> list[str]:
    """The options of a reasoner, as `python -m reasoner_svc` takes them."""
    values = {
        "--ram-bytes": memory.ram_bytes,
        "--eviction": memory.eviction,
        "--data-dir": memory.data_dir,
        "--disk-bytes": memory.disk_bytes,
        "--stream-disk-bytes": memory.stream_disk_bytes,
        "--keep-hours": memory.keep_hours,
        "--fsync-seconds": memory.fsync_seconds,
        "--view-tokens": memory.view_tokens,
        "--notes-tokens": memory.notes_tokens,
        "--retrieval": memory.retrieval,
        "--other-retrieval": ",".join(memory.other_retrieval),
        "--retrieve-blocks": memory.retrieve_blocks,
        "--pool-bytes": memory.pool_bytes,
        "--embedder": memory.embedder,
    }
    # With "=": a value may begin with a minus.
    return [f"{option}={value}" for option, value in values.items()]


def _disk_problems(memory: Memory) -> list[str]:
    if not memory.data_dir:
        own = Memory()
        given = {
            "--disk-bytes": memory.disk_bytes != own.disk_bytes,
            "--stream-disk-bytes": memory.stream_disk_bytes != own.stream_disk_bytes,
            "--keep-hours": memory.keep_hours != own.keep_hours,
            "--fsync-seconds": memory.fsync_seconds != own.fsync_seconds,
        }
        return [f"{option} is about blocks on disk: give --data-dir too" for option in given if given[option]]
    path = Path(memory.data_dir)
    nearest = next((place for place in (path, *path.parents) if place.exists()), path)
    if not nearest.is_dir():
        return [f"--data-dir {path}: {nearest} is not a folder, give another"]
    return []


def _list(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names)
