"""Shell. The port that Prometheus scrapes: plain HTTP, a thread of its own, few connections at once."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from tandem.core.addresses import listen_problem, split_address
from tandem.core.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)

MAX_AT_ONCE = 8
"""Connections; more are closed at once. A scraper needs one."""
_CONNECTION_S, _WHOLE_S = 10.0, 30.0
"""Longest silence of a connection, and its longest life: few that say a byte at times could take all."""
_METHODS = ("GET", "HEAD")


class _Handler(WSGIRequestHandler):
    timeout = _CONNECTION_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Scrapes are no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self._room = threading.BoundedSemaphore(MAX_AT_ONCE)
        super().__init__(*args)

    def server_bind(self) -> None:
        """Without the look-up of the host's name, which can take seconds and is of no use here."""
        socketserver_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, unless there are too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See the base class."""
        end = threading.Timer(_WHOLE_S, self._cut_off, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._room.release()

    def _cut_off(self, request: socket.socket) -> None:
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away is no news; a scrape that failed was answered with 500."""
        log.debug("a scrape failed", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


def socketserver_bind(server: WSGIServer) -> None:
    """Bind and name the server as `HTTPServer.server_bind` does, without asking for a name."""
    if server.allow_reuse_address:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.socket.bind(server.server_address)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = str(server.server_address[0]), server.server_address[1]
    server.setup_environ()


class MetricsServer:
    """One listening port."""

    def __init__(self, registry: CollectorRegistry, listen: str) -> None:
        """Listen at `listen` (host:port; port 0 picks a free one) from now on.

        Raises InvalidInput for a wildcard or no address, Unavailable when it is taken or not ours.
        """
        if problem := listen_problem(listen):
            raise InvalidInput(f"--metrics: {problem}")
        host, port = split_address(listen)
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, _app(registry), server_class=kind, handler_class=_Handler)
        except OSError as error:
            raise Unavailable(f"--metrics: cannot listen on {listen}: {error.strerror}") from error
        bound = self._server.server_port
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more. Waits for a tenth of a second at most."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(1.0)


def _app(registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    scraped = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in _METHODS or environ["PATH_INFO"] != "/metrics":
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"the metrics are at /metrics\n"]
        try:
            result: Iterable[bytes] = scraped(environ, start)
        except Exception as error:
            log.warning("a scrape failed: %s: %s", type(error).__name__, error)
            start("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the metrics could not be read; the log has details\n"]
        return result

    return app
