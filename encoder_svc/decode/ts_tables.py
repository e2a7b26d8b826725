"""Pure. The two tables of a transport stream that lead to its video: PAT and PMT."""

from __future__ import annotations

CODECS = {0x01: "mpeg1video", 0x02: "mpeg2video", 0x10: "mpeg4", 0x1B: "h264", 0x24: "hevc"}
"""Stream types that are decoded, and FFmpeg's names of their codecs."""


class Section:
    """Collects one table from the packets of its pid."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._partial_packets = b""
        self.packets = b""
        """The transport packets of the latest complete table."""

    def take(self, packet: bytes, body: int, begins: bool) -> bytes | None:
        """Use one packet of the pid, its payload at `body`; the section when it is complete."""
        if begins:
            self._partial = bytearray(packet[body + 1 + packet[body] :])
            self._partial_packets = packet
        elif self._partial_packets:
            self._partial += packet[body:]
            self._partial_packets += packet
        if len(self._partial) < 3:
            return None
        length = 3 + ((self._partial[1] & 0x0F) << 8 | self._partial[2])
        if len(self._partial) < length:
            return None
        section = bytes(self._partial[:length])
        self.packets = self._partial_packets
        self._partial, self._partial_packets = bytearray(), b""
        return section


def pat_program(section: bytes) -> int | None:
    """The pid of the first program's PMT."""
    if not section or section[0] != 0x00:
        return None
    for at in range(8, len(section) - 7, 4):
        if section[at] << 8 | section[at + 1]:
            return (section[at + 2] & 0x1F) << 8 | section[at + 3]
    return None


def pmt_video(section: bytes) -> tuple[int, int] | None:
    """(stream type, pid) of the first stream in `CODECS`."""
    if len(section) < 16 or section[0] != 0x02:
        return None
    at = 12 + ((section[10] & 0x0F) << 8 | section[11])
    while at + 5 <= len(section) - 4:
        kind, pid = section[at], (section[at + 1] & 0x1F) << 8 | section[at + 2]
        if kind in CODECS:
            return kind, pid
        at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
    return None
