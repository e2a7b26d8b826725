"""The tables of faults are whole: every fault has an outcome, and what shows it exists."""

from __future__ import annotations

import ast
import functools

import pytest

from bench.faults import table
from bench.faults.inputs import names
from bench.faults.strikes import STEPS
from bench.faults.system import KINDS
from tandem.core.timeline import GapReason
from tests.faults import run, scenarios
from tests.guards.product import ROOT

LISTED, SCENARIOS = table.listed(), table.scenarios()
INPUTS = frozenset(names())
"""Once: each bad input is made to be named."""


@functools.cache
def functions(file: str) -> frozenset[str]:
    """The test functions of a file, those of a class as ``Class::test``."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{item.name}" for item in node.body if hasattr(item, "name")}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return frozenset(found)


def test_every_fault_and_every_bad_input_is_listed() -> None:
    wanted = [f"F{n}" for n in range(1, table.FAULTS + 1)] + [f"B{n}" for n in range(1, table.INPUTS + 1)]
    assert list(LISTED) == wanted


@pytest.mark.parametrize("name", LISTED)
def test_what_shows_a_fault_exists(name: str) -> None:
    listed = LISTED[name]
    assert listed.is_shown or len(listed.elsewhere) > 20
    assert not set(listed.scenarios) - set(SCENARIOS)
    assert not set(listed.inputs) - INPUTS
    for test in listed.tests:
        file, _, function = test.partition("::")
        assert function in functions(file), test


def test_thirty_of_each_are_shown_here() -> None:
    for letter in "FB":
        assert sum(each.is_shown for name, each in LISTED.items() if name.startswith(letter)) >= 30


def test_every_scenario_and_bad_input_shows_something_listed() -> None:
    shown = {name for each in LISTED.values() for name in (*each.scenarios, *each.inputs)}
    assert set(SCENARIOS) - shown == {"undisturbed", "bad-inputs", "orchestrator-frozen-and-woken"}
    assert INPUTS - shown == {
        *("picture-that-is-none", "picture-cut-off", "picture-of-an-unknown-format"),
        *("raw-picture-of-another-size", "bytes-among-pictures", "question-without-id"),
        *("no-kind-of-media", "unknown-kind-of-media"),
    }


def test_scenarios_name_what_there_is() -> None:
    for scenario in SCENARIOS.values():
        assert scenario.system in KINDS, scenario.name
        assert {step.do for step in scenario.steps} <= set(STEPS), scenario.name
        assert set(scenario.gaps) <= {reason.value for reason in GapReason}, scenario.name


def test_what_is_done_to_services_apart_is_known_there() -> None:
    rows = table.apart()
    assert len(rows) == 29
    services = set(scenarios.hit(rows["both-killed"])) | {scenarios.ORCHESTRATOR}
    for name, row in rows.items():
        assert {step.do for step in row.steps} <= {"ask", "signal", "wait", *run.PROXIED}, name
        assert scenarios.hit(row), name
        assert set(scenarios.hit(row)) <= services, name
    same = [row.steps for row in rows.values()]
    assert not [steps for steps in same if same.count(steps) > 1], "what is said twice is one row"


def test_the_document_has_every_row() -> None:
    text = (ROOT / "docs/faults.md").read_text()
    missing = [name for name, each in LISTED.items() if f"| {name} | {each.what} |" not in text]
    assert not missing
    assert not [name for name in SCENARIOS if f"`{name}`" not in text]
