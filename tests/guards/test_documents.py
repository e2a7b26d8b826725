"""The documents say what is: errors, exit codes, links, examples, and the README's own code."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tandem import __version__, cli
from tandem.commands.base import Exit
from tandem.core.errors import ErrorCode, TandemError, error_from_code
from tandem.wire.status import STATUS_OF_CODE
from tests.guards.product import ROOT
from tests.integration.scripted_server import Script, serve

DOCUMENTS = sorted(
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
)


def rows(document: str, cells: int) -> list[list[str]]:
    """The rows of the tables with so many columns, without headings."""
    lines = [line for line in (ROOT / document).read_text().splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in split if len(row) == cells and not set(row[0]) <= {"-"}]


def test_every_error_is_in_the_table_as_it_is() -> None:
    table = {row[0].strip("`"): row for row in rows("docs/errors.md", 5)[1:]}
    assert list(table) == [code.value for code in ErrorCode]
    for code in ErrorCode:
        _, class_name, status, when, remedy = table[code.value]
        assert class_name == f"`{type(error_from_code(code, '')).__name__}`"
        assert status == f"`{STATUS_OF_CODE[code].name}`"
        assert len(when) > 10
        assert len(remedy) > 10
    assert len({type(error_from_code(code, "")) for code in ErrorCode}) == len(ErrorCode)
    assert all(issubclass(type(error_from_code(code, "")), TandemError) for code in ErrorCode)


def test_every_exit_code_is_documented() -> None:
    documented = [int(row[0]) for row in rows("docs/client.md", 2) if row[0].isdigit()]
    assert documented == [code.value for code in Exit]


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs/client.md").read_text()
    missing = [command.name for command in cli.COMMANDS if f"`tandem {command.name}" not in text]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = (ROOT / document.parent / path) if path else ROOT / document
            assert linked.exists(), f"{document} links to {target}"
            assert not anchor or anchor in _anchors(linked), f"{document} links to {target}"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_help_has_an_example_that_parses(command: cli.Command) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    lines = command.example.splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line.split("|")[-1].split(">")[0])
        assert words[:2] == ["tandem", command.name], line
        parser.parse_args(words[2:])


def test_the_commands_of_the_readme_parse() -> None:
    shown = re.findall(r"^tandem (\w+)(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown
    commands = {command.name: command for command in cli.COMMANDS}
    for name, rest in shown:
        parser = argparse.ArgumentParser()
        commands[name].add_arguments(parser)
        parser.parse_args(shlex.split(rest, comments=True))


async def run_against_a_server(script: str, *arguments: str) -> str:
    async with serve(Script()) as (address, _):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script.replace("127.0.0.1:7420", address),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, err.decode()
        return out.decode()


async def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert "you asked: what colour was the circle?" in await run_against_a_server(block)


async def test_the_first_example_runs() -> None:
    script = (ROOT / "examples/watch_and_ask.py").read_text()
    out = await run_against_a_server(script)
    assert "you asked: what colour was the circle?" in out
    assert "you asked: what is shown now?" in out


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text()
