"""Shell: TLS credentials of gRPC from files, read again when the files change.

A server looks at its files at each new connection (gRPC asks for its certificates then), so that a renewed
certificate is served without a restart; one that does not fit its key is not taken, and the former stays.
A channel reads them when it is made: whoever connects anew makes a new one.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc

from tandem.core.errors import InvalidInput
from tandem.core.tls_files import TlsFiles

log = logging.getLogger(__name__)

MAX_PEM_BYTES = 1 << 20
"""A file that is longer is no certificate."""


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """For a port that serves TLS. Raises `InvalidInput` that names the file which cannot be used."""
    source = _Certificates(files)
    credentials: grpc.ServerCredentials = _grpc.dynamic_ssl_server_credentials(
        source.first, source.renewed, require_client_authentication=files.is_mutual
    )
    return credentials


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """For calls to peers that serve TLS. Raises `InvalidInput` that names the file which cannot be used."""
    roots = _read(files.trusts, "--tls-ca")
    if not files.cert:
        return grpc.ssl_channel_credentials(roots)
    _check_pair(files)
    key, chain = _read(files.key, "--tls-key"), _read(files.cert, "--tls-cert")
    return grpc.ssl_channel_credentials(roots, private_key=key, certificate_chain=chain)


def stamps(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    """What changes when one of the files does."""
    return tuple(_stamp(path) for path in (files.cert, files.key, files.ca))


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # of what links point to: Kubernetes replaces secrets by moving a link
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def check_files(files: TlsFiles) -> None:
    """Raises `InvalidInput` for files that cannot be used, before anything heavy is begun."""
    if files.trusts:
        channel_credentials(files)


class _Certificates:
    """What a server shows. gRPC calls `renewed` from threads of its own."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._seen = stamps(files)
        self.first = self._load()

    def renewed(self) -> Any:
        """The present configuration when the files changed since it was asked for last, else None."""
        with self._lock:
            seen = stamps(self._files)
            if seen == self._seen:
                return None
            # Remembered though it may not fit: half of a pair that is being replaced is looked at again when
            # the other half is there, and said once.
            self._seen = seen
            try:
                renewed = self._load()
            except InvalidInput as error:
                log.error("the certificate is not renewed, the former stays: %s", error)
                return None
            log.info("the certificate %s was read anew", self._files.cert)
            return renewed

    def _load(self) -> Any:
        files = self._files
        _check_pair(files)
        roots = _read(files.ca, "--tls-ca") if files.ca else None
        pair = (_read(files.key, "--tls-key"), _read(files.cert, "--tls-cert"))
        return _grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _check_pair(files: TlsFiles) -> None:
    """gRPC says nothing of files that do not fit, and fails each handshake: ask the standard library."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
        if files.ca:
            context.load_verify_locations(files.ca)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        named = f"--tls-cert {files.cert}, --tls-key {files.key}" + f", --tls-ca {files.ca}" * bool(files.ca)
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InvalidInput(f"these files make no TLS: {named}: {why}") from error


def _no_password() -> bytes:
    """Instead of asking on the terminal."""
    return b""


def _read(path: str, flag: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{flag}: cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_PEM_BYTES or b"-----BEGIN" not in data:
        raise InvalidInput(f"{flag}: {path} is no PEM file")
    return data


_grpc: Any = grpc
"""The stubs of grpc do not know the half of it that reads certificates anew."""
