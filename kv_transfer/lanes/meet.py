"""Shell. The nonce file by which two ends prove that they see the same directory of the same host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
from pathlib import Path

_NAME = re.compile(r"tandem-[0-9a-f]{24}\.nonce")
_LEFTOVER = re.compile(r"tandem-[0-9a-f]{24}\.(nonce|sock)")
_LEFTOVER_AGE_S = 60.0
_CONTENT_BYTES = 32


class NonceFile:
    """A file of random content; the peer that answers with its digest can read it. Closing removes it."""

    def __init__(self, directory: str) -> None:
        """Raises OSError when the directory cannot be written."""
        _sweep(directory)
        content = secrets.token_bytes(_CONTENT_BYTES)
        self.name = f"tandem-{secrets.token_hex(12)}.nonce"
        self.proof = hashlib.sha256(content).digest()
        self._path = Path(directory, self.name)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Remove the file; idempotent."""
        self._path.unlink(missing_ok=True)


def prove_nonce(directory: str, name: str) -> bytes:
    """The digest of the peer's nonce file; empty when this end cannot read it."""
    if not _NAME.fullmatch(name):
        return b""
    with contextlib.suppress(OSError):
        # Others may write to the directory: opening a pipe of theirs would wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(Path(directory, name), flags)
        try:
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            content = os.read(fd, _CONTENT_BYTES + 1) if is_file else b""
        finally:
            os.close(fd)
        if len(content) == _CONTENT_BYTES:
            return hashlib.sha256(content).digest()
    return b""


def _sweep(directory: str) -> None:
    """Remove what a process killed in the middle of a handshake left behind."""
    oldest = time.time() - _LEFTOVER_AGE_S
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if _LEFTOVER.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)
