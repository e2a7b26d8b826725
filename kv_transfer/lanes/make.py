"""Shell. From the name of a lane kind to a lane. The heavy halves are imported only when they are used."""

from __future__ import annotations

from kv_transfer.lanes.base import Lane, LaneContext
from tandem.core.transfer import LaneKind


def make_lane(kind: LaneKind, context: LaneContext) -> Lane:
    """A lane that is not open yet."""
    match kind:
        case LaneKind.SHM:
            from kv_transfer.lanes.shm import ShmLane

            return ShmLane(context)
        case LaneKind.GLOO:
            from kv_transfer.lanes.gloo import GlooLane

            return GlooLane(context)
        case LaneKind.NCCL:
            from kv_transfer.lanes.nccl import NcclLane

            return NcclLane(context)
        case LaneKind.LOOPBACK:
            from kv_transfer.lanes.loopback import LoopbackLane

            return LoopbackLane(context)
