"""Shell: is a Ray protected? Asked without a token: settings of this side prove nothing."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from tandem.core.errors import InvalidInput, PermissionRefused, Unavailable

ASK_TIMEOUT_S = 5.0
_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Harmless, and behind the same check as everything else of a GCS."""
_REMEDY = (
    "whoever reaches it runs code on it. Start it with RAY_AUTH_MODE=token, after "
    "`ray get-auth-token --generate`, "
    "or add --insecure-ray where its network is trusted"
)


async def check_guarded(address: str, insecure: bool, environment: Mapping[str, str]) -> None:
    """Return when the GCS at `address` refuses callers without a token, or when `insecure` allows it not to.

    Raises:
        PermissionRefused: anybody may call it, or this side is told to use no token.
        Unavailable: nothing answers there.
        InvalidInput: something else does.
    """
    if not insecure and is_off(environment):
        raise PermissionRefused(f"RAY_AUTH_MODE={environment['RAY_AUTH_MODE']}: {_REMEDY}")
    if environment.get("RAY_USE_TLS") == "1":
        return  # It asks for certificates on both sides, so nobody without one gets this far.
    if not await _answers_strangers(address):
        return
    if not insecure:
        raise PermissionRefused(f"the Ray at {address} asks for no token: {_REMEDY}")


def is_off(environment: Mapping[str, str]) -> bool:
    """Whether the environment turns token authentication of Ray off."""
    return environment.get("RAY_AUTH_MODE", "token").lower() != "token"


async def _answers_strangers(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            await channel.unary_unary(_METHOD, _as_it_is, _as_it_is)(b"", timeout=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return False
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise InvalidInput(f"{address} is no Ray: `ray start --head` prints its address") from error
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise Unavailable(
                    f"no Ray answers at {address}: start it, or leave --address out to start one here"
                ) from error
    return True


def _as_it_is(message: bytes) -> bytes:
    return message
