"""Pure but for the journal. The record of a stream as its client carries it, for who has no journal of it.

What the journal holds goes to the client too, signed with the cluster secret, in the message that tells what
may be forgotten: so whatever the client keeps of its media begins where its record says. Nobody else can make
one, or change it; one that is shown too late loses against the journal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging

from orchestrator.journal import Journal, Record, record_from_json
from orchestrator.quotas import check_tenant
from tandem.core.errors import InvalidInput, PermissionRefused, TandemError
from tandem.core.ids import StreamId
from tandem.wire.gen.tandem.v1 import client_pb2

log = logging.getLogger(__name__)

MAX_CARRIED_BYTES = 32 * 1024
"""Of one record: more is in the journal alone (the beginning of an MP4 file can be long)."""
_MAC_BYTES = 32


def carry(secret: bytes, stream_id: StreamId, encoded: bytes) -> bytes:
    """An encoded record of the journal for its client; empty when it is too long."""
    carried = _mac(secret, stream_id, encoded) + encoded
    return carried if len(carried) <= MAX_CARRIED_BYTES else b""


def read_carried(secret: bytes, stream_id: StreamId, carried: bytes) -> Record:
    """The record that a client shows for its stream.

    Raises:
        PermissionRefused: it was made by somebody else, or for another stream.
        InvalidInput: it is too long or damaged.
        Incompatible: a newer release made it.
    """
    if not _MAC_BYTES < len(carried) <= MAX_CARRIED_BYTES:
        raise InvalidInput(f"the record of a stream cannot have {len(carried)} bytes")
    mac, body = carried[:_MAC_BYTES], carried[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, stream_id, body)):
        raise PermissionRefused(f"the record does not belong to stream {stream_id}")
    try:
        return record_from_json(stream_id, json.loads(body))
    except TandemError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"the record of stream {stream_id} cannot be used: {error!r}") from error


def best_record(
    journal: Journal, secret: bytes, stream_id: StreamId, opening: client_pb2.WatchRequest.Open
) -> Record | None:
    """Where a stream was, by the journal or by what its client shows; None: neither says.

    A record that is no good, or of another tenant than the client says, counts as none.
    """
    shown = None
    if opening.record:
        try:
            shown = read_carried(secret, stream_id, opening.record)
        except TandemError as error:
            log.warning("what the client of stream %s carries is not used: %s", stream_id, error.message)
    if shown is not None and shown.tenant != check_tenant(opening.tenant):
        shown = None
    return newest(journal.load(stream_id), shown)


def newest(kept: Record | None, shown: Record | None) -> Record | None:
    """Which of both counts: the journal's, or what the client of the same incarnation shows."""
    if kept is None or shown is None:
        return kept or shown
    if shown.nonce != kept.nonce:
        return kept
    return max(kept, shown, key=lambda record: (record.epoch, record.safe_position))


def _mac(secret: bytes, stream_id: StreamId, body: bytes) -> bytes:
    message = b"\0".join((b"tandem/record", stream_id.encode(), body))
    return hmac.new(secret, message, hashlib.sha256).digest()
