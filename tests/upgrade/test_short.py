"""The orchestrator of the release before, with services of this one, is replaced under questions.

`test_rolling.py` has the rest. Services are in this process: their start would take longer than all of it.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults import inside
from tests.faults.fleet import Process, fleet
from tests.upgrade.former import former_tree
from tests.upgrade.load import Load


@pytest.mark.timeout(90)
async def test_a_former_orchestrator_is_replaced_and_no_question_is_lost(tmp_path: Path) -> None:
    tree = former_tree(tmp_path / "former")
    async with fleet(tmp_path, tree=tree) as found:
        for name, make in (("encoder-0", inside.encoder), ("reasoner-0", inside.reasoner)):
            await found.add(name, inside=make(name, found.secret_file))
        await found.ready("encoder-0", "reasoner-0")
        load = Load(found, 2, 0.1, outside=False)
        try:
            await load.start()
            orchestrator = found.members["orchestrator"]
            assert isinstance(orchestrator, Process)
            orchestrator.send(signal.SIGTERM)
            assert await orchestrator.ended(20) == 0
            orchestrator.tree = None
            await orchestrator.start()
            await load.go_on(3)
            await load.check()
        finally:
            await load.close()
