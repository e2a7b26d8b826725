"""Shell. Every system call that changes the disk, in one place: a test can stop before any of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
Buffer = bytes | memoryview


class Files:
    """The system itself. A test overrides `call`."""

    def call(self, name: str, work: Callable[[], Result]) -> Result:
        """Do one step; `name` says which kind."""
        return work()

    def create(self, path: Path) -> int:
        """A new file, open for writing."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        return self.call("create", lambda: os.open(path, flags, 0o600))

    def open_to_write(self, path: Path) -> int:
        """A file that exists, open for writing."""
        return self.call("open", lambda: os.open(path, os.O_WRONLY | os.O_CLOEXEC))

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write as much as the system takes; returns how much."""
        return self.call("write", lambda: os.pwritev(fd, buffers, offset))

    def fdatasync(self, fd: int) -> None:
        """Bring a file's bytes and length to stable storage."""
        self.call("fsync", lambda: os.fdatasync(fd))

    def truncate(self, fd: int, length: int) -> None:
        """Cut a file off."""
        self.call("truncate", lambda: os.ftruncate(fd, length))

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or directory another name."""
        self.call("rename", lambda: os.rename(old, new))

    def unlink(self, path: Path) -> None:
        """Remove a file; it may be gone already."""
        self.call("unlink", lambda: path.unlink(missing_ok=True))

    def mkdir(self, path: Path) -> None:
        """Make a directory unless it is there, its parents too."""
        self.call("mkdir", lambda: path.mkdir(mode=0o700, parents=True, exist_ok=True))

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        self.call("rmdir", path.rmdir)

    def sync_folder(self, path: Path) -> None:
        """Bring a directory's names to stable storage."""

        def work() -> None:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

        self.call("fsync", work)
