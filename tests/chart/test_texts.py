"""What is kept as text beside the chart is what the chart says: README, golden renders, versions."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import helm_python
import pytest

import tandem
from tests.chart.golden import GOLDEN, NAMES, file_of, golden
from tests.chart.rendering import CHART, ROOT, defaults, read, render
from tests.chart.table import described, table, with_table
from tests.chart.test_values import LEAVES

VALUES = (CHART / "values.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_render_is_current(name: str) -> None:
    """Otherwise look at the difference, and run scripts/chart-renew."""
    assert golden(name) == file_of(name).read_text()


def test_every_golden_render_has_its_values() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(NAMES)


def test_the_readme_lists_every_value() -> None:
    """Otherwise run scripts/chart-renew."""
    readme = (CHART / "README.md").read_text()
    assert with_table(readme, VALUES) == readme
    assert {each.path for each in described(VALUES)} == set(LEAVES)
    assert all(each.text.endswith(".") for each in described(VALUES))


def test_a_value_without_words_is_found() -> None:
    with pytest.raises(ValueError, match=r"encoder\.new has no comment"):
        table("encoder:\n  new: 1\n")


def test_templates_read_only_values_that_are_there() -> None:
    """A misspelt one would be empty, in silence."""
    values = defaults()
    roles = [values[role] for role in ("orchestrator", "encoder", "reasoner")]
    for path in sorted((CHART / "templates").rglob("*")):
        for chain in re.findall(
            r"(?:\.Values|\$v)((?:\.[A-Za-z]+)+)", path.read_text() if path.is_file() else ""
        ):
            place = values
            for part in chain[1:].split("."):
                assert part in place, f"{path.name}: .Values{chain}"
                place = place[part]
        for chain in re.findall(
            r"\$(?:own|role)((?:\.[A-Za-z]+)+)", path.read_text() if path.is_file() else ""
        ):
            assert any(_has(role, chain[1:].split(".")) for role in roles), f"{path.name}: {chain}"


def _has(place: object, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(place, dict) or part not in place:
            return False
        place = place[part]
    return True


def test_versions_are_those_of_the_product() -> None:
    chart = read(CHART / "Chart.yaml")
    assert chart["appVersion"] == tandem.__version__
    assert chart["kubeVersion"] == ">=1.27.0-0"
    images = re.findall(r"image: (\S+)", chart["annotations"]["artifacthub.io/images"])
    used = {
        container["image"]
        for _, _, spec in render({"insecure": True}).pods()
        for container in spec["containers"]
    }
    assert set(images) == used


def test_the_package_is_the_chart_without_its_ci_files(tmp_path: Path) -> None:
    helm_python.package(CHART, destination=tmp_path)
    (archive,) = tmp_path.glob("*.tgz")
    assert archive.name == f"tandem-{read(CHART / 'Chart.yaml')['version']}.tgz"
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("tandem/") for name in packed.getnames()}
    here = {path.relative_to(CHART).as_posix() for path in CHART.rglob("*") if path.is_file()}
    assert names == {name for name in here if not name.startswith("ci/")}


def test_the_command_that_renews_can_be_called() -> None:
    assert (ROOT / "scripts/chart-renew").stat().st_mode & 0o111
