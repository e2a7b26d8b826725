"""Certificates for tests, made by the openssl of the machine: a CA, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tandem.core.tls_files import TlsFiles

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Ca:
    """One authority, with its files in `folder`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._key, self.file = folder / f"{name}.key", folder / f"{name}.pem"
        _openssl(
            "req", "-x509", *_KEY, "-keyout", self._key, "-out", self.file, "-days", 2, "-subj", f"/CN={name}"
        )

    def issue(self, name: str, *, at: str = "IP:127.0.0.1", into: Path | None = None) -> TlsFiles:
        """A certificate for `at`; its files are named after `name`, or are those of `into`."""
        stem = into or self._folder / name
        cert, key = stem.with_suffix(".crt"), stem.with_suffix(".key")
        request, fresh, extensions = (self._folder / f"{name}.{end}" for end in ("csr", "new", "ext"))
        extensions.write_text(f"subjectAltName={at}\n")
        fresh_key = self._folder / f"{name}.newkey"
        _openssl("req", *_KEY, "-keyout", fresh_key, "-out", request, "-subj", f"/CN={name}")
        signed_by = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, "-out", fresh, "-days", 2, *signed_by)
        fresh_key.replace(key)
        fresh.replace(cert)
        return TlsFiles(cert=str(cert), key=str(key), ca=str(self.file))


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
