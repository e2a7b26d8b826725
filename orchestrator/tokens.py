"""Resume tokens: whoever holds one may go on feeding that stream.

A token is the nonce of one incarnation of a stream, and an HMAC of it and the stream's id under the cluster
secret. The journal has the nonce, so a token outlives the process that gave it; a later stream of the same id
has another nonce, so a token does not outlive its stream.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from tandem.core.errors import PermissionRefused
from tandem.core.ids import StreamId


def make_nonce() -> str:
    """Of a new incarnation of a stream."""
    return secrets.token_hex(16)


def resume_token(secret: bytes, stream_id: StreamId, nonce: str) -> str:
    """The token of one incarnation of a stream."""
    message = "\0".join(("tandem/resume", stream_id, nonce)).encode()
    return f"{nonce}.{hmac.new(secret, message, hashlib.sha256).hexdigest()}"


def is_token_of(secret: bytes, stream_id: StreamId, token: str) -> bool:
    """True for the token of any incarnation of a stream of that id."""
    expected = resume_token(secret, stream_id, token.partition(".")[0])
    return hmac.compare_digest(expected.encode(), token.encode())


def check_token(secret: bytes, stream_id: StreamId, token: str, nonce: str | None, name: str = "") -> str:
    """The nonce in `token`. Takes the same time for every wrong one.

    Args:
        secret: the cluster secret.
        stream_id: whose token it should be.
        token: what the client showed.
        nonce: of the stream that is held or in the journal; None when none is, and any nonce will do.
        name: what its client calls it, where that is not its id.

    Raises:
        PermissionRefused: `token` is not the stream's.
    """
    shown = token.partition(".")[0]
    expected = resume_token(secret, stream_id, shown if nonce is None else nonce)
    if not hmac.compare_digest(expected.encode(), token.encode()):
        raise PermissionRefused(f"the resume token does not belong to stream {name or stream_id}")
    return shown
