"""Shell. A TCP proxy that misbehaves on demand: resets, refusals, silence, delay, a slow line."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

_PIECE = 16 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends a reset."""


class Proxy:
    """Stands between clients and one address. One event loop."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stalled: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self.address = ""
        """To connect to, once it has started."""
        self.bytes_per_s = 0.0
        """Of each direction of a connection; 0: as fast as it goes."""
        self.delay_s = 0.0

    async def start(self) -> str:
        """Listen on a free port of the loopback; returns the address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self.address

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> int:
        """Reset every connection, both ends; returns how many there were."""
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for writer in pair:
                _reset(writer)
        return len(pairs)

    def cut(self) -> None:
        """Reset every connection, and every new one until `heal`."""
        self._refuses = True
        self.reset()

    def starve(self) -> None:
        """Connections stay, new ones are taken, and nothing comes through until `heal`: then it goes on."""
        self._flows.clear()

    def stall(self) -> None:
        """The present connections stay open and carry nothing any more; new ones work."""
        self._stalled |= {writer for pair in self._pairs for writer in pair}

    def heal(self) -> None:
        """Full speed again, for all but the connections that were stalled."""
        self.bytes_per_s = self.delay_s = 0.0
        self._refuses = False
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            _reset(writer)
            return
        if self._refuses:  # it was cut meanwhile
            _reset(writer)
            _reset(up_writer)
            return
        pair = (writer, up_writer)
        self._pairs.add(pair)
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(_PIECE):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                if sink in self._stalled:
                    await asyncio.Event().wait()
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._pairs.discard(pair)
            for writer in pair:
                self._stalled.discard(writer)
                writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    """As when a peer vanishes: what was not delivered never will be."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
