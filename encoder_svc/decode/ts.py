"""Pure. MPEG transport streams: the first video stream's frames, one PES packet each.

Knows no codec beyond NAL headers. The layout is ISO/IEC 13818-1: packets of 188 bytes, a PAT that names the
PMT's pid, a PMT that names the streams', PES packets with 33-bit times at 90 kHz that wrap every 26.5 hours.
A PES packet is taken as one frame, as every muxer in use makes them.
"""

from __future__ import annotations

from collections.abc import Iterator

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.nal import ParameterSets
from encoder_svc.decode.packets import CodecSetup, Damage, Demuxed, EncodedPacket, StartPoint
from encoder_svc.decode.ts_tables import CODECS, Section, pat_program, pmt_video
from tandem.core.errors import BadMedia

PACKET_BYTES = 188
_SYNC = 0x47
_WRAP = 1 << 33
_PROBE_BYTES = 1 << 20
"""Without a PMT in this many bytes, the stream is given up."""


class TsDemuxer:
    """Packets of the first video stream.

    Args:
        position: byte offset of the first byte that will be fed.
        header: PAT and PMT packets from a `StartPoint`, when the stream is taken up there.
        near_us: about the first frame's time, to tell how often the clock has wrapped.
    """

    def __init__(
        self, limits: MediaLimits, *, position: int = 0, header: bytes = b"", near_us: int | None = None
    ) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._begin = position
        self._setup: CodecSetup | None = None
        self._sets: ParameterSets | None = None
        self._tables: dict[int, Section] = {0: Section()}
        self._pmt_pid = self._video_pid = -1
        self._clock = None if near_us is None else near_us * 9 // 100
        self._continuity: int | None = None
        self._lost = False
        self._forget_frame()
        for at in range(0, len(header), PACKET_BYTES):
            self._packet(memoryview(header)[at : at + PACKET_BYTES], position)
        self._origin = position

    def _forget_frame(self) -> None:
        self._pes = bytearray()
        self._pes_at = 0
        self._pes_start: bytes | None = None
        self._random_access = False

    @property
    def setup(self) -> CodecSetup | None:
        """What the decoder needs, once the PMT was seen."""
        return self._setup

    @property
    def unfinished(self) -> int:
        """See `Demuxer`."""
        return self._begin if self._pes_start is None else self._pes_at

    def feed(self, data: bytes) -> list[Demuxed]:
        """Take the next bytes and return the frames that became complete."""
        self._buffer += data
        out: list[Demuxed] = []
        at = 0
        view = bytes(self._buffer)
        while at + PACKET_BYTES <= len(view):
            if view[at] != _SYNC:
                synced = self._find_sync(view, at)
                self._lose(out, f"{synced - at} bytes without transport packets", self._begin + at)
                at = synced
                continue
            out += self._packet(memoryview(view)[at : at + PACKET_BYTES], self._begin + at)
            at += PACKET_BYTES
        del self._buffer[:at]
        self._begin += at
        if self._setup is None and self._begin - self._origin > _PROBE_BYTES:
            raise BadMedia(f"no program with video in the first {_PROBE_BYTES} bytes: is this MPEG-TS?")
        return out

    def finish(self) -> list[Demuxed]:
        """The last frame."""
        out = list(self._give())
        if self._setup is None:
            raise BadMedia("no program with video: is this MPEG-TS?")
        return out

    def jump(self, position: int) -> None:
        """Go on at `position`, after bytes that never came."""
        self._buffer.clear()
        self._begin = position
        self._continuity = None
        self._forget_frame()

    def _find_sync(self, view: bytes, at: int) -> int:
        """The next place that looks like packets, or the last bytes that may begin one."""
        at += 1
        while True:
            at = view.find(_SYNC, at)
            if at < 0:
                return len(view)
            following = at + PACKET_BYTES
            if following >= len(view) or view[following] == _SYNC:
                return at
            at += 1

    def _lose(self, out: list[Demuxed], why: str, position: int) -> None:
        self._forget_frame()
        self._continuity = None
        if not self._lost:
            out.append(Damage(BadMedia(why), position))
        self._lost = True

    def _packet(self, packet: memoryview, position: int) -> list[Demuxed]:
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        begins, control = bool(packet[1] & 0x40), packet[3]
        body = 4
        random_access = False
        if control & 0x20:
            body = 5 + packet[4]
            random_access = packet[4] > 0 and bool(packet[5] & 0x40)
        if not control & 0x10 or body >= PACKET_BYTES:
            return []
        if pid in self._tables:
            self._table(pid, bytes(packet), body, begins)
        elif pid == self._video_pid:
            return self._video(packet, body, begins, random_access, position)
        return []

    def _table(self, pid: int, packet: bytes, body: int, begins: bool) -> None:
        section = self._tables[pid].take(packet, body, begins)
        if section is None:
            return
        if pid == 0:
            program = pat_program(section)
            if program is not None and program != self._pmt_pid:
                self._tables = {0: self._tables[0], program: Section()}
                self._pmt_pid = program
        else:
            self._choose(pmt_video(section))

    def _choose(self, video: tuple[int, int] | None) -> None:
        if video is None:
            raise BadMedia("the program has no video stream that can be decoded")
        kind, self._video_pid = video
        codec = CODECS[kind]
        if self._setup is None:
            self._setup = CodecSetup(codec)
            self._sets = ParameterSets(codec) if codec in {"h264", "hevc"} else None
        elif self._setup.codec != codec:
            raise BadMedia(f"the video changes from {self._setup.codec} to {codec}: open a new stream")

    def _video(
        self, packet: memoryview, body: int, begins: bool, random_access: bool, position: int
    ) -> list[Demuxed]:
        out: list[Demuxed] = []
        counter = packet[3] & 0xF
        if packet[3] & 0xC0:
            raise BadMedia("the stream is scrambled")
        if self._continuity is not None and counter != (self._continuity + 1) & 0xF:
            if counter == self._continuity:
                return []
            self._lose(out, "transport packets are missing", position)
        self._continuity = counter
        if begins:
            out += self._give()
            self._pes_at, self._lost = position, False
            self._pes_start = self._tables[0].packets + self._tables[self._pmt_pid].packets
            self._random_access = random_access
        if self._pes_start is not None:
            self._pes += packet[body:]
            if len(self._pes) > self._limits.max_unit_bytes:
                self._lose(out, f"a frame of more than {len(self._pes)} bytes is not taken", position)
        return out

    def _give(self) -> Iterator[Demuxed]:
        pes, header, position = bytes(self._pes), self._pes_start, self._pes_at
        random_access = self._random_access
        self._forget_frame()
        if header is None:
            return
        if len(pes) < 9 or pes[:3] != b"\0\0\1" or len(pes) < 9 + pes[8]:
            yield Damage(BadMedia("a PES packet is damaged"), position)
            return
        data = pes[9 + pes[8] :]
        startable = self._sets.scan(data) if self._sets is not None else random_access
        start = StartPoint(position=position, header=header) if startable else None
        time_us, key = self._time_us(pes), startable or random_access
        yield EncodedPacket(data=data, time_us=time_us, key=key, position=position, start=start)

    def _time_us(self, pes: bytes) -> int | None:
        if not pes[7] & 0x80 or pes[8] < 5:
            return None
        p = pes[9:14]
        raw = (p[0] >> 1 & 7) << 30 | p[1] << 22 | (p[2] >> 1) << 15 | p[3] << 7 | p[4] >> 1
        if self._clock is None:
            self._clock = raw
        near = self._clock
        self._clock = near + ((raw - near + _WRAP // 2) % _WRAP - _WRAP // 2)
        return (self._clock * 200 + 9) // 18
