"""Pure: thinking of the answerer itself, as a client asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tandem.core.errors import BadQuestion
from tandem.wire.gen.tandem.v1 import types_pb2

_TOO_MANY = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingUsage:
    """What policies did to the answerer's own thinking."""

    dropped_tokens: int = 0
    """Tokens of its own text that left the view again."""
    rounds: int = 1
    """Of thinking, with a summary between two."""
    verifier_questions: int = 0
    verifier_tokens: int = 0
    """Of their prompts."""
    plan: str = ""
    """What the server's probe chose (easy, normal or hard), and its probability; empty: nobody asked it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingEviction:
    """Generated text that is not attended to again leaves the device (LazyEviction); video never does."""

    capacity: int = 0
    """Generated tokens that stay when a window ends; 0: the server's."""
    window: int = 0
    """Tokens from one look to the next, at most `capacity`; 0: the server's."""
    threshold: float = 0.0
    """Probability from which on a token counts as attended to; 0: the server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingRollover:
    """Think in rounds, each on the summary of the one before it (InftyThink)."""

    round_tokens: int = 0
    """After so many a summary is asked for; 0: the server's."""
    summary_tokens: int = 0
    """Most tokens of a summary; 0: the server's."""
    max_rounds: int = 0
    """Most rounds; then the model has to answer; 0: the server's."""
    open: str = ""
    close: str = ""
    """Texts around a summary in the model's own text; empty: "<summary>" and "</summary>"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingSubtasks:
    """Finished sub-tasks leave the thinking in view (TIM)."""

    open: str = ""
    close: str = ""
    """Texts around a list of them in the model's own text; empty: "<subtasks>" and "</subtasks>"."""
    keep: int = 0
    """Finished lists that stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingVerifier:
    """The model is asked, apart, what each segment of the thinking states (TrimR)."""

    yes: str = ""
    no: str = ""
    """Words between which it chooses; empty: "Yes" and "No"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingHeads:
    """Heads that need not see everything see less of it (RLKV); the server has the heads' scores."""

    sparsity: float = 0.0
    """Share of all key/value heads that do not see everything; 0: none of them."""
    sink: int | None = None
    """First tokens that these see; None: 16."""
    recent: int = 0
    """Newest tokens that these see; 0: 64."""
    whole_view: bool = False
    """Sink and recent are of the whole view, video included; else of the generated text alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """The answerer thinks first: what it writes up to `close` are thoughts, what follows is the answer."""

    open: str | None = None
    """Put at the end of the prompt, so that it begins to think; None: "<think>" and a new line."""
    close: str = ""
    """What ends thinking in the model's own text; empty: "</think>"."""
    closing: str = ""
    """Said for the model when a rule ends its thinking; empty: the server's words."""
    max_tokens: int | None = None
    """Most tokens of thinking, apart from the answer's; 0: none at all; None: the server's limit."""
    loop_guard: bool = False
    """End what repeats itself."""
    convergence: bool = False
    """End thinking that states the same answer three times, or does not get anywhere."""
    eviction: ThinkingEviction | None = None
    """Keep what is generated small; None: it all stays."""
    rollover: ThinkingRollover | None = None
    """Think in rounds; None: in one."""
    subtasks: ThinkingSubtasks | None = None
    """Drop finished sub-tasks; None: they stay."""
    verifier: ThinkingVerifier | None = None
    """End thinking by what its segments state; None: nobody asks."""
    adaptive: bool = False
    """The server's probe decides how much is thought, by how hard the question looks."""
    heads: ThinkingHeads | None = None
    """Classes of heads; None: all see everything."""


def thinking_to_proto(thinking: Thinking) -> types_pb2.Thinking:
    """The answerer's own thinking, for the wire."""
    return types_pb2.Thinking(
        open=thinking.open,
        close=thinking.close,
        closing=thinking.closing,
        max_tokens=thinking.max_tokens,
        loop_guard=thinking.loop_guard,
        convergence=thinking.convergence,
        eviction=types_pb2.ThinkingEviction(**asdict(thinking.eviction)) if thinking.eviction else None,
        rollover=types_pb2.ThinkingRollover(**asdict(thinking.rollover)) if thinking.rollover else None,
        subtasks=types_pb2.ThinkingSubtasks(**asdict(thinking.subtasks)) if thinking.subtasks else None,
        verifier=types_pb2.ThinkingVerifier(**asdict(thinking.verifier)) if thinking.verifier else None,
        adaptive=thinking.adaptive,
        heads=types_pb2.ThinkingHeads(**asdict(thinking.heads)) if thinking.heads else None,
    )


def check_thinking(thinking: Thinking) -> None:
    """Raise `BadQuestion` for numbers that could not be told to the server; limits are the server's."""
    _check_numbers("", asdict(thinking))


def _check_numbers(name: str, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_numbers(f"{name}{key}.", value)
        elif isinstance(value, int) and not 0 <= value < _TOO_MANY:
            raise BadQuestion(f"Thinking.{name}{key} is {value}; give 0 or more")


def thinking_usage(usage: types_pb2.Usage) -> ThinkingUsage | None:
    """What policies did, off the wire; None when nobody thought."""
    message = usage.thinking
    if not usage.HasField("thinking"):
        return None
    return ThinkingUsage(
        dropped_tokens=message.dropped_tokens,
        rounds=message.rounds,
        verifier_questions=message.verifier_questions,
        verifier_tokens=message.verifier_tokens,
        plan=message.plan,
    )
