"""Shell. Both ends of a fresh lane prove that they hold the pair's secret, once, inside the lane."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from kv_transfer.lanes.base import PROOF_BYTES, Lane, LaneBroken, LaneContext

_NONCE_BYTES = 32


def open_proven(lane: Lane) -> None:
    """Open a lane and exchange proofs. Raises LaneBroken; the caller closes the lane then."""
    context = lane.context
    nonce = secrets.token_bytes(_NONCE_BYTES)
    context.store.set(f"nonce/{context.rank}", nonce)
    lane.open()
    peer_nonce = context.store.get(f"nonce/{1 - context.rank}", context.open_timeout_s)
    nonces = nonce + peer_nonce if context.initiator else peer_nonce + nonce
    received = lane.exchange(_proof(context, context.rank, nonces), context.open_timeout_s)
    if not hmac.compare_digest(received, _proof(context, 1 - context.rank, nonces)):
        raise LaneBroken(f"the peer's proof on lane {context.name} is wrong")


def _proof(context: LaneContext, rank: int, nonces: bytes) -> bytes:
    said = f"{context.name}/{rank}".encode() + b"\0" + nonces
    mac = hmac.new(context.secret, b"tandem/lane\0" + said, hashlib.sha256).digest()
    return mac.ljust(PROOF_BYTES, b"\0")
