"""A TCP proxy that can be cut: connections reset and refused, or kept and starved, as a bad cable does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

CHUNK = 64 * 1024


class Proxy:
    """Listens on a loopback port of its own and forwards to `target` (host, port)."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self.address = ""

    async def start(self) -> str:
        """The address to connect to."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        return self.address

    def cut(self) -> None:
        """Reset every connection and every new one, until `heal`."""
        self._refuses = True
        for writer in list(self._writers):
            _reset(writer)

    def starve(self) -> None:
        """Keep every connection, take new ones, and let nothing through, until `heal`."""
        self._flows.clear()

    def heal(self) -> None:
        """Work again. Bytes that were held back go on."""
        self._refuses = False
        self._flows.set()

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            _reset(writer)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            if self._refuses:
                return
            there, back = await asyncio.open_connection(*self._target)
            self._writers.add(back)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, back))
                    group.create_task(self._pump(there, writer))
            finally:
                self._writers.discard(back)
                _reset(back)
        except* (OSError, _Over):
            pass
        finally:
            self._writers.discard(writer)
            _reset(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        raise _Over


class _Over(Exception):
    """One direction has ended: so does the other."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """As when a peer vanishes: what was not delivered never will be."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
