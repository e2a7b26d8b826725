"""Pure. Which files protect connections, the same for every process and command.

With a certificate and its key a port speaks TLS. With a CA, peers are verified by it, and whoever calls must
show a certificate that it signed. The files are read by `tandem.wire.tls`, again whenever they change.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files; all empty: no TLS."""

    cert: str = ""
    """This process's certificate, followed by those between it and the CA."""
    key: str = ""
    ca: str = ""
    """Certificates that peers are verified by. A process with `cert` and without it verifies them by `cert`:
    one certificate that a whole deployment shares needs no CA."""
    name: str = ""
    """The name that peers' certificates carry, where it is not the address they are called at."""
    any_caller: bool = False
    """Callers need no certificate although there is a CA: for a front door whose clients bring tokens."""

    @property
    def serves(self) -> bool:
        """True when a port of this process speaks TLS."""
        return bool(self.cert)

    @property
    def is_mutual(self) -> bool:
        """True when whoever calls must show a certificate."""
        return bool(self.cert and self.ca and not self.any_caller)

    @property
    def trusts(self) -> str:
        """The file that peers are verified by; empty: they are called without TLS."""
        return self.ca or self.cert

    def problems(self) -> list[str]:
        """What cannot work, for people; no file is looked at."""
        found = []
        if bool(self.cert) != bool(self.key):
            found.append("--tls-cert and --tls-key are a pair: give both, or neither")
        if self.any_caller and not (self.cert and self.ca):
            found.append("--tls-any-caller is for a port with --tls-cert and --tls-ca")
        if self.name and not self.trusts:
            found.append("--tls-name says whose certificate is expected: it needs --tls-ca or --tls-cert")
        return found

    def flags(self) -> list[str]:
        """The same as options of a command line: a process of ours speaks to its children as to others."""
        pairs = {"--tls-cert": self.cert, "--tls-key": self.key, "--tls-ca": self.ca, "--tls-name": self.name}
        return [part for flag, value in pairs.items() if value for part in (flag, value)]


NO_TLS = TlsFiles()


def add_tls_arguments(parser: argparse.ArgumentParser, *, serves: bool) -> None:
    """The options; `serves`: of a process that listens, otherwise of one that only calls."""
    add = parser.add_argument_group("TLS (docs/security.md)").add_argument
    cert = "serve TLS with this certificate (PEM), and show it to peers" if serves else "certificate to show"
    add("--tls-cert", default="", metavar="FILE", help=f"{cert}; read again when it changes")
    add("--tls-key", default="", metavar="FILE", help="its key (PEM)")
    ca = "verify peers by this CA (PEM)" + ("; callers must show a certificate that it signed" * serves)
    add("--tls-ca", default="", metavar="FILE", help=ca)
    add(
        "--tls-name",
        default="",
        metavar="NAME",
        help="name in the certificates of peers, where they are called by another",
    )


def tls_from_arguments(args: argparse.Namespace) -> TlsFiles:
    """What was given. Check `problems`."""
    any_caller = getattr(args, "tls_any_caller", False)
    return TlsFiles(
        cert=args.tls_cert, key=args.tls_key, ca=args.tls_ca, name=args.tls_name, any_caller=any_caller
    )
