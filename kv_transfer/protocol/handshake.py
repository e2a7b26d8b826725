"""Pure. Who may link with whom: the hello, its answer, and the lanes that both ends can use."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kv_transfer.base import LocalEnd
from kv_transfer.protocol.refusals import nack_of
from tandem.core.errors import Incompatible, InvalidInput, TandemError
from tandem.core.ids import is_valid_id
from tandem.core.tickets import Ticket, TicketInvalid, derive_pair_secret, verify_ticket
from tandem.core.transfer import MAJORS, Hello, HelloAck, LaneKind, LaneOffer, Nack, NackCode
from tandem.core.versions import agree, read_spoken


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What both ends know once the handshake is done."""

    ticket: Ticket
    pair_secret: bytes
    """32 bytes; proves both ends inside each lane."""
    peer_boot_id: str
    major: int
    """Version of the protocol."""
    lanes: tuple[LaneKind, ...]
    """In order of preference; never empty."""


def make_hello(local: LocalEnd, offers: Sequence[LaneOffer]) -> Hello:
    """The initiator's first message."""
    return Hello(
        fingerprint=local.fingerprint, boot_id=local.boot_id, ticket=local.ticket, lanes=tuple(offers)
    )


def judge_hello(
    hello: Hello,
    local: LocalEnd,
    *,
    now_unix_s: float,
    can_use: Callable[[LaneOffer], bool],
) -> Agreement | Nack:
    """The acceptor's decision. Version and fingerprint are judged before anything else is believed."""
    try:
        peer = read_spoken(hello.major, hello.newest_major)
        major = agree("the transfer protocol", MAJORS, peer, me=local.node_id, who="the peer")
    except TandemError as error:
        return Nack(code=NackCode.VERSION, message=error.message)
    if not hmac.compare_digest(hello.fingerprint.encode(), local.fingerprint.encode()):
        message = f"fingerprint {hello.fingerprint[:64]}, this end runs {local.fingerprint}"
        return Nack(code=NackCode.INCOMPAT, message=message)
    refusal = local.refuse()
    if refusal is not None:
        return nack_of(refusal)
    try:
        ticket = _check_ticket(hello, local, now_unix_s)
    except TandemError as error:
        return nack_of(error)
    if not local.epochs.admit(ticket, now_unix_s):
        return Nack(code=NackCode.STALE, message=f"epoch {ticket.epoch} of {ticket.pair_id} has passed")
    lanes = tuple(offer.kind for offer in hello.lanes if can_use(offer))
    if not lanes:
        kinds = [offer.kind.value for offer in hello.lanes]
        return Nack(code=NackCode.INCOMPAT, message=f"no lane in common: the peer offers {kinds}")
    return _agreement(local, hello.ticket, ticket, hello.boot_id, major, lanes)


def accept_ack(ack: HelloAck, local: LocalEnd, offers: Sequence[LaneOffer], ticket: Ticket) -> Agreement:
    """The initiator's view of the answer. Raises Incompatible or InvalidInput when it cannot be right."""
    if ack.major not in MAJORS or ack.fingerprint != local.fingerprint:
        raise Incompatible(
            f"the peer answers with version {ack.major} of the transfer protocol and fingerprint "
            f"{ack.fingerprint[:64]}, this end speaks {MAJORS} and runs {local.fingerprint}"
        )
    if not ack.lanes or not set(ack.lanes) <= {offer.kind for offer in offers}:
        raise InvalidInput(f"the peer chose lanes that were not offered: {[k.value for k in ack.lanes]}")
    if not is_valid_id(ack.boot_id):
        raise InvalidInput("the peer's boot id is not valid")
    return _agreement(local, local.ticket, ticket, ack.boot_id, ack.major, ack.lanes)


def _check_ticket(hello: Hello, local: LocalEnd, now_unix_s: float) -> Ticket:
    if not is_valid_id(hello.boot_id):
        raise InvalidInput("the peer's boot id is not valid")
    ticket = verify_ticket(local.cluster_secret, hello.ticket, now_unix_s)
    if ticket.reasoner_id != local.node_id:
        raise TicketInvalid(f"the ticket is for {ticket.reasoner_id}, this is {local.node_id}")
    return ticket


def _agreement(
    local: LocalEnd,
    ticket_bytes: bytes,
    ticket: Ticket,
    peer_boot_id: str,
    major: int,
    lanes: Sequence[LaneKind],
) -> Agreement:
    return Agreement(
        ticket=ticket,
        pair_secret=derive_pair_secret(local.cluster_secret, ticket_bytes),
        peer_boot_id=peer_boot_id,
        major=major,
        lanes=tuple(lanes),
    )
