"""Pure. What a question says of thinking, checked. Knows the message and the model's prompt layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoner_svc.thinking.chain import ThinkingRules
from reasoner_svc.thinking.difficulty import PLANS
from reasoner_svc.thinking.heads import HeadClasses, full_heads
from reasoner_svc.thinking.rollover import RoundRules
from reasoner_svc.thinking.subtasks import SubTaskRules
from reasoner_svc.thinking.tools import NO_TOOLS, ThinkingTools
from reasoner_svc.thinking.verifier import VerifierRules
from reasoner_svc.thinking.wish import Adaptive, Eviction, Rollover, ThinkingRecord, ThinkingWish
from tandem.core.errors import BadQuestion
from tandem.wire.gen.tandem.v1 import types_pb2

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout

OPEN, CLOSE = "<think>\n", "</think>"
CLOSING = "\n\nI have thought for long enough and answer now.\n"
MAX_MARKER_CHARS, MAX_CLOSING_CHARS = 64, 1000
CAPACITY, WINDOW, MAX_WINDOW, THRESHOLD = 1024, 128, 512, 1e-4
"""Of eviction. The threshold is the paper's for R1-Distill-Qwen-7B."""
ROUND_TOKENS, SUMMARY_TOKENS, ROUNDS = 4096, 512, 10
MAX_SUMMARY_TOKENS, MAX_ROUNDS = 2048, 64
SUMMARY_OPEN, SUMMARY_CLOSE = "<summary>", "</summary>"
HISTORY_OPEN, HISTORY_CLOSE = "\n\n<history>\n", "\n</history>"
YES, NO = "Yes", "No"
SUBTASKS_OPEN, SUBTASKS_CLOSE, MAX_KEPT = "<subtasks>", "</subtasks>", 16


SINK, RECENT, MAX_SEEN = 16, 64, 65_536
"""What heads that do not see everything do see: the paper's numbers."""


def thinking_wish(
    message: types_pb2.Thinking,
    prompt: PromptLayout,
    max_tokens: int,
    question: str,
    question_end: int,
    tools: ThinkingTools = NO_TOOLS,
) -> tuple[ThinkingWish, tuple[int, ...]]:
    """The wish, and the tokens that open thinking at the end of the prompt.

    At most `max_tokens` of thinking are allowed here. `question` are the user's own words, and `question_end`
    is the token of the prompt behind them. `tools` are the reasoner's. Raises BadQuestion that names what is
    wrong.
    """
    texts = [
        ("open", message.open, MAX_MARKER_CHARS),
        ("close", message.close, MAX_MARKER_CHARS),
        ("closing", message.closing, MAX_CLOSING_CHARS),
    ]
    for name, part in (("rollover", message.rollover), ("subtasks", message.subtasks)):
        texts.append((f"{name}.open", part.open, MAX_MARKER_CHARS))
        texts.append((f"{name}.close", part.close, MAX_MARKER_CHARS))
    texts += [
        ("verifier." + name, getattr(message.verifier, name), MAX_MARKER_CHARS) for name in ("yes", "no")
    ]
    for name, text, limit in texts:
        if len(text) > limit:
            raise BadQuestion(f"thinking.{name} has {len(text)} characters; at most {limit} are allowed")
    budget = message.max_tokens if message.HasField("max_tokens") else max_tokens
    if budget > max_tokens:
        raise BadQuestion(f"thinking.max_tokens is {budget}; at most {max_tokens} are allowed here")
    close = message.close or CLOSE
    closing_ids = _spelled(prompt, (message.closing or CLOSING) + close, close, "close")
    rolls, drops = message.HasField("rollover"), message.HasField("subtasks")
    if message.HasField("eviction") and (rolls or drops or message.HasField("heads")):
        raise BadQuestion(
            "thinking.eviction goes with neither rollover nor subtasks nor heads: one of them decides"
        )
    rules = ThinkingRules(
        budget_tokens=budget,
        loop_guard=message.loop_guard,
        convergence=message.convergence,
        rollover=_rounds(message.rollover, max_tokens) if rolls else None,
        subtasks=_subtasks(message.subtasks) if drops else None,
        verifier=_verifier(message.verifier, question) if message.HasField("verifier") else None,
    )
    wish = ThinkingWish(
        close=close,
        closing_ids=closing_ids,
        rules=rules,
        eviction=_eviction(message.eviction) if message.HasField("eviction") else None,
        adaptive=_adaptive(prompt, tools) if message.adaptive else None,
        heads=_heads(message.heads, tools) if message.HasField("heads") else None,
        replies=_replies(rules.verifier, prompt) if rules.verifier else None,
        rollover=_rollover(message.rollover, prompt, close, question_end) if rolls else None,
    )
    opening = message.open if message.HasField("open") else OPEN
    return wish, tuple(prompt.encode_text(opening) if opening else ())


def thinking_to_proto(record: ThinkingRecord) -> types_pb2.ThinkingUsage:
    """What policies did, for the wire."""
    return types_pb2.ThinkingUsage(
        dropped_tokens=record.dropped,
        rounds=record.rounds,
        verifier_questions=record.asked,
        verifier_tokens=record.asked_tokens,
        plan=record.plan,
    )


def _spelled(prompt: PromptLayout, text: str, marker: str, name: str) -> tuple[int, ...]:
    """A text that is said for the model, in tokens, with the marker in it."""
    ids = tuple(prompt.encode_text(text))
    if marker not in prompt.decode(ids):
        raise BadQuestion(f"thinking.{name} is {marker!r}, which this model's tokens cannot spell")
    return ids


def _eviction(message: types_pb2.ThinkingEviction) -> Eviction:
    window = message.window or WINDOW
    capacity = message.capacity or max(CAPACITY, window)
    threshold = message.threshold or THRESHOLD
    if window > MAX_WINDOW:
        raise BadQuestion(f"thinking.eviction.window is {window}; 1 to {MAX_WINDOW} are allowed")
    if capacity < window:
        raise BadQuestion(
            f"thinking.eviction.capacity is {capacity}; the newest {window} tokens (window) always stay"
        )
    if not 0 < threshold < 1:  # nor NaN
        raise BadQuestion(f"thinking.eviction.threshold is {threshold}; it is a probability between 0 and 1")
    return Eviction(capacity=capacity, window=window, threshold=threshold)


def _rounds(message: types_pb2.ThinkingRollover, max_tokens: int) -> RoundRules:
    rounds = message.max_rounds or ROUNDS
    rules = RoundRules(
        round_tokens=message.round_tokens or min(ROUND_TOKENS, max_tokens),
        summary_tokens=message.summary_tokens or max(1, min(SUMMARY_TOKENS, max_tokens // rounds)),
        max_rounds=rounds,
    )
    for name, limit in (
        ("round_tokens", max_tokens),
        ("summary_tokens", MAX_SUMMARY_TOKENS),
        ("max_rounds", MAX_ROUNDS),
    ):
        if (value := getattr(rules, name)) > limit:
            raise BadQuestion(f"thinking.rollover.{name} is {value}; at most {limit} are allowed here")
    if rounds > 1 and rules.summary_tokens * rounds > max_tokens:
        raise BadQuestion(
            f"thinking.rollover: {rounds} rounds with summaries of {rules.summary_tokens} tokens are "
            f"{rounds * rules.summary_tokens} tokens; at most {max_tokens} are allowed here"
        )
    return rules


def _rollover(
    message: types_pb2.ThinkingRollover, prompt: PromptLayout, close: str, question_end: int
) -> Rollover:
    opens, ends = message.open or SUMMARY_OPEN, message.close or SUMMARY_CLOSE
    if not opens.strip() or opens != opens.lstrip():
        raise BadQuestion(f"thinking.rollover.open is {opens!r}; it cannot begin with white space")
    return Rollover(
        opens=opens,
        ends=ends,
        asking_ids=_spelled(prompt, f"\n{close}\n{opens}", opens, "rollover.open"),
        ending_ids=_spelled(prompt, ends, ends, "rollover.close"),
        question_end=question_end,
        before_ids=tuple(prompt.encode_text(HISTORY_OPEN)),
        after_ids=tuple(prompt.encode_text(HISTORY_CLOSE)),
    )


def _verifier(message: types_pb2.ThinkingVerifier, question: str) -> VerifierRules:
    return VerifierRules(question=question, yes=message.yes or YES, no=message.no or NO)


def _replies(rules: VerifierRules, prompt: PromptLayout) -> tuple[int, int]:
    yes, no = (prompt.encode_text(word)[:1] for word in (rules.yes, rules.no))
    if not yes or not no or yes == no:
        raise BadQuestion(
            f"thinking.verifier: {rules.yes!r} and {rules.no!r} begin with the same token of this model"
        )
    return yes[0], no[0]


def _adaptive(prompt: PromptLayout, tools: ThinkingTools) -> Adaptive:
    if tools.probe is None:
        raise BadQuestion("thinking.adaptive: this reasoner was started without --difficulty-probe")
    words = {difficulty: plan.words for difficulty, plan in PLANS.items()}
    return Adaptive(
        probe=tools.probe,
        words_ids={each: tuple(prompt.encode_text(text)) if text else () for each, text in words.items()},
    )


def _heads(message: types_pb2.ThinkingHeads, tools: ThinkingTools) -> HeadClasses | None:
    if tools.head_scores is None:
        raise BadQuestion("thinking.heads: this reasoner was started without --head-scores")
    if not 0 <= message.sparsity <= 1:  # nor NaN
        raise BadQuestion(f"thinking.heads.sparsity is {message.sparsity}; it is a share from 0 to 1")
    sink = message.sink if message.HasField("sink") else SINK
    recent = message.recent or RECENT
    if sink > MAX_SEEN or recent > MAX_SEEN:
        raise BadQuestion(f"thinking.heads: sink {sink} or recent {recent} is more than {MAX_SEEN}")
    full = full_heads(tools.head_scores, message.sparsity)
    if all(runs == ((0, len(row)),) for runs, row in zip(full, tools.head_scores, strict=True)):
        return None
    return HeadClasses(full=full, sink=sink, recent=recent, whole_view=message.whole_view)


def _subtasks(message: types_pb2.ThinkingSubtasks) -> SubTaskRules:
    opens, ends = message.open or SUBTASKS_OPEN, message.close or SUBTASKS_CLOSE
    if opens in ends or ends in opens:
        raise BadQuestion(f"thinking.subtasks: {opens!r} and {ends!r} cannot be told apart")
    if message.keep > MAX_KEPT:
        raise BadQuestion(f"thinking.subtasks.keep is {message.keep}; at most {MAX_KEPT} are allowed")
    return SubTaskRules(open=opens, close=ends, keep=message.keep)
