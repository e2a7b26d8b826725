"""Two ends of a lane, or of a link, in one process: what the conformance tests are built from."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import torch

from kv_transfer.base import BlockSink, BlockSource, EpochGuard, LinkConfig, LocalEnd
from kv_transfer.lane_ends import MakeLane
from kv_transfer.lanes.base import Lane, LaneContext, LaneStore, WireFrame
from kv_transfer.lanes.make import make_lane
from kv_transfer.lanes.proof import open_proven
from kv_transfer.link import Link
from kv_transfer.loopback import loopback_channels
from kv_transfer.memory import DictStore
from tandem.core.blocks import KVLayout
from tandem.core.ids import Epoch
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.tickets import Ticket, sign_ticket
from tandem.core.transfer import Direction, LaneKind

SECRET = b"a secret of the cluster, 32 byte"
FINGERPRINT = "0" * 32
TIMEOUT_S = 20.0
SHARED_MEMORY = LinkConfig().shm_directory


def make_context(
    kind: LaneKind, initiator: bool, store: LaneStore, secret: bytes = SECRET, meet_in: str = SHARED_MEMORY
) -> LaneContext:
    return LaneContext(
        pair_id="pair",
        epoch=1,
        lane_epoch=1,
        direction=Direction.FORWARD,
        initiator=initiator,
        secret=secret,
        store=store,
        device=make_device(kind, initiator),
        open_timeout_s=TIMEOUT_S,
        shm_directory=meet_in,
    )


def make_device(kind: LaneKind, initiator: bool) -> str:
    """NCCL wants a GPU for each end."""
    if kind is not LaneKind.NCCL:
        return "cpu"
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    return "cuda:0" if initiator else "cuda:1"


def joined_stores() -> tuple[LaneStore, LaneStore]:
    ends: list[LaneStore] = []
    ends.append(LaneStore(lambda key, value: ends[1].feed(key, value)))
    ends.append(LaneStore(lambda key, value: ends[0].feed(key, value)))
    return ends[0], ends[1]


def both(first: Callable[[], object], second: Callable[[], object]) -> list[BaseException | None]:
    """Run two calls at once; the error of each."""
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(first), pool.submit(second)]
        return [call.exception() for call in calls]


@contextmanager
def lane_pair(kind: LaneKind, meet_in: str = SHARED_MEMORY) -> Iterator[tuple[Lane, Lane]]:
    """A sending and a receiving end, open and proven."""
    here, there = joined_stores()
    sender = make_lane(kind, make_context(kind, True, here, meet_in=meet_in))
    receiver = make_lane(kind, make_context(kind, False, there, meet_in=meet_in))
    try:
        errors = both(lambda: open_proven(sender), lambda: open_proven(receiver))
        assert errors == [None, None], errors
        yield sender, receiver
    finally:
        sender.close()
        receiver.close()


def make_frame(
    size_bytes: int, pieces: tuple[torch.Tensor, ...], number: int = 0, *, more: bool = False
) -> WireFrame:
    return WireFrame(number.to_bytes(64, "big"), size_bytes, pieces, more=more)


def random_bytes(count: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(secrets.token_bytes(count)), dtype=torch.uint8)


def make_ticket(epoch: int = 1, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "pair_id": "pair",
        "epoch": Epoch(epoch),
        "encoder_id": "encoder-0",
        "reasoner_id": "reasoner-0",
        "not_after_unix_s": int(time.time()) + 60,
        "nonce": secrets.token_bytes(16),
    }
    return sign_ticket(SECRET, Ticket(**(fields | changes)))  # type: ignore[arg-type]


def make_end(node_id: str = "node", **changes: object) -> LocalEnd:
    fields: dict[str, object] = {
        "node_id": node_id,
        "fingerprint": FINGERPRINT,
        "boot_id": f"boot-of-{node_id}",
        "cluster_secret": SECRET,
        "epochs": EpochGuard(),
    }
    return LocalEnd(**(fields | changes))  # type: ignore[arg-type]


class LinkPair:
    """An encoder's and a reasoner's link with dictionary stores."""

    def __init__(
        self,
        config: LinkConfig,
        *,
        sink: BlockSink | None = None,
        source: BlockSource | None = None,
        make_lane: MakeLane = make_lane,
        layout: KVLayout | None = None,
        telemetry: tuple[Telemetry, Telemetry] = (NO_TELEMETRY, NO_TELEMETRY),
    ) -> None:
        ours, theirs = loopback_channels()
        self.encoder_store, self.reasoner_store = DictStore(), DictStore()
        self.encoder = Link(
            ours,
            hello=make_end("encoder-0", ticket=make_ticket(), layout=layout),
            sink=self.encoder_store,
            source=self.encoder_store,
            config=replace(config, device=make_device(config.lanes[0], True)),
            initiator=True,
            make_lane=make_lane,
            telemetry=telemetry[0],
        )
        self.reasoner = Link(
            theirs,
            hello=make_end("reasoner-0"),
            sink=sink or self.reasoner_store,
            source=source or self.reasoner_store,
            config=replace(config, device=make_device(config.lanes[0], False)),
            initiator=False,
            telemetry=telemetry[1],
        )


@asynccontextmanager
async def link_pair(config: LinkConfig, **options: object):  # type: ignore[no-untyped-def]
    """Two links that have started; both are closed at the end."""
    pair = LinkPair(config, **options)  # type: ignore[arg-type]
    await asyncio.gather(pair.encoder.start(), pair.reasoner.start())
    try:
        yield pair
    finally:
        await pair.encoder.close("the test is over")
        await pair.reasoner.closed


def count_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def count_threads() -> int:
    """Threads of the process, C++ ones included."""
    return len(os.listdir("/proc/self/task"))


def settle_threads(expected: int) -> int:
    """Threads once those that are ending have ended; on a busy machine that takes a while."""
    deadline = time.monotonic() + 20
    while count_threads() > expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= expected
    return count_threads()
