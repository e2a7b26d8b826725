"""Shell. One stream's directory: its names, its lock, and where damaged files are put."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path

from reasoner_svc.store.disk.errors import StreamHeld
from reasoner_svc.store.disk.files import Files
from reasoner_svc.store.disk.slots import Aside, Claim
from tandem.core.errors import Unavailable
from tandem.core.ids import StreamId, is_valid_id

PREFIX = "s-"
"""Before the stream's id: no id may be a name that means something to the system or to us."""
GONE = "gone-"
"""Before what is being deleted."""
_DATA = re.compile(r"(\d{8,})\.tkv")


def folder_of(root: Path, stream: StreamId) -> Path:
    """The directory of a stream."""
    return root / f"{PREFIX}{stream}"


def stream_of(folder: Path) -> StreamId | None:
    """The stream of a directory, None when it is not one."""
    name = folder.name.removeprefix(PREFIX)
    return StreamId(name) if folder.name.startswith(PREFIX) and is_valid_id(name) else None


class StreamFolder:
    """The names in a stream's directory."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self.files = files
        self._lock: int | None = None

    @property
    def catalogue(self) -> Path:
        """The database."""
        return self.path / "catalogue.sqlite"

    @property
    def aside(self) -> Path:
        """Where files go that are not read again."""
        return self.path / "aside"

    def data(self, number: int) -> Path:
        """A data file."""
        return self.path / f"{number:08d}.tkv"

    def data_numbers(self) -> list[int]:
        """The data files that are there, ascending."""
        names = (_DATA.fullmatch(path.name) for path in self.path.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def lock(self, *, make: bool) -> None:
        """Take the stream. Raises StreamHeld, or FileNotFoundError when there is none and none is made."""
        assert self._lock is None, f"locked twice: {self.path}"
        while True:
            if make:
                self.files.mkdir(self.path)
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise StreamHeld(f"another process has {self.path} open", retry_after_s=1.0) from error
            if self._is_ours(fd):
                self._lock = fd
                return
            os.close(fd)  # Deleted between opening and locking: a lock on a name that is gone.

    def unlock(self) -> None:
        """Let the stream go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def claim(self, claim: Claim) -> list[Aside]:
        """Make the locked directory `claim`'s: what is not of it, or cannot be used, is set aside."""
        known = self._incarnation()
        reason = claim.spoilt
        if not reason and (known != claim.incarnation if known and claim.incarnation else claim.fresh):
            reason = "it is of another stream that had this id"
        aside = []
        if reason:
            aside = [self.set_aside(self.data(number), reason) for number in self.data_numbers()]
            if self.catalogue.exists():
                aside.append(self.set_catalogue_aside(reason))
        if claim.incarnation not in {"", known}:
            self._name(claim.incarnation)
        return aside

    def _name(self, incarnation: str) -> None:
        scratch = self._owner.with_suffix(".new")
        self.files.unlink(scratch)
        fd = self.files.create(scratch)
        try:
            self.files.pwritev(fd, [incarnation.encode()], 0)
            self.files.fdatasync(fd)
        finally:
            os.close(fd)
        self.files.rename(scratch, self._owner)

    @property
    def _owner(self) -> Path:
        """The file that names the incarnation."""
        return self.path / "incarnation"

    def _incarnation(self) -> str:
        """Empty when nobody said, or the loss of power took it."""
        try:
            name = self._owner.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return name if is_valid_id(name) else ""

    def set_aside(self, path: Path, reason: str) -> Aside:
        """Move a file where nobody reads it, and say why beside it."""
        self.files.mkdir(self.aside)
        name, count = path.name, 0
        while (self.aside / name).exists():
            count += 1
            name = f"{path.name}.{count}"
        self.files.rename(path, self.aside / name)
        with contextlib.suppress(OSError):  # The note is for people; a full disk may refuse it.
            (self.aside / f"{name}.reason").write_text(reason + "\n")
        return Aside(name, reason)

    def set_catalogue_aside(self, reason: str) -> Aside:
        """The database with its log."""
        first: Aside | None = None
        for suffix in ("", "-wal", "-shm"):
            path = self.catalogue.with_name(self.catalogue.name + suffix)
            if path.exists():
                moved = self.set_aside(path, reason)
                first = first or moved
        return first or Aside(self.catalogue.name, reason)

    def remove(self) -> None:
        """Delete the directory and all in it; under another name first, so that half of it is never found."""
        if not self.path.name.startswith(GONE):
            gone = self.path.with_name(f"{GONE}{os.getpid()}-{os.urandom(4).hex()}-{self.path.name}")
            self.files.rename(self.path, gone)
            self.path = gone
        for place, folders, names in os.walk(self.path, topdown=False):
            for name in names:
                self.files.unlink(Path(place, name))
            for name in folders:
                self.files.rmdir(Path(place, name))
        self.files.rmdir(self.path)
        self.files.sync_folder(self.path.parent)

    def bytes_aside(self) -> int:
        """Bytes of the files that were set aside."""
        try:
            return sum(path.stat().st_size for path in self.aside.iterdir())
        except OSError:
            return 0

    def _is_ours(self, fd: int) -> bool:
        try:
            named = (self.path / "lock").stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(f"cannot look at the lock of {self.path}: {error}") from error
        held = os.fstat(fd)
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
