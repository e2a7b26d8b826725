"""The life of a question."""

from __future__ import annotations

import pytest

from reasoner_svc.decode.question import Phase, Progress

ALLOWED = {
    (Phase.QUEUED, Phase.PREFILL),
    (Phase.PREFILL, Phase.DECODING),
    (Phase.PREFILL, Phase.DONE),
    (Phase.DECODING, Phase.DONE),
    *(
        (phase, end)
        for phase in (Phase.QUEUED, Phase.PREFILL, Phase.DECODING)
        for end in (Phase.CANCELLED, Phase.FAILED)
    ),
}


@pytest.mark.parametrize("before", Phase)
@pytest.mark.parametrize("after", Phase)
def test_only_the_table_s_transitions_happen(before: Phase, after: Phase) -> None:
    progress = Progress(phase=before)
    if (before, after) in ALLOWED:
        progress.move(after)
        assert progress.phase is after
    else:
        with pytest.raises(AssertionError, match="no way"):
            progress.move(after)


def test_three_phases_are_final() -> None:
    assert {phase for phase in Phase if phase.final} == {Phase.DONE, Phase.CANCELLED, Phase.FAILED}
