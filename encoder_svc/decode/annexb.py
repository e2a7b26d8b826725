"""Shell. H.264 and H.265 byte streams without a container: split by the codec's own parser.

Knows no times: the container has none.
"""

from __future__ import annotations

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.decoders import DecoderLost, Splitter
from encoder_svc.decode.nal import ParameterSets
from encoder_svc.decode.packets import (
    CodecSetup,
    Damage,
    Demuxed,
    EncodedPacket,
    StartPoint,
)
from encoder_svc.decode.splitting import FrameSplitter
from tandem.core.errors import BadMedia

_PROBE_BYTES = 8 << 20
"""Without a frame in this many bytes at the start, the stream is given up."""
_PIECE_BYTES = 1 << 16
"""The parser takes an int and copies what it keeps; pieces bound both."""


class AnnexBDemuxer:
    """Packets of an Annex B stream.

    Args:
        codec: "h264" or "hevc".
        position: byte offset of the first byte that will be fed.
        header: parameter sets from a `StartPoint`, when the stream is taken up there.
        splitter: FFmpeg's parser, wherever that is.
    """

    def __init__(
        self,
        codec: str,
        limits: MediaLimits,
        *,
        position: int = 0,
        header: bytes = b"",
        splitter: Splitter | None = None,
    ) -> None:
        self._codec = codec
        self._splitter = splitter or FrameSplitter(codec)
        self._limits = limits
        self._sets = ParameterSets(codec, header)
        self._prefix = header
        self._found = False
        self._begin, self._inside_bytes = position, 0

    def _restart(self, position: int) -> None:
        self._splitter.restart()
        self._begin = position
        self._inside_bytes = 0

    @property
    def setup(self) -> CodecSetup | None:
        """What the decoder needs."""
        return CodecSetup(self._codec)

    @property
    def unfinished(self) -> int:
        """See `Demuxer`."""
        return self._begin

    def feed(self, data: bytes) -> list[Demuxed]:
        """Take the next bytes and return the frames that became complete."""
        out: list[Demuxed] = []
        for at in range(0, len(data), _PIECE_BYTES):
            out += self._parse(data[at : at + _PIECE_BYTES])
        return out

    def finish(self) -> list[Demuxed]:
        """The last frame, or damage when what is left is not one."""
        out = self._parse(b"")
        if self._inside_bytes:
            out.append(Damage(BadMedia(f"the last {self._inside_bytes} bytes hold no frame"), self._begin))
        return out

    def jump(self, position: int) -> None:
        """Go on at `position`, after bytes that never came."""
        self._restart(position)

    def _parse(self, piece: bytes) -> list[Demuxed]:
        out: list[Demuxed] = []
        self._inside_bytes += len(piece)
        try:
            frames = self._splitter.split(piece)
        except DecoderLost as lost:
            out.append(Damage(lost, self._begin))
            self._restart(self._begin + self._inside_bytes)
            return out
        for data, key in frames:
            self._inside_bytes -= len(data)
            out.append(self._packet(data, key=key))
            self._begin += len(data)
        if not self._found and self._inside_bytes > _PROBE_BYTES:
            raise BadMedia(f"no {self._codec} frame in the first {self._inside_bytes} bytes")
        if self._inside_bytes > self._limits.max_unit_bytes:
            error = BadMedia(f"no frame ends within {self._inside_bytes} bytes: is this {self._codec}?")
            out.append(Damage(error, self._begin))
            self._restart(self._begin + self._inside_bytes)
        return out

    def _packet(self, data: bytes, *, key: bool) -> Demuxed:
        if b"\0\0\1" not in data:
            return Damage(BadMedia(f"{len(data)} bytes hold no {self._codec} NAL unit"), self._begin)
        self._found = True
        header = self._sets.joined()
        startable = self._sets.scan(data)
        start = StartPoint(position=self._begin, header=header) if startable else None
        prefix, self._prefix = self._prefix, b""
        return EncodedPacket(
            data=prefix + data, time_us=None, key=key or startable, position=self._begin, start=start
        )
