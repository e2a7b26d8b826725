"""What is measured of transfers: bytes at both ends, damage, failures, and one trace over both."""

from __future__ import annotations

from dataclasses import replace

from kv_transfer.base import LinkConfig
from kv_transfer.faulty import Fault, FaultyMaker, Mischief
from kv_transfer.memory import random_block
from tandem.core.errors import PermissionRefused
from tandem.core.telemetry import Telemetry
from tandem.core.transfer import LaneKind
from tests.contract.lane_pairs import link_pair
from tests.contract.recording import Recorder, RecordingTracer

LOOPBACK = LinkConfig(lanes=(LaneKind.LOOPBACK,), frame_timeout_s=1.0)
BLOCKS = "tandem_kv_transfer_blocks_total"
BYTES = "tandem_kv_transfer_bytes_total"
CONTEXT = f"00-{'a' * 32}-{'b' * 16}-01"


async def test_both_ends_count_the_same_bytes_and_what_was_damaged_on_the_way() -> None:
    ours, theirs = Recorder(), Recorder()
    maker = FaultyMaker([Fault(at_frame=0, what=Mischief.CORRUPT)])
    blocks = [random_block(0), random_block(1)]
    size = sum(block.header.payload_bytes for block in blocks)
    async with link_pair(LOOPBACK, make_lane=maker, telemetry=(Telemetry(ours), Telemetry(theirs))) as pair:
        assert all(result.ok for result in await pair.encoder.send(blocks, timeout_s=5))
        assert all(result.ok for result in await pair.encoder.send(blocks, timeout_s=5))
    assert ours.counts == {
        (BLOCKS, ("published", "")): 2,
        (BLOCKS, ("had", "")): 2,
        (BYTES, ("sent",)): size,
    }
    assert theirs.counts[BYTES, ("received",)] == size
    assert theirs.counts[BLOCKS, ("received", "")] == 2
    assert theirs.counts["tandem_kv_checksum_failures_total", ("wire",)] >= 1
    assert len(ours.values["tandem_kv_transfer_seconds", ("published",)]) == 2


async def test_a_refused_block_is_counted_with_its_reason() -> None:
    class Refusing:
        def have(self, key: object, layer_checksums: object) -> bool:
            return False

        def reserve(self, header: object) -> None:
            raise PermissionRefused("not here")

    ours = Recorder()
    async with link_pair(LOOPBACK, sink=Refusing(), telemetry=(Telemetry(ours), Telemetry())) as pair:
        (result,) = await pair.encoder.send([random_block(0)], timeout_s=5)
        assert not result.ok
    assert ours.counts == {(BLOCKS, ("failed", "permission_refused")): 1}
    assert set(ours.values) == {("tandem_kv_transfer_seconds", ("failed",))}


async def test_a_traced_block_is_seen_landing() -> None:
    tracer = RecordingTracer()
    async with link_pair(LOOPBACK, telemetry=(Telemetry(), Telemetry(tracer=tracer))) as pair:
        await pair.encoder.send([random_block(0)], timeout_s=5)
        assert not tracer.spans
        await pair.encoder.send([replace(random_block(1), trace=CONTEXT)], timeout_s=5)
    (landed,) = tracer.spans
    assert (landed.name, landed.parent, landed.attributes["tandem.block"]) == ("land", CONTEXT, 1)
    assert landed.end_s is not None
