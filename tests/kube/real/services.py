"""What a cluster does for Services: addresses that lead to ready pods, and names."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

from orchestrator.backends.kubernetes_api import KubeApi
from tandem.core.errors import TandemError

LOOK_S = 0.2
PIECE = 1 << 16
Item = dict[str, Any]
Key = tuple[str, int]


def names(services: list[Item], endpoints: list[Item]) -> str:
    """Pure: the hosts file that says what a cluster's DNS would."""
    lines = ["127.0.0.1 localhost"]
    spots = {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in endpoints}
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        base = f"{meta['name']}.{meta['namespace']}"
        whole = [f"{base}.svc.cluster.local", f"{base}.svc", base]
        if spec.get("clusterIP") not in {None, "", "None"}:
            lines.append(f"{spec['clusterIP']} {' '.join(whole)}")
            continue
        for address in addresses(spots.get((meta["namespace"], meta["name"])), spec):
            lines.append(f"{address['ip']} {' '.join(whole)}")
            if host := address.get("hostname"):
                lines.append(f"{address['ip']} {' '.join(f'{host}.{each}' for each in whole)}")
    return "\n".join(lines) + "\n"


def addresses(endpoint: Item | None, spec: Item) -> list[Item]:
    """Those of ready pods, and of all where the Service wants so."""
    found: list[Item] = []
    for subset in (endpoint or {}).get("subsets", []) or []:
        found += subset.get("addresses", []) or []
        if spec.get("publishNotReadyAddresses"):
            found += subset.get("notReadyAddresses", []) or []
    return found


class Services:
    """Looks at Services and Endpoints, writes the hosts file, and carries connections to ready pods."""

    def __init__(self, api: KubeApi, hosts: Path) -> None:
        self._api, self._hosts = api, hosts
        self._servers: dict[Key, asyncio.Server] = {}
        self._targets: dict[Key, list[tuple[str, int]]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        hosts.write_text("127.0.0.1 localhost\n")
        hosts.with_name("resolv.conf").write_text("nameserver 10.96.0.10\noptions timeout:1 attempts:1\n")

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                with contextlib.suppress(TandemError):
                    await self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            for server in self._servers.values():
                server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await asyncio.sleep(0)  # transports that were aborted close in the next turn

    async def _look(self) -> None:
        services = (await self._api.call("GET", "/api/v1/services"))["items"]
        endpoints = (await self._api.call("GET", "/api/v1/endpoints"))["items"]
        text = names(services, endpoints)
        if text != self._hosts.read_text():
            # In place: containers have this very file bound to theirs.
            with self._hosts.open("r+") as file:
                file.write(text)
                file.truncate()
        spots = {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in endpoints}
        wanted: dict[Key, list[tuple[str, int]]] = {}
        for service in services:
            meta, spec = service["metadata"], service["spec"]
            if spec.get("clusterIP") in {None, "", "None"} or meta["name"] == "kubernetes":
                continue
            found = spots.get((meta["namespace"], meta["name"]), {})
            for port in spec["ports"]:
                wanted[spec["clusterIP"], port["port"]] = targets(found, port)
        for key in set(self._servers) - set(wanted):
            self._servers.pop(key).close()
        self._targets = wanted
        for key in set(wanted) - set(self._servers):
            self._servers[key] = await asyncio.start_server(self._taker(key), *key)

    def _taker(self, key: Key) -> Any:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                await self._carry(key, reader, writer)
            except asyncio.CancelledError:
                pass  # the end of the cluster; whoever made this task would complain of it
            finally:
                self._connections.discard(task)

        return take

    async def _carry(self, key: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        choice = self._targets.get(key, [])
        if not choice:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(*random.choice(choice))
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_pipe(reader, back), _pipe(there, writer))
        except OSError:
            pass
        finally:
            writer.transport.abort()
            back.transport.abort()


def targets(endpoint: Item, port: Item) -> list[tuple[str, int]]:
    """Pure: ready addresses behind one port of a Service."""
    found = []
    for subset in endpoint.get("subsets", []) or []:
        for each in subset.get("ports", []) or []:
            if each.get("name", "") == port.get("name", ""):
                found += [(address["ip"], each["port"]) for address in subset.get("addresses", []) or []]
    return found


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
