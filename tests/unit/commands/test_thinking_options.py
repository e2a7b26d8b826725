"""The options about the answerer's thinking: from the command line to what goes over the wire, and back."""

from __future__ import annotations

import argparse

import pytest

from tandem.client import Thinking, ThinkingHeads, ThinkingRollover, ThinkingUsage
from tandem.client.thinking import check_thinking, thinking_to_proto, thinking_usage
from tandem.commands.question import add_question_options, thinking_of
from tandem.core.errors import BadQuestion
from tandem.wire.gen.tandem.v1 import types_pb2


def parsed(*options: str) -> Thinking | None:
    parser = argparse.ArgumentParser()
    add_question_options(parser)
    return thinking_of(parser.parse_args(options))


def test_options_become_wishes() -> None:
    assert parsed("--loop-guard") is None, "nobody thinks without --think"
    plain = parsed("--think=9")
    assert plain == Thinking(max_tokens=9)
    message = thinking_to_proto(plain)
    names = [field.name for field, _ in message.ListFields()]
    assert names == ["max_tokens"], "what is not asked for is not sent"
    full = parsed(
        *("--think=100", "--round=40", "--rounds=3", "--summary-tokens=7", "--drop-subtasks=1"),
        *("--verify", "--adaptive", "--head-sparsity=0.5"),
    )
    assert full is not None
    message = thinking_to_proto(full)
    rollover = message.rollover
    assert (rollover.round_tokens, rollover.max_rounds, rollover.summary_tokens) == (40, 3, 7)
    assert (message.subtasks.keep, message.adaptive, message.heads.sparsity) == (1, True, 0.5)
    assert message.HasField("verifier")
    assert not message.HasField("eviction")
    assert not message.heads.HasField("sink")
    evicts = parsed("--think=100", "--keep-thoughts=64", "--evict-every=16")
    assert evicts is not None
    eviction = thinking_to_proto(evicts).eviction
    assert (eviction.capacity, eviction.window) == (64, 16)


@pytest.mark.parametrize("options", [["--head-sparsity=2"], ["--head-sparsity=red"], ["--round=-1"]])
def test_bad_options_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--think=9", *options)


def test_numbers_that_cannot_be_told_are_refused_before_they_are_sent() -> None:
    check_thinking(Thinking(max_tokens=0, heads=ThinkingHeads(sink=0)))
    for wish, name in (
        (Thinking(max_tokens=-1), "Thinking.max_tokens"),
        (Thinking(rollover=ThinkingRollover(max_rounds=1 << 32)), "Thinking.rollover.max_rounds"),
    ):
        with pytest.raises(BadQuestion, match=name):
            check_thinking(wish)


def test_what_policies_did_comes_back() -> None:
    assert thinking_usage(types_pb2.Usage()) is None
    message = types_pb2.ThinkingUsage(
        dropped_tokens=3, rounds=2, verifier_questions=4, verifier_tokens=5, plan="easy"
    )
    expected = ThinkingUsage(dropped_tokens=3, rounds=2, verifier_questions=4, verifier_tokens=5, plan="easy")
    assert thinking_usage(types_pb2.Usage(thinking=message)) == expected
