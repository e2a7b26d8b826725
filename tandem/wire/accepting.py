"""Pure: what is agreed when a service attaches to an orchestrator: the version, and who the orchestrator is.

Version 1 is that of release 0.1.0. From 2 on the orchestrator shows, too, that it knows the cluster secret: a
service does not beat for, and is not told to leave by, somebody who merely listens at the address.
"""

from __future__ import annotations

import hashlib
import hmac

from tandem import __version__
from tandem.core.errors import Incompatible, InvalidInput, PermissionRefused
from tandem.core.versions import Spoken, agree, read_spoken
from tandem.wire.gen.tandem.v1 import registry_pb2

PROTOCOL_VERSION = 2
LOWEST_PROTOCOL = 1
SPOKEN = Spoken(LOWEST_PROTOCOL, PROTOCOL_VERSION)
PROVEN_FROM = 2
"""From this version on the orchestrator proves itself."""
MAX_NONCE_CHARS = 64
_WHAT = "the protocol of attachments"
_BEFORE_RANGES = "0.1.0"


def accept(hello: registry_pb2.AttachRequest.Hello, own: Spoken = SPOKEN) -> int:
    """The version to speak with a service. Raises `Incompatible` or `InvalidInput`."""
    if len(hello.nonce) > MAX_NONCE_CHARS:
        raise InvalidInput(f"a nonce of {len(hello.nonce)} characters")
    peer = read_spoken(hello.protocol, hello.newest_protocol)
    who = f"{hello.name[:64]} ({hello.build.version[:32] or 'of unknown version'})"
    return agree(_WHAT, own, peer, me=f"the orchestrator ({__version__})", who=who)


def accepted_proof(secret: bytes, hello: registry_pb2.AttachRequest.Hello, version: int) -> str:
    """HMAC-SHA256 in hex that shows a service that whoever accepts its hello knows the cluster secret."""
    parts = ("accepted", hello.name, hello.build.boot_id, hello.nonce, str(version))
    return hmac.new(secret, "|".join(parts).encode(), hashlib.sha256).hexdigest()


def check_accepted(
    accepted: registry_pb2.AttachResponse.Accepted,
    secret: bytes,
    hello: registry_pb2.AttachRequest.Hello,
    own: Spoken = SPOKEN,
) -> int:
    """The version that the orchestrator chose.

    Raises:
        Incompatible: this service does not speak it.
        PermissionRefused: the orchestrator does not know the secret.
    """
    version = accepted.protocol or LOWEST_PROTOCOL
    if version not in own:
        raise Incompatible(
            f"the orchestrator ({orchestrator_version(accepted)}) chose {version} of {_WHAT}, "
            f"{hello.name} ({__version__}) speaks {own}"
        )
    expected = accepted_proof(secret, hello, version)
    if version >= PROVEN_FROM and not hmac.compare_digest(expected.encode(), accepted.proof.encode()):
        raise PermissionRefused("the orchestrator does not know the cluster secret of this service")
    return version


def orchestrator_version(accepted: registry_pb2.AttachResponse.Accepted) -> str:
    """The release of an orchestrator."""
    return accepted.build.version[:32] or _BEFORE_RANGES
