"""Pure. Tickets: the orchestrator's signed permission for one encoder and one reasoner to connect.

Knows nothing of sockets: it signs and checks bytes. A ticket on the wire is::

    b"TKT1" | u16 length of the body | body | HMAC-SHA256(secret, everything before it)

and the body is the fields in declared order, text as u16 length and UTF-8, numbers as unsigned 64-bit,
all big-endian: one ticket has exactly one encoding.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from tandem.core.errors import Incompatible, PermissionRefused
from tandem.core.ids import Epoch, is_valid_id
from tandem.core.versions import Spoken, unread

VERSION = 1
_KIND = b"TKT"
_MAGIC = b"%s%d" % (_KIND, VERSION)
_HEAD = struct.Struct(">4sH")
_NUMBER = struct.Struct(">Q")
_LENGTH = struct.Struct(">H")
_SIGNATURE_BYTES = 32
_NONCE_BYTES = 16
MIN_SECRET_BYTES = 16
"""Shortest cluster secret that is accepted."""
MAX_TICKET_BYTES = 1024
"""Longer input is refused unread."""


class TicketInvalid(PermissionRefused):
    """Not a ticket, or its signature does not match."""


class TicketExpired(PermissionRefused):
    """The ticket's time has passed; ask the orchestrator for a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Who may connect to whom, under which epoch, and until when."""

    pair_id: str
    """Name of the pair; ids are 1 to 64 characters of ``[A-Za-z0-9._-]``."""
    epoch: Epoch
    """Rises with every new connection of the pair; older traffic is refused."""
    encoder_id: str
    reasoner_id: str
    not_after_unix_s: int
    """Wall-clock second after which the ticket opens nothing."""
    nonce: bytes
    """16 random bytes, so that no two tickets are equal."""

    def __post_init__(self) -> None:
        for name in ("pair_id", "encoder_id", "reasoner_id"):
            if not is_valid_id(getattr(self, name)):
                raise ValueError(f"{name} is not a valid id: {getattr(self, name)!r}")
        if not 0 <= self.epoch < 1 << 32:
            raise ValueError(f"epoch out of range: {self.epoch}")
        if not 0 <= self.not_after_unix_s < 1 << 63:
            raise ValueError(f"not_after_unix_s out of range: {self.not_after_unix_s}")
        if len(self.nonce) != _NONCE_BYTES:
            raise ValueError(f"the nonce has {len(self.nonce)} bytes, expected {_NONCE_BYTES}")


def sign_ticket(secret: bytes, ticket: Ticket) -> bytes:
    """Encode and sign a ticket with the cluster secret (at least 16 bytes, else ValueError)."""
    body = b"".join(
        (
            _text(ticket.pair_id),
            _NUMBER.pack(ticket.epoch),
            _text(ticket.encoder_id),
            _text(ticket.reasoner_id),
            _NUMBER.pack(ticket.not_after_unix_s),
            ticket.nonce,
        )
    )
    signed = _HEAD.pack(_MAGIC, len(body)) + body
    return signed + _mac(secret, b"ticket", signed)


def verify_ticket(secret: bytes, data: bytes, now_unix_s: float) -> Ticket:
    """Check and decode a ticket.

    Raises TicketInvalid (malformed or wrongly signed), TicketExpired, or Incompatible (another version).
    """
    if not _HEAD.size + _SIGNATURE_BYTES < len(data) <= MAX_TICKET_BYTES:
        raise TicketInvalid(f"a ticket cannot have {len(data)} bytes")
    if data[:3] == _KIND and data[3:4].isdigit() and data[:4] != _MAGIC:
        raise Incompatible(unread("a ticket", int(data[3:4]), Spoken(VERSION, VERSION)))
    signed, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
    if not hmac.compare_digest(_mac(secret, b"ticket", signed), signature):
        raise TicketInvalid("the ticket's signature does not match the cluster secret")
    ticket = _decode(signed)
    if now_unix_s > ticket.not_after_unix_s:
        late_s = now_unix_s - ticket.not_after_unix_s
        raise TicketExpired(f"the ticket of pair {ticket.pair_id} expired {late_s:.0f} s ago")
    return ticket


def derive_pair_secret(secret: bytes, ticket_bytes: bytes) -> bytes:
    """The 32-byte secret that both ends of the pair use to prove themselves inside each lane."""
    return _mac(secret, b"pair", ticket_bytes)


def _mac(secret: bytes, purpose: bytes, data: bytes) -> bytes:
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"the cluster secret has {len(secret)} bytes, expected at least {MIN_SECRET_BYTES}")
    return hmac.new(secret, b"tandem/" + purpose + b"\0" + data, hashlib.sha256).digest()


def _text(value: str) -> bytes:
    data = value.encode()
    return _LENGTH.pack(len(data)) + data


def _decode(signed: bytes) -> Ticket:
    try:
        magic, length = _HEAD.unpack_from(signed)
        if magic != _MAGIC or length != len(signed) - _HEAD.size:
            raise ValueError("wrong magic or length")
        reader = _Reader(signed[_HEAD.size :])
        ticket = Ticket(
            pair_id=reader.text(),
            epoch=Epoch(reader.number()),
            encoder_id=reader.text(),
            reasoner_id=reader.text(),
            not_after_unix_s=reader.number(),
            nonce=reader.take(_NONCE_BYTES),
        )
        reader.finish()
    except (ValueError, struct.error) as error:
        raise TicketInvalid(f"not a ticket: {error}") from error
    return ticket


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError("the ticket ends early")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        value: int = _NUMBER.unpack(self.take(_NUMBER.size))[0]
        return value

    def text(self) -> str:
        return self.take(_LENGTH.unpack(self.take(_LENGTH.size))[0]).decode()

    def finish(self) -> None:
        if self._at != len(self._data):
            raise ValueError("bytes left over")
