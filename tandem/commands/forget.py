"""Shell: `tandem forget`: end a stream and delete what is held of it, in memory and on disk.

Over the call that a client has for its own stream (`stream.end(forget=True)`). An operator has no
resume token, but the two things that tokens are made of: the cluster secret, and the journal's record.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.commands.base import Command, Exit, add_address, security_of
from tandem.core.errors import DeadlineExceeded, InvalidInput, NotFound

if TYPE_CHECKING:
    from tandem.client import Client, MediaKind

_EXAMPLE = """\
tandem forget door
tandem forget door --data-dir /var/lib/tandem
tandem forget door --tenant acme --token-file admin.token --tls-ca ca.crt
tandem forget door --run-dir /var/lib/tandem/run --secret-file /etc/tandem/secret/secret"""

_ENDED_S = 120.0
"""For what is still waiting to be watched and answered, as at the end of every stream."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Claim:
    """What shows that a stream may be forgotten."""

    token: str
    kinds: tuple[MediaKind, ...]
    """How its media may be packed: a stream is resumed as what it is."""
    tenant: str
    is_known: bool
    """The journal has a record of it, or its token was given."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", metavar="STREAM", help="the stream, as `tandem streams` shows it")
    add_address(parser)
    parser.add_argument("--tenant", default="", metavar="NAME", help="whose it is, where several call one so")
    parser.add_argument("--token", default="", help="its resume token (default: made of secret and journal)")
    parser.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="that of the orchestrator: journal and secret (default: that of this user's `tandem up` there)",
    )
    parser.add_argument("--data-dir", default="", metavar="DIR", help="of the `tandem up`, where it has one")
    parser.add_argument("--secret-file", type=Path, metavar="FILE", help="the secret, where it is elsewhere")


def _run(arguments: argparse.Namespace) -> int:
    return asyncio.run(forget(arguments))


async def forget(arguments: argparse.Namespace) -> int:
    """End one stream and wait until it is gone."""
    from tandem.client import connect

    claim = claim_of(arguments)
    async with connect(arguments.address, security=security_of(arguments)) as t:
        owners = {each.tenant for each in await t.streams() if each.stream_id == arguments.stream}
        if len(owners) > 1 and not arguments.tenant:
            raise _ambiguous(arguments.stream, owners)
        held = bool(owners) and claim.tenant in {"", *owners}
        if held and not claim.is_known:
            raise NotFound(
                f"stream {arguments.stream} is held, and the journal has no record of it: "
                "name the --run-dir of the orchestrator, or give its --token"
            )
        try:
            async with asyncio.timeout(_ENDED_S):
                await _end(t, arguments.stream, claim)
                while await _is_held(t, arguments.stream, claim.tenant):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise DeadlineExceeded(
                f"stream {arguments.stream} has not ended after {_ENDED_S:g} s: see `tandem streams --why`; "
                "it is forgotten when it has, or when nobody comes back for it"
            ) from None
    print(f"stream {arguments.stream} is forgotten")
    if not claim.is_known:
        print("nobody knew it; what lay on disk under its name is deleted")
    return Exit.OK


def _ambiguous(name: str, owners: set[str]) -> InvalidInput:
    return InvalidInput(f"streams of {', '.join(sorted(owners))} are called {name}: name one with --tenant")


async def _is_held(t: Client, name: str, tenant: str) -> bool:
    return any(each.stream_id == name and tenant in ("", each.tenant) for each in await t.streams())


def claim_of(arguments: argparse.Namespace) -> Claim:
    """The token of a stream, given or made. Raises InvalidInput where there is no secret, or a bad name."""
    from orchestrator.arguments import default_run_dir
    from orchestrator.journal import Journal
    from orchestrator.naming import id_of
    from orchestrator.terms import DEFAULT_TENANT
    from orchestrator.tokens import make_nonce, resume_token
    from tandem.client import MediaKind
    from tandem.core.ids import is_valid_id
    from tandem.core.secret_file import read_secret
    from tandem.wire.gen.tandem.v1 import types_pb2

    if not is_valid_id(arguments.stream):
        raise InvalidInput(f"{arguments.stream!r} is no stream: 1 to 64 characters of [A-Za-z0-9._-]")
    if arguments.token:
        return Claim(arguments.token, tuple(MediaKind), arguments.tenant, is_known=True)
    run_dir = arguments.run_dir or default_run_dir(arguments.address, arguments.data_dir)
    secret_file = arguments.secret_file or run_dir / "secret"
    if not secret_file.is_file():
        raise InvalidInput(
            f"no secret in {secret_file}: name the --run-dir or the --data-dir of the orchestrator, "
            "the --secret-file, or give the stream's --token"
        )
    secret, tenant, directory = read_secret(secret_file), arguments.tenant, run_dir / "streams"
    records = Journal(directory).named(arguments.stream) if directory.is_dir() else []
    records = [record for record in records if tenant in ("", record.tenant)]
    if len(records) > 1:
        raise _ambiguous(arguments.stream, {record.tenant for record in records})
    if not records:
        # Of a stream that nobody knows any nonce will do: what is on disk is set aside, and goes with it.
        token = resume_token(secret, id_of(tenant or DEFAULT_TENANT, arguments.stream), make_nonce())
        return Claim(token, tuple(MediaKind), tenant, is_known=False)
    (record,) = records
    names: dict[int, str] = {number: name for name, number in types_pb2.MediaKind.items()}
    named = names.get(record.media_kind, "").removeprefix("MEDIA_KIND_").lower()
    kinds = tuple(kind for kind in MediaKind if kind == named) or tuple(MediaKind)
    return Claim(resume_token(secret, record.stream_id, record.nonce), kinds, record.tenant, is_known=True)


async def _end(t: Client, stream_id: str, claim: Claim) -> None:
    """Resume it and end it for good. Raises what the server says."""
    for kind in claim.kinds:
        # Held as another kind of media: the next may be it.
        with contextlib.suppress(*((InvalidInput,) if kind is not claim.kinds[-1] else ())):
            async with t.watch(
                kind, stream_id=stream_id, resume_token=claim.token, tenant=claim.tenant
            ) as stream:
                await stream.end(forget=True)
            return


COMMAND = Command(
    name="forget",
    summary="end a stream and delete what is held of it, in memory and on disk",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
