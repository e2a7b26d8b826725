"""Shell. The handshake on a fresh control stream, up to the agreement; lanes come after."""

from __future__ import annotations

import hmac
import logging
import time
from dataclasses import replace

from kv_transfer.base import ControlChannel, LinkConfig, LocalEnd
from kv_transfer.lanes.meet import NonceFile, prove_nonce
from kv_transfer.protocol.handshake import Agreement, accept_ack, judge_hello, make_hello
from kv_transfer.protocol.refusals import error_of
from tandem.core.errors import InvalidInput, Unavailable
from tandem.core.tickets import verify_ticket
from tandem.core.transfer import Hello, HelloAck, LaneKind, LaneOffer, Nack

log = logging.getLogger(__name__)


async def greet(channel: ControlChannel, local: LocalEnd, config: LinkConfig) -> Agreement:
    """The initiator's half. Raises what the peer refused with, or what is wrong with its answer."""
    ticket = verify_ticket(local.cluster_secret, local.ticket, time.time())
    nonce = _nonce_file(config)
    try:
        offers = [_offer(kind, config, nonce) for kind in config.lanes if _is_able(kind, config, nonce)]
        await channel.send(make_hello(local, offers))
        answer = await channel.receive()
        if answer is None:
            raise Unavailable("the peer closed the control stream during the handshake")
        if isinstance(answer, Nack):
            raise error_of(answer)
        if not isinstance(answer, HelloAck):
            raise InvalidInput(f"the peer answers a hello with a {type(answer).__name__}")
        agreement = accept_ack(answer, local, offers, ticket)
        return _without_unproven_shm(agreement, answer, nonce)
    finally:
        if nonce is not None:
            nonce.close()


async def welcome(channel: ControlChannel, local: LocalEnd, config: LinkConfig) -> Agreement:
    """The acceptor's half. Raises the error that it refused the peer with."""
    hello = await channel.receive()
    if hello is None:
        raise Unavailable("the peer closed the control stream before its hello")
    if not isinstance(hello, Hello):
        raise InvalidInput(f"the peer begins with a {type(hello).__name__}")
    proofs: dict[LaneKind, bytes] = {}

    def can_use(offer: LaneOffer) -> bool:
        """Asked only of who has shown a ticket: it looks at a file."""
        if offer.kind in config.lanes and offer.kind not in proofs:
            proofs[offer.kind] = _prove(offer, config)
        return bool(proofs.get(offer.kind))

    verdict = judge_hello(hello, local, now_unix_s=time.time(), can_use=can_use)
    if isinstance(verdict, Nack):
        await channel.send(verdict)
        raise error_of(verdict)
    shm_proof = proofs.get(LaneKind.SHM, b"")
    await channel.send(
        HelloAck(
            major=verdict.major,
            fingerprint=local.fingerprint,
            boot_id=local.boot_id,
            lanes=verdict.lanes,
            shm_proof=shm_proof,
        )
    )
    return verdict


def _nonce_file(config: LinkConfig) -> NonceFile | None:
    if LaneKind.SHM not in config.lanes:
        return None
    try:
        return NonceFile(config.shm_directory)
    except OSError as error:
        log.warning("no shared-memory lane: %s cannot be written: %s", config.shm_directory, error)
        return None


def _is_able(kind: LaneKind, config: LinkConfig, nonce: NonceFile | None) -> bool:
    if kind is LaneKind.SHM:
        return nonce is not None
    return kind is not LaneKind.NCCL or config.device.startswith("cuda")


def _offer(kind: LaneKind, config: LinkConfig, nonce: NonceFile | None) -> LaneOffer:
    if kind is LaneKind.SHM and nonce is not None:
        return LaneOffer(kind=kind, token=nonce.name)
    return LaneOffer(kind=kind, token=config.device if kind is LaneKind.NCCL else "")


def _prove(offer: LaneOffer, config: LinkConfig) -> bytes:
    """Something that is true when this end can use the lane; for shm the digest that proves it."""
    match offer.kind:
        case LaneKind.SHM:
            return prove_nonce(config.shm_directory, offer.token)
        case LaneKind.NCCL:
            both = offer.token.startswith("cuda") and config.device.startswith("cuda")
            return b"cuda" if both else b""
        case _:
            return b"yes"


def _without_unproven_shm(agreement: Agreement, answer: HelloAck, nonce: NonceFile | None) -> Agreement:
    if nonce is not None and hmac.compare_digest(answer.shm_proof, nonce.proof):
        return agreement
    lanes = tuple(kind for kind in agreement.lanes if kind is not LaneKind.SHM)
    if not lanes:
        raise Unavailable("the peer does not see our shared directory and agreed to no other lane")
    return replace(agreement, lanes=lanes)
