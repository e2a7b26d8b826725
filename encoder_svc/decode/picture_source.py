"""Shell. A stream of single pictures as a source of units."""

from __future__ import annotations

from encoder_svc.admit import CheckShape, MediaLimits, PictureOrder
from encoder_svc.decode.decoders import INSIDE, Decoders
from encoder_svc.decode.pictures import RawPicture, Rgb, check_picture
from encoder_svc.decode.source import DecodedFrame, Item, Refusal, SourceEvent, Start
from encoder_svc.ledger import SyncPoint
from encoder_svc.sample import Sampler
from tandem.core.errors import InvalidInput, TandemError
from tandem.core.timeline import Gap, GapReason


class PictureSource:
    """Judges, samples and decodes pictures. Pictures that are not sampled are judged by their header only."""

    def __init__(
        self,
        sampler: Sampler[Rgb],
        limits: MediaLimits,
        check_shape: CheckShape,
        *,
        position: int = 0,
        decoders: Decoders = INSIDE,
    ) -> None:
        self._decoders = decoders
        self._sampler = sampler
        self._check_shape = check_shape
        self._limits = limits
        self._order = PictureOrder(position)
        self._todo: list[RawPicture | Gap] = []
        self._ended = False
        self.decoded_us = sampler.covered_us or 0
        """Time of the latest picture."""
        self.origin_us = 0
        """Pictures carry stream time itself."""
        self.decoded_position: int | None = None

    @property
    def consumed(self) -> int:
        """The next sequence."""
        return self._order.next_sequence

    def take_decoded(self) -> list[DecodedFrame]:
        """None: pictures have their times before they are decoded."""
        return []

    def feed(self, item: Item) -> None:
        """Take a picture or a gap. Raises InvalidInput for a chunk."""
        if not isinstance(item, RawPicture | Gap):
            raise InvalidInput("this stream takes pictures, not chunks")
        self._todo.append(item)

    def finish(self) -> None:
        """No more pictures."""
        self._ended = True

    def close(self) -> None:
        """See `Source`."""
        self._decoders.close()

    def advance(self) -> tuple[list[SourceEvent], bool]:
        """Handle what was fed."""
        if self._todo:
            item = self._todo.pop(0)
            events = self._gap(item) if isinstance(item, Gap) else self._picture(item)
            return events, bool(self._todo) or self._ended
        if self._ended:
            self._ended = False
            return [*self._sampler.finish()], False
        return [], False

    def _gap(self, gap: Gap) -> list[SourceEvent]:
        self.decoded_us = max(self.decoded_us, gap.range.end_us)
        return [*self._sampler.skip(gap)]

    def _picture(self, picture: RawPicture) -> list[SourceEvent]:
        try:
            admission = self._order.admit(picture.sequence, picture.pts_us)
            if admission.known:
                return []
            if admission.lost_before:
                self._sampler.note(GapReason.SOURCE)
            check_picture(picture, self._limits)
            self.decoded_us = picture.pts_us
            return self._sample(picture)
        except TandemError as error:
            self._sampler.note(GapReason.UNDECODABLE)
            return [Refusal(error, picture.sequence)]

    def _sample(self, picture: RawPicture) -> list[SourceEvent]:
        if not self._sampler.wants(picture.pts_us):
            return []
        pixels = self._decoders.picture(picture, self._limits)
        self._check_shape(*pixels.shape[:2])
        taken = self._sampler.take(picture.pts_us, pixels)
        # A resumed stream wants no picture before this one once its time is covered.
        return [*taken, Start(SyncPoint(picture.sequence, picture.pts_us), b"")]
