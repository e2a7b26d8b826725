"""What a model family must tell the rest of Tandem. Protocols and what follows from them; no tensors.

A *unit* is one temporal step of the vision tower (one frame, or the pair that Qwen2.5-VL merges). A position
is a triple (time, height, width); text tokens have three equal components. A *base* is the position of a
block's origin in one reader's frame; `PromptLayout.local_positions` are relative to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKind

if TYPE_CHECKING:
    from tandem.vlm.positions import AdvanceRules
    from tandem.vlm.prompt import Template

Grid = tuple[int, int, int]
"""Visual tokens of one unit after spatial merging: (t, h, w)."""

Position = tuple[int, int, int]
"""A position on the axes (time, height, width)."""


class TextStream(Protocol):
    """Incremental detokeniser of one answer."""

    def push(self, token_id: int) -> str:
        """Text that became certain with this token; may be empty (half a character, or a special token)."""
        ...

    def finish(self) -> str:
        """What is left; a broken character comes out as U+FFFD."""
        ...


class Placement(Protocol):
    """Where the units of one reader's view stand. Mutable; one per view; not thread-safe.

    The sink is at base (0, 0, 0). Units are placed one after the other as transformers would place them in
    one prompt. The same object serves the encoder (placing without end), the reasoner (a fresh one per
    question places what is in view) and tests.
    """

    @property
    def units(self) -> int:
        """How many units were placed so far."""
        ...

    def place_units(self, units: int | Sequence[BlockGeometry]) -> list[Position]:
        """Place further units and return the base of each.

        A number is enough when all units have the geometry given to `PromptLayout.placement`.
        """
        ...

    def base_of(self, unit: int) -> Position:
        """Base of a unit placed earlier (0 is the first)."""
        ...

    def sink_base(self, oldest_unit: int) -> Position:
        """Where the sink stands for a query whose oldest visible unit is `oldest_unit`.

        It stays contiguous before that unit, however far the stream has run; (0, 0, 0) for unit 0.
        """
        ...

    def after_units(self) -> Position:
        """Base of the text that follows the units placed so far."""
        ...

    def generation_start(self, text_tokens: int) -> int:
        """Position (on all axes) of the first generated token after `text_tokens` tokens at `after_units`."""
        ...


class PromptLayout(Protocol):
    """How text and pictures are laid out for one checkpoint. Immutable and thread-safe."""

    name: str
    """``native`` (all units are one video) or ``timestamped`` (each unit is its own one-frame video)."""
    frames_per_unit: int
    """Frames that the vision tower merges into one unit (its temporal patch size)."""
    seconds_per_unit: float
    """Stream time between the starts of consecutive units at the checkpoint's own sampling rate."""
    window_units: int | None
    """Sliding window that the checkpoint was trained for, in units; None when it does not say."""
    max_question_tokens: int
    """Longest question that the checkpoint was made for, in tokens, template included."""
    recent_tokens: int | None
    """Newest video tokens in view that the checkpoint was made for; None when it does not say."""
    recalled_blocks: int | None
    """Older blocks beside them; None when it does not say."""
    note_prompt: str
    """What the checkpoint was trained to be asked for a note, with {start} and {end}; empty: it was not."""
    note_tokens: int
    """Most tokens of one such note; 0 when it does not say."""
    shelf_tokens: int | None
    """Most tokens of notes in view that it was made for; None when it does not say."""
    note_alone: bool
    """A note is taken in view of what it is about, and of nothing before it, notes included."""
    note_stop: str
    """Text at which a note ends, with {SS} for the second at which its interval does; empty: none."""
    eos_ids: frozenset[int]
    """Tokens that end an answer."""

    def sink_tokens(self) -> list[int]:
        """Tokens that open every prompt; always in view."""
        ...

    def unit_tokens(self, time_us: int) -> tuple[list[int], list[int]]:
        """Text tokens before and after the visual tokens of a unit that starts at `time_us`.

        Their numbers do not depend on the time.
        """
        ...

    def geometry(self, grid: Grid) -> BlockGeometry:
        """Geometry of a one-unit block with this grid."""
        ...

    def local_positions(self, geometry: BlockGeometry) -> Tensor:
        """Positions int64 [3, tokens] of a block's tokens relative to its base; text-only blocks too."""
        ...

    def placement(self, geometry: BlockGeometry | None = None) -> Placement:
        """A fresh placement of units after the sink; `geometry` is that of its units when all are alike."""
        ...

    def question_tokens(self, text: str, *, max_tokens: int | None = None) -> list[int]:
        """Everything from the last unit to the start of the answer, for a user's question.

        `max_tokens` counts all of it; None: the checkpoint's own limit (`max_question_tokens`).
        User text can never produce special tokens. Raises BadQuestion when it is empty or too long.
        """
        ...

    def question_span(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """Where the user's own words lie among `question_tokens`: half-open."""
        ...

    def encode_text(self, text: str) -> list[int]:
        """Plain text as tokens, without any special token (notes, thoughts given as text)."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        ...

    def text_stream(self) -> TextStream:
        """A fresh incremental detokeniser."""
        ...


def is_fitting(prompt: PromptLayout, header: BlockHeader) -> bool:
    """True when a block's kind and geometry are those that this layout gives a block of its number."""
    geometry = header.geometry
    if header.key.number == 0:
        return header.kind is BlockKind.SINK and geometry == BlockGeometry(
            text_before=len(prompt.sink_tokens()), grid_t=0, grid_h=0, grid_w=0, text_after=0
        )
    grid = (geometry.grid_t, geometry.grid_h, geometry.grid_w)
    is_unit = header.kind is BlockKind.VISUAL and geometry.visual_tokens > 0 and geometry.grid_t == 1
    return is_unit and geometry == prompt.geometry(grid)


class Family(Protocol):
    """What differs between model families in calling transformers' modules."""

    name: str
    architectures: frozenset[str]
    """Values of ``config.architectures`` that this family loads."""

    def text_model(self, hf: Any) -> Any:
        """The decoder stack; its ``rotary_emb`` is replaced at load."""
        ...

    def see(self, hf: Any, patches: Tensor, grid_thw: Tensor) -> Tensor:
        """Run the vision tower: merged embeddings [tokens of all units, hidden]."""
        ...

    def advance_rules(self, hf: Any, seconds_per_unit: float) -> AdvanceRules:
        """How positions advance, found by probing the model's own position function."""
        ...

    def native_template(self, seconds_per_unit: float) -> Template:
        """The family's own chat prompt around one video."""
        ...

    def seconds_per_unit(self, config: Any, fps: float) -> float:
        """Stream time of one unit when frames are sampled at `fps`."""
        ...
