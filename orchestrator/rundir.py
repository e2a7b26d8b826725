"""Shell: the run directory of one orchestrator: lock, cluster secret, logs, journal, address."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from pathlib import Path

from tandem.core.errors import AlreadyExists, InvalidInput
from tandem.core.secret_file import read_secret

_SECRET_BYTES = 32
_LOCK = "lock"


class RunDir:
    """An open run directory; nobody else has it until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not _make_directory(path):
                _check_private(path)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInput(f"cannot use the run directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.chmod(0o700)
        except BlockingIOError:
            os.close(self._lock)
            raise AlreadyExists(
                f"another orchestrator uses {path}; stop it, or choose another --run-dir and --listen"
            ) from None

    @property
    def secret_file(self) -> Path:
        """File with the cluster secret."""
        return self.path / "secret"

    @property
    def log_dir(self) -> Path:
        """Where the services' output goes."""
        return self.path / "logs"

    @property
    def journal_dir(self) -> Path:
        """Where the streams' records are."""
        return self.path / "streams"

    def secret(self) -> bytes:
        """The cluster secret, made at first use. Text without a line end: raw is stripped."""
        with contextlib.suppress(FileExistsError):
            scratch = self.path / "secret.new"
            scratch.unlink(missing_ok=True)
            handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_hex(_SECRET_BYTES).encode())
            with contextlib.suppress(FileExistsError):
                os.link(scratch, self.secret_file)
            scratch.unlink()
        return read_secret(self.secret_file)

    def write_address(self, address: str) -> None:
        """Where the orchestrator listens, for those who know only the run directory."""
        scratch = self.path / "address.new"
        scratch.write_text(address)
        scratch.replace(self.path / "address")

    def close(self) -> None:
        """Let the next orchestrator in."""
        os.close(self._lock)


def make_private(path: Path) -> None:
    """A directory that only we use, by its name: made, or checked to be ours.

    Raises:
        InvalidInput: it cannot be made, or belongs to somebody else.
    """
    try:
        _make_directory(path)
        if not stat.S_ISDIR(path.lstat().st_mode) or path.lstat().st_uid != os.getuid():
            raise InvalidInput(f"{path} is not a directory of yours; choose another --run-dir")
        path.chmod(0o700)
    except OSError as error:
        raise InvalidInput(f"cannot use the directory {path}: {error.strerror}") from error


def _make_directory(path: Path) -> bool:
    """False when it was there before."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _check_private(path: Path) -> None:
    """A directory that we did not make: it must be ours, and closed to others or known as a run directory."""
    state = path.stat()
    if state.st_uid != os.getuid():
        raise InvalidInput(f"the run directory {path} belongs to somebody else; choose another --run-dir")
    if state.st_mode & 0o077 and not (path / _LOCK).is_file():
        raise InvalidInput(
            f"the directory {path} is open to others (mode {stat.S_IMODE(state.st_mode):03o}) and was not "
            "made as a run directory: name one that does not exist yet, or close this one with "
            f"`chmod 700 {path}`"
        )


def read_address(path: Path) -> str | None:
    """Where the orchestrator of a run directory listened last."""
    try:
        return (path / "address").read_text().strip() or None
    except OSError:
        return None
