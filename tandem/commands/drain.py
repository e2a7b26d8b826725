"""Shell: `tandem drain`: have one service leave without a gap, for an upgrade."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.commands.base import Command, Exit, add_address, positive, security_of
from tandem.core.errors import InvalidInput, NotLeader

if TYPE_CHECKING:
    from tandem.client.security import Security
    from tandem.wire.gen.tandem.v1 import registry_pb2

_EXAMPLE = """\
tandem drain encoder-0
tandem drain reasoner-1 --secret-file run/secret --grace-seconds 60"""

REQUEST_LIFE_S = 60
_CALL_TIMEOUT_S = 10.0
_DEFAULT_GRACE_S = 20.0
"""What services take when nothing is said."""
_LATE_S = 15.0
"""Beyond the grace: for a service to end."""
_POLL_S = 0.2


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the service, as `tandem doctor` shows it")
    add_address(parser)
    parser.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help="the cluster secret (default: that of the `tandem up` of this user at that address)",
    )
    parser.add_argument(
        "--data-dir",
        default="",
        metavar="DIR",
        help="that of the `tandem up`, if it was given one: the secret is in there",
    )
    parser.add_argument(
        "--grace-seconds",
        type=positive,
        metavar="S",
        help="longest wait until its streams have moved; then it ends with them (default: its own setting)",
    )
    parser.add_argument("--no-wait", action="store_true", help="return as soon as it was told")


def _run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_drain(arguments))


async def _drain(arguments: argparse.Namespace) -> int:
    from tandem.client import connect

    secret_file = arguments.secret_file
    if secret_file is None and not arguments.token_file:
        secret_file = _default_secret(arguments.address, arguments.data_dir)
    grace_s = arguments.grace_seconds or 0.0
    security = security_of(arguments)
    told = await ask_to_leave(arguments.address, arguments.name, secret_file, grace_s, security)
    where = "move to others" if told.has_successor else "wait: no other service can take them yet"
    print(f"{arguments.name} was told to leave; {told.streams} streams {where}", flush=True)
    if arguments.no_wait:
        return Exit.OK
    deadline_s = time.monotonic() + (grace_s or _DEFAULT_GRACE_S) + _LATE_S
    async with connect(arguments.address, security=security_of(arguments)) as t:
        while time.monotonic() < deadline_s:
            services = (await t.status()).services
            now = [s for s in services if s.name == arguments.name and s.build.boot_id == told.boot_id]
            if not any(s.state in {"ready", "draining"} for s in now):
                print(f"{arguments.name} has left")
                return Exit.OK
            await asyncio.sleep(_POLL_S)
    print(f"{arguments.name} is still there; see its log")
    return Exit.FINDING


async def ask_to_leave(
    address: str,
    name: str,
    secret_file: Path | None,
    grace_s: float,
    security: Security | None = None,
) -> registry_pb2.DrainServiceResponse:
    """Ask the orchestrator at `address` to have a service leave; 0 is the service's own grace.

    Whoever asks shows the secret, or a token that may administer.

    It is the start of the service that is there now: one that replaces it meanwhile stays (`WrongState`).
    An orchestrator that stands by says who leads: then that one is asked.
    Raises `NotFound`, `PermissionRefused`, `Unavailable`, and `InvalidInput` for a file that is no secret.
    """
    from tandem.client.security import NO_SECURITY
    from tandem.core.secret_file import read_secret

    secret = read_secret(secret_file) if secret_file else b""
    wish = (name, secret, round(grace_s * 1000), security or NO_SECURITY)
    try:
        return await _ask(address, *wish)
    except NotLeader as error:
        if not error.leader:
            raise
        return await _ask(error.leader, *wish)


async def _ask(
    address: str, name: str, secret: bytes, grace_ms: int, security: Security
) -> registry_pb2.DrainServiceResponse:
    import grpc

    from tandem.wire.attach import REGISTRY, drain_proof
    from tandem.wire.calls import CallingChannel
    from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, registry_pb2, registry_pb2_grpc
    from tandem.wire.narrow_gate import gate_proof
    from tandem.wire.status import error_from_rpc

    not_after_s = int(time.time()) + REQUEST_LIFE_S
    async with CallingChannel(address, security.tls, security.metadata) as channel:
        door: Any = client_pb2_grpc.TandemServiceStub(channel)  # type: ignore[call-overload]
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[call-overload]
        try:
            status = await door.GetStatus(client_pb2.GetStatusRequest(), timeout=_CALL_TIMEOUT_S)
            # Empty for a name that is not there: the orchestrator says which are.
            boot_id = next((each.build.boot_id for each in status.services if each.name == name), "")
            request = registry_pb2.DrainServiceRequest(
                name=name,
                boot_id=boot_id,
                grace_ms=grace_ms,
                not_after_unix_s=not_after_s,
                proof=drain_proof(secret, name, boot_id, grace_ms, not_after_s) if secret else "",
            )
            told: registry_pb2.DrainServiceResponse = await stub.DrainService(
                request, timeout=_CALL_TIMEOUT_S, metadata=gate_proof(secret, REGISTRY)
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, f"draining {name}") from error
    return told


def _default_secret(address: str, data_dir: str) -> Path:
    from orchestrator.arguments import default_run_dir

    path = default_run_dir(address, data_dir) / "secret"
    if not path.is_file():
        raise InvalidInput(
            f"no `tandem up` of this user at {address} has its secret in {path}: name the file with "
            "--secret-file, or the --data-dir that `tandem up` was given"
        )
    return path


COMMAND = Command(
    name="drain",
    summary="have one service leave without a gap: its streams move to others first",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
