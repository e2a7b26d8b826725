"""What a client shows and checks: TLS files and a token. Reads files; knows nothing of calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tandem.core.errors import InvalidInput
from tandem.core.tls_files import NO_TLS, TlsFiles

MAX_TOKEN_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How an address is called. Nothing of it is ever shown in a message."""

    tls: TlsFiles = NO_TLS
    """With `ca` the server must show a certificate signed by it; `cert` and `key` are shown to the server."""
    token_file: str = ""
    """File with a token; read again for each connection, as a token may be replaced."""

    token: str = field(default="", repr=False)
    """The token itself, where it is not in a file."""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call. Raises `InvalidInput` for what is no token."""
        token = read_token(Path(self.token_file)) if self.token_file else self.token
        if token:
            token = _checked(token.encode(), "the token that was given")
        return (("authorization", f"Bearer {token}"),) if token else ()


NO_SECURITY = Security()


def read_token(path: Path) -> str:
    """The token in a file, without the white space around it. Raises `InvalidInput`; never quotes it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKEN_BYTES + 3).strip()
    except OSError as error:
        raise InvalidInput(f"cannot read the token file {path}: {error.strerror or error}") from error
    return _checked(data, f"the token file {path}")


def _checked(data: bytes, where: str) -> str:
    """Without this, gRPC would say no more than that a header is illegal."""
    if not data or len(data) > MAX_TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in data):
        raise InvalidInput(
            f"{where} must hold one token, of 1 to {MAX_TOKEN_BYTES} characters, and no white space"
        )
    return data.decode("ascii")
