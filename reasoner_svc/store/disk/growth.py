"""Shell. The growing end of a stream: which data file is appended to, and when a new one begins.

The sink has a file of its own, so that it never keeps a large one alive.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from reasoner_svc.store.disk.appending import Batch, write_batch
from reasoner_svc.store.disk.datafile import DataFile
from reasoner_svc.store.disk.folder import StreamFolder
from reasoner_svc.store.disk.format import FILE_HEAD_BYTES, FileHead, encode_file_head
from reasoner_svc.store.disk.slots import Held, Identity, WriteSettings


class Growth:
    """Appends batches to data files. Owned by the stream, which knows the blocks."""

    def __init__(
        self,
        folder: StreamFolder,
        identity: Identity,
        settings: WriteSettings,
        files: dict[int, DataFile],
        current: DataFile | None,
        next_file: int,
    ) -> None:
        self.files = files
        self.current = current
        """The file that is appended to."""
        self.next_file = next_file
        self.unnamed = True
        """A name in the directory may not be on stable storage."""
        self._folder = folder
        self._identity = identity
        self._settings = settings
        self._system = folder.files

    def append(self, batch: Batch, now_us: int) -> Iterator[list[tuple[Held, bytes]]]:
        """Write file by file, giving what got in; raises OSError after the blocks before the failing one."""
        for part in batch.parts(self._settings.file_bytes, self._room(now_us), FILE_HEAD_BYTES):
            file = self.current
            if file is None or part.is_sink or part.total_bytes > self._room(now_us):
                file = self._new_file(sink=part.is_sink)
            if file.fd is None:
                file.fd = self._system.open_to_write(self._folder.data(file.number))
            written, error = write_batch(self._system, file, part, self._identity.stream, now_us)
            for held, _ in written:
                file.add(held)
                file.dirty = True
            yield written
            if error is not None:
                self._give_up_tail(file)
                raise error
            if part.is_sink:
                self.current = None

    def _room(self, now_us: int) -> int:
        """Bytes that the current file still takes."""
        file, file_s = self.current, self._settings.file_s
        if file is None or (file_s and file.first_us and now_us - file.first_us > file_s * 1e6):
            return 0
        return self._settings.file_bytes - file.size

    def _new_file(self, *, sink: bool) -> DataFile:
        number, self.next_file = self.next_file, self.next_file + 1
        path = self._folder.data(number)
        head = encode_file_head(FileHead(self._identity, number, sink))
        fd = self._system.create(path)
        try:
            if self._system.pwritev(fd, [head], 0) != len(head):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                self._system.unlink(path)
            raise
        file = DataFile(number, FILE_HEAD_BYTES, sink, fd=fd, dirty=True, durable_size=FILE_HEAD_BYTES)
        self.files[number] = self.current = file
        self.unnamed = True
        return file

    def _give_up_tail(self, file: DataFile) -> None:
        """Cut off what is not a whole record; if even that fails, nothing is appended to the file again."""
        try:
            assert file.fd is not None, file
            self._system.truncate(file.fd, file.size)
        except OSError:
            self.current = None
        if not file.numbers:
            self.current = None
            file.close()
            with contextlib.suppress(OSError):
                self._system.unlink(self._folder.data(file.number))
                del self.files[file.number]
