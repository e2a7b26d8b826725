"""Pure but for its types: which stream a caller means by a name. Those of others are as if they were not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.access import Caller
from orchestrator.held_stream import Stream
from orchestrator.naming import id_of, id_to_resume
from tandem.core.errors import NotFound, PermissionRefused
from tandem.core.ids import StreamId

Held = Mapping[StreamId, Stream]


def to_ask_about(held: Held, name: str, caller: Caller) -> Stream:
    """The stream of that name; administrators may say TENANT/NAME.

    Raises `NotFound` when none is held that the caller may know of.
    """
    tenant, slash, of_tenant = name.partition("/") if caller.is_admin else ("", "", "")
    ids = (id_of(tenant, of_tenant),) if slash else (id_of(caller.tenant, name), StreamId(name))
    found = [held[each] for each in ids if each in held]
    if not found and caller.is_admin:
        found = [stream for stream in held.values() if stream.session.name == name]
        if len(found) > 1:
            raise NotFound(f"streams of {len(found)} tenants are called {name[:80]!r}: say TENANT/NAME")
    if not found or not caller.sees(found[0].session.terms.tenant):
        raise NotFound(f"no stream {name[:80]!r}; `tandem streams` lists those that are held")
    return found[0]


def to_resume(
    held: Held,
    owner_of: Callable[[StreamId], str | None],
    secret: bytes,
    tenant: str,
    name: str,
    token: str,
    caller: Caller,
) -> StreamId:
    """The id of the stream that a resume token is for, held or not.

    `owner_of` says whose a stream is that is held or in the journal. Raises `PermissionRefused`: of another
    tenant's stream the same that a wrong token gets.
    """
    others = [each for each, stream in held.items() if caller.is_trusted and stream.session.name == name]
    stream_id = id_to_resume(secret, tenant, name, token, others)
    owner = owner_of(stream_id)
    if owner is not None and not caller.sees(owner):
        raise PermissionRefused(f"the resume token does not belong to stream {name}")
    return stream_id
