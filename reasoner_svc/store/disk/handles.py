"""Shell. Descriptors of data files for readers, shared between threads and bounded in number.

A descriptor is never closed while somebody reads from it, so its number cannot come to mean another file.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reasoner_svc.store.disk.folder import StreamFolder
from tandem.core.errors import DataLost, Unavailable
from tandem.core.ids import StreamId

_Key = tuple[StreamId, int]


@dataclass(slots=True, eq=False)
class Handle:
    """A descriptor, how many read from it, and whether its file was deleted."""

    fd: int
    pins: int = 0
    gone: bool = False

    def check(self) -> None:
        """Raise DataLost when the file was deleted meanwhile."""
        if self.gone:
            raise DataLost("the data file was deleted while it was read")


class Handles:
    """Files open for reading."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._folders: dict[StreamId, StreamFolder] = {}
        self._handles: OrderedDict[_Key, Handle] = OrderedDict()

    def add_stream(self, stream: StreamId, folder: StreamFolder) -> None:
        """The files of a stream may be read from now on."""
        with self._lock:
            self._folders[stream] = folder

    def drop_stream(self, stream: StreamId) -> None:
        """They may not any more; reads under way end with DataLost."""
        with self._lock:
            self._folders.pop(stream, None)
            for key in [key for key in self._handles if key[0] == stream]:
                self._drop(self._handles.pop(key))

    def drop_file(self, stream: StreamId, file: int) -> None:
        """The same for one file."""
        with self._lock:
            handle = self._handles.pop((stream, file), None)
            if handle is not None:
                self._drop(handle)

    @contextmanager
    def pinned(self, stream: StreamId, file: int) -> Iterator[int]:
        """A descriptor to read from. Raises DataLost when the file is not there, before or after."""
        handle = self.take(stream, file)
        try:
            yield handle.fd
        finally:
            self.give(handle)
        handle.check()

    def take(self, stream: StreamId, file: int) -> Handle:
        """The same by hand: a descriptor that stays open until `give`."""
        key = (stream, file)
        with self._lock:
            handle = self._handles.get(key)
            if handle is None:
                handle = self._handles[key] = Handle(self._open(stream, file))
                self._shrink()
            else:
                self._handles.move_to_end(key)
            handle.pins += 1
            return handle

    def give(self, handle: Handle) -> None:
        """Nobody reads from it any more."""
        with self._lock:
            handle.pins -= 1
            if handle.gone and not handle.pins:
                os.close(handle.fd)

    def _open(self, stream: StreamId, file: int) -> int:
        folder = self._folders.get(stream)
        if folder is None:
            raise DataLost(f"stream {stream!r} is not open on disk")
        try:
            return os.open(folder.data(file), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DataLost(f"data file {file} of stream {stream!r} is gone") from error
        except OSError as error:
            raise Unavailable(f"data file {file} of stream {stream!r} cannot be opened: {error}") from error

    def _shrink(self) -> None:
        idle = [key for key, handle in self._handles.items() if not handle.pins]
        for key in idle[: max(0, len(self._handles) - self._limit)]:
            if key != next(reversed(self._handles)):
                os.close(self._handles.pop(key).fd)

    def _drop(self, handle: Handle) -> None:
        handle.gone = True
        if not handle.pins:
            os.close(handle.fd)
