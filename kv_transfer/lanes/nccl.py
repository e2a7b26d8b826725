"""Shell. The NCCL lane: placeholder until written below."""

from __future__ import annotations

from kv_transfer.lanes.gloo import GlooLane
from tandem.core.transfer import LaneKind


class NcclLane(GlooLane):
    """To be replaced."""

    kind = LaneKind.NCCL
