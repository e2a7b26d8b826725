"""Listeners: what processes say of them, and the check of each process by itself."""

from __future__ import annotations

import os
import socket

import pytest

from tandem.core.errors import InvalidInput
from tandem.core.listeners import check_own_listeners, describe, listeners_of, service_listeners, tls_words
from tandem.core.tls_files import NO_TLS, TlsFiles

MUTUAL = TlsFiles(cert="a", key="b", ca="c")


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, ""), (socket.AF_INET6, "::"), (socket.AF_INET6, "::ffff:0.0.0.0")]
)
def test_a_process_that_listens_everywhere_does_not_start(family: socket.AddressFamily, host: str) -> None:
    check_own_listeners()
    with socket.socket(family) as everywhere:
        everywhere.bind((host, 0))
        check_own_listeners()  # bound, and nobody can connect yet
        everywhere.listen()
        port = everywhere.getsockname()[1]
        assert f"*:{port}" in listeners_of(os.getpid())
        with pytest.raises(InvalidInput, match=f"port {port}"):
            check_own_listeners()
        check_own_listeners(allowed=True)
    check_own_listeners()


def test_one_address_is_no_trouble() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        check_own_listeners()
        assert f"127.0.0.1:{one.getsockname()[1]}" in listeners_of("self")


def test_a_socket_of_version_6_shows_the_address_of_version_4_that_it_has() -> None:
    """As those of gRPC: processes name what they were told to listen on, and the two are compared."""
    with socket.socket(socket.AF_INET6) as one:
        one.bind(("::ffff:127.0.0.1", 0))
        one.listen()
        assert f"127.0.0.1:{one.getsockname()[1]}" in listeners_of("self")


def test_protections_in_words() -> None:
    assert describe("127.0.0.1:1", "front door") == "127.0.0.1:1 front door (plain)"
    assert describe("127.0.0.1:1", "front door", "tls", "tokens") == "127.0.0.1:1 front door (tls, tokens)"
    assert [tls_words(tls) for tls in (NO_TLS, TlsFiles(cert="a", key="b"), MUTUAL)] == ["", "tls", "mtls"]
    assert tls_words(TlsFiles(cert="a", key="b", ca="c", any_caller=True)) == "tls"
    said = service_listeners("10.0.0.1:1", MUTUAL, "10.0.0.1:2", "10.0.0.1:3")
    assert said == (
        "10.0.0.1:1 calls (mtls, cluster secret); 10.0.0.1:2 metrics (plain); 10.0.0.1:3 health (plain)"
    )
