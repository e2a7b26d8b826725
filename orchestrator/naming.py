"""Pure. What streams are called: a name is its tenant's own, an id is of the whole deployment.

Clients know names. Everything behind the front door (services, journal, disks, logs, traces) knows ids. Two
tenants may use one name, and neither can tell that the other does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from orchestrator.limits import check_stream_id
from orchestrator.terms import DEFAULT_TENANT
from orchestrator.tokens import is_token_of
from tandem.core.errors import InvalidInput, PermissionRefused
from tandem.core.ids import StreamId

_DIGITS, _KEPT_CHARS = 20, 37
"""Of the id of a tenant's stream: with the suffix of its notes it is as long as an id may be."""
_OURS = re.compile(r".*\.[0-9a-f]{20}")


def id_of(tenant: str, name: str) -> StreamId:
    """The id of a tenant's stream: the name itself where nobody says whose streams there are."""
    if tenant == DEFAULT_TENANT:
        return StreamId(name)
    digest = hashlib.sha256(f"{tenant}/{name}".encode()).hexdigest()
    return StreamId(f"{name[:_KEPT_CHARS]}.{digest[:_DIGITS]}")


def check_name(name: str) -> None:
    """Raises `InvalidInput` for a name that no client may give to a new stream."""
    check_stream_id(name)
    if _OURS.fullmatch(name):
        raise InvalidInput(
            f"stream id {name[:80]!r} ends as only ids of ours do: a dot and {_DIGITS} hex digits"
        )


def id_to_resume(secret: bytes, tenant: str, name: str, token: str, others: Iterable[StreamId]) -> StreamId:
    """Which of the streams that may be meant a resume token is for.

    Those are the tenant's own of that name; the one whose id that is, as a former release named streams of
    all tenants; and `others`. Raises `PermissionRefused`, the same whether there are any or none.
    """
    check_stream_id(name)
    for stream_id in (id_of(tenant, name), StreamId(name), *others):
        if is_token_of(secret, stream_id, token):
            return stream_id
    raise PermissionRefused(f"the resume token does not belong to stream {name}")
