"""Pure ring: how text and pictures are laid out for one checkpoint. Knows tokens and positions, no model.

Two layouts. *Native* (real Qwen2.5-VL checkpoints): all units are one video::

    system prompt, user, <|vision_start|> | unit | unit | ... | <|vision_end|>question, assistant
    `--------------- sink --------------'                       `--------- question_tokens ------'

*Timestamped* (the embedded default model): each unit is its own one-frame video behind its time, so that a
unit which is moved or retrieved still carries when it was::

    sink | 00 00 12<|vision_start|> unit <|vision_end|> | 00 00 13<|vision_start|> unit ... | question
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tandem.core.blocks import BlockGeometry
from tandem.core.errors import BadQuestion, Incompatible
from tandem.core.timeline import MICROSECONDS
from tandem.vlm.families.base import Grid, Placement
from tandem.vlm.positions import AdvanceRules, OneVideo, VideoPerUnit, block_positions
from tandem.vlm.tokens import Detokenizer, Tokens

CHARACTERS_PER_TOKEN = 64
"""No tokenizer makes longer tokens: text beyond this many characters per allowed token is refused unread."""

DEFAULT_MAX_QUESTION_TOKENS = 4096

LAST_TIME_US = (100 * 3600 - 1) * MICROSECONDS
"""Two digits of hours: later times are written modulo a hundred hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The texts of a layout; special tokens are understood in all of them but the user's question."""

    name: str
    sink: str
    unit_prefix: str
    """May hold {HH}, {MM} and {SS}."""
    unit_suffix: str
    question: str
    """Holds {question} once."""
    seconds_per_unit: float
    window_units: int | None
    max_question_tokens: int = DEFAULT_MAX_QUESTION_TOKENS
    recent_tokens: int | None = None
    recalled_blocks: int | None = None
    note_prompt: str = ""
    """May hold {start} and {end}."""
    note_tokens: int = 0
    shelf_tokens: int | None = None
    note_alone: bool = False
    note_stop: str = ""
    """May hold {SS}."""


class Layout:
    """A `families.base.PromptLayout` for both layouts. Immutable."""

    def __init__(
        self,
        template: Template,
        tokens: Tokens,
        rules: AdvanceRules,
        *,
        frames_per_unit: int,
        eos_ids: frozenset[int],
    ) -> None:
        before, marker, after = template.question.partition("{question}")
        if not marker or "{question}" in after:
            raise Incompatible(f"the question template needs {{question}} once: {template.question!r}")
        self.name = template.name
        self.frames_per_unit = frames_per_unit
        self.seconds_per_unit = template.seconds_per_unit
        self.window_units = template.window_units
        self.max_question_tokens = template.max_question_tokens
        self.recent_tokens = template.recent_tokens
        self.recalled_blocks = template.recalled_blocks
        self.note_prompt = template.note_prompt
        self.note_tokens = template.note_tokens
        self.shelf_tokens = template.shelf_tokens
        self.note_alone = template.note_alone
        self.note_stop = template.note_stop
        self.eos_ids = eos_ids
        self.rules = rules
        self._template, self._tokens = template, tokens
        self._sink = tokens.template(template.sink)
        self._question = (tokens.template(before), tokens.template(after))
        self._suffix = tokens.template(template.unit_suffix)
        self._prefix_tokens = len(self._prefix(0))
        for time_us in (59 * MICROSECONDS, LAST_TIME_US):
            if len(self._prefix(time_us)) != self._prefix_tokens:
                raise Incompatible("the unit prefix changes its number of tokens with the time")

    def sink_tokens(self) -> list[int]:
        """Tokens that open every prompt."""
        return list(self._sink)

    def unit_tokens(self, time_us: int) -> tuple[list[int], list[int]]:
        """Text tokens before and after a unit's visual tokens."""
        return self._prefix(time_us), list(self._suffix)

    def geometry(self, grid: Grid) -> BlockGeometry:
        """Geometry of a one-unit block."""
        return BlockGeometry(
            text_before=self._prefix_tokens,
            grid_t=grid[0],
            grid_h=grid[1],
            grid_w=grid[2],
            text_after=len(self._suffix),
        )

    def local_positions(self, geometry: BlockGeometry) -> Tensor:
        """Positions int64 [3, tokens] relative to the block's base."""
        return block_positions(geometry, self.rules)

    def placement(self, geometry: BlockGeometry | None = None) -> Placement:
        """A fresh placement after the sink."""
        kind = OneVideo if self.name == "native" else VideoPerUnit
        return kind(self.rules, len(self._sink), geometry)

    def question_tokens(self, text: str, *, max_tokens: int | None = None) -> list[int]:
        """From the last unit to the start of the answer."""
        max_tokens = self.max_question_tokens if max_tokens is None else max_tokens
        if not text.strip():
            raise BadQuestion("the question is empty")
        limit = max_tokens * CHARACTERS_PER_TOKEN
        if len(text) > limit:
            raise BadQuestion(f"the question has {len(text)} characters; at most {limit} are read")
        question = self._tokens.user(text)
        if not question:
            raise BadQuestion("the question holds nothing that the model can read")
        ids = self._question[0] + question + self._question[1]
        if len(ids) > max_tokens:
            raise BadQuestion(f"the question takes {len(ids)} tokens; at most {max_tokens} are allowed")
        return ids

    def question_span(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """Where the user's own words lie among `question_tokens`: half-open."""
        return len(self._question[0]), len(token_ids) - len(self._question[1])

    def encode_text(self, text: str) -> list[int]:
        """Plain text as tokens, without any special token."""
        return self._tokens.user(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens."""
        return self._tokens.decode(token_ids)

    def text_stream(self) -> Detokenizer:
        """A fresh incremental detokeniser."""
        return Detokenizer(self._tokens)

    def _prefix(self, time_us: int) -> list[int]:
        if not self._template.unit_prefix:
            return []
        seconds = max(0, time_us) // MICROSECONDS
        fields = {"HH": seconds // 3600 % 100, "MM": seconds // 60 % 60, "SS": seconds % 60}
        text = self._template.unit_prefix
        for name, value in fields.items():
            text = text.replace(f"{{{name}}}", f"{value:02d}")
        return self._tokens.template(text)
