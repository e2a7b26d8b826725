"""Pure. Resume tokens: whoever holds one may go on feeding that stream.

A token is an HMAC of the stream's id under the cluster secret, so it outlives the process that gave it.
"""

from __future__ import annotations

import hashlib
import hmac

from tandem.core.errors import PermissionRefused
from tandem.core.ids import StreamId


def resume_token(secret: bytes, stream_id: StreamId) -> str:
    """The token of a stream."""
    return hmac.new(secret, b"tandem/resume\0" + stream_id.encode(), hashlib.sha256).hexdigest()


def check_token(secret: bytes, stream_id: StreamId, token: str) -> None:
    """Raises `PermissionRefused` unless `token` is the stream's. Takes the same time for every wrong one."""
    expected = resume_token(secret, stream_id).encode()
    if not hmac.compare_digest(expected, token.encode()):
        raise PermissionRefused(f"the resume token does not belong to stream {stream_id}")
