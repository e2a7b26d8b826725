"""The guide for operators says what is: alerts, metrics, options of the commands in it."""

from __future__ import annotations

import argparse
import re
import shlex

from tandem import cli
from tests.guards.product import ROOT

TEXT = (ROOT / "docs/operating.md").read_text()


def test_every_alert_of_the_chart_is_explained_and_no_other() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (ROOT / "helm/templates/alerts.yaml").read_text()))
    assert alerts
    assert set(re.findall(r"`(Tandem[A-Z]\w+)`", TEXT)) == alerts


def test_its_metrics_are_known() -> None:
    known = (ROOT / "docs/observability.md").read_text()
    named = set(re.findall(r"`(tandem_[a-z_]+)", TEXT))
    assert named
    missing = {name for name in named if f"`{name.removesuffix('_sum')}`" not in known}
    assert not missing


def test_its_commands_parse() -> None:
    commands = {command.name: command for command in cli.COMMANDS}
    joined = TEXT.replace("\\\n", " ")
    shown = re.findall(r"^tandem (\w+)(.*)$", joined, re.MULTILINE)
    shown += re.findall(r"sh -c 'tandem (\w+)([^']*)'", joined)
    assert {name for name, _ in shown} == {"plan", "forget"}
    for name, rest in shown:
        parser = argparse.ArgumentParser()
        commands[name].add_arguments(parser)
        parser.parse_args(shlex.split(rest, comments=True))
