"""Pure. Packets that a decoder was given, and which of their frames may still come out of it.

Decoders hold frames back: they come in the order in which they are shown, packets in the order in which they
are decoded. A packet of which nothing comes (refused, skipped, the second field of a frame) says so nowhere;
that nothing will is known from what came instead.
"""

from __future__ import annotations

from encoder_svc.decode.packets import EncodedPacket

_REMEMBERED = 64
"""Packets whose places and times are kept for their frames."""
_LONGEST = 32
"""Packets after which a frame is out at the latest: 16 frames may be held back, of two fields each."""


class Underway:
    """The packets of one decoder, by their tags, which rise in decoding order."""

    def __init__(self) -> None:
        self._packets: dict[int, EncodedPacket] = {}
        self._awaited: dict[int, EncodedPacket] = {}

    @property
    def position(self) -> int | None:
        """Where the first packet begins whose frame may still come; None: none is awaited."""
        return min((packet.position for packet in self._awaited.values()), default=None)

    def give(self, tag: int, packet: EncodedPacket) -> None:
        """The decoder is given a packet."""
        self._packets[tag] = self._awaited[tag] = packet
        for known, most in ((self._packets, _REMEMBERED), (self._awaited, _LONGEST)):
            while (first := next(iter(known))) <= tag - most:
                del known[first]

    def refused(self, tag: int) -> None:
        """The decoder could not use a packet."""
        self._awaited.pop(tag, None)

    def came(self, tag: int) -> EncodedPacket | None:
        """A frame came out: its packet, and what was to come before it never will. None: it is not known."""
        packet = self._packets.pop(tag, None)
        self._awaited.pop(tag, None)
        if packet is not None:
            kept = {t: each for t, each in self._awaited.items() if not _is_past(t, each, tag, packet)}
            self._awaited = kept
        return packet

    def drained(self) -> None:
        """Everything is out that the decoder held."""
        self._awaited.clear()


def _is_past(tag: int, packet: EncodedPacket, shown_tag: int, shown: EncodedPacket) -> bool:
    """True when a packet's frame would have been shown before one that was."""
    if shown.key and tag < shown_tag:  # all before a key packet is shown before it
        return True
    return packet.time_us is not None and shown.time_us is not None and packet.time_us <= shown.time_us
