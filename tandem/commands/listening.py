"""Pure but for /proc: every listener of a deployment, what protects it, and what is listened on besides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from tandem.client.overview import Status
from tandem.commands.findings import Finding, Mark
from tandem.core.listeners import LISTENERS, SEPARATOR, listeners_of, on_every_interface
from tandem.wire.channel import is_loopback

_HARMLESS = ("health", "metrics")
"""They tell no more than that the process lives, and numbers."""


def listener_findings(status: Status) -> Iterator[Finding]:
    """One line for each listener that the processes name, then what the kernel knows besides."""
    named = list(status.listeners)
    for service in status.services:
        told = service.details.get(LISTENERS, "")
        named += [_of(service.name, one) for one in told.split(SEPARATOR) if one]
    yield from (describe_listener(one) for one in named)
    pids = {"orchestrator": status.build.pid} | {each.name: each.build.pid for each in status.services}
    yield from _unnamed(pids, [one.split()[0] for one in named])


def describe_listener(text: str) -> Finding:
    """What is to be said of ``host:port what (protections)``."""
    address, _, rest = text.partition(" ")
    what, _, protections = rest.rstrip(")").partition(" (")
    if is_loopback(address):
        return Finding(Mark.OK, f"listens on {text}, for this machine only")
    reach = f"listens on {text}, which other machines can reach"
    if what.split()[:1] and what.split()[0] in _HARMLESS:
        return Finding(Mark.OK, reach)
    guards = set(protections.split(", "))
    if not guards & {"mtls", "tokens", "cluster secret"}:
        return Finding(
            Mark.BAD, reach, "nobody has to show anything there: --tokens, or --tls-ca for certificates"
        )
    if not guards & {"tls", "mtls"}:
        return Finding(
            Mark.NOTE, reach, "it can be read on the way: --tls-cert and --tls-key, or a trusted network"
        )
    return Finding(Mark.OK, reach)


def _of(name: str, text: str) -> str:
    address, _, rest = text.partition(" ")
    what, _, protections = rest.partition(" (")
    return f"{address} {what} of {name} ({protections}"


def _unnamed(pids: dict[str, int], named: Iterable[str]) -> Iterator[Finding]:
    """What processes of this machine listen on and did not say: transfer lanes, and what libraries open."""
    known = set(named)
    for name, pid in pids.items():
        if pid <= 0 or pid == os.getpid():
            continue
        found = [address for address in listeners_of(pid) if address not in known]
        everywhere = on_every_interface(found)
        for address in found:
            what = f"{name} also listens on {address}: a lane of a transfer pair, or a library's"
            if address in everywhere:
                yield Finding(Mark.BAD, what, "no part of Tandem listens everywhere: see what opened it")
            else:
                yield Finding(Mark.OK if is_loopback(address) else Mark.NOTE, what)
