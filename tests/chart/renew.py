"""Writes what is made from the chart; see scripts/chart-renew."""

from __future__ import annotations

from tests.chart.golden import GOLDEN, NAMES, file_of, golden
from tests.chart.rendering import CHART
from tests.chart.table import with_table


def main() -> None:
    """Write the README's table and every golden render."""
    readme = CHART / "README.md"
    readme.write_text(with_table(readme.read_text(), (CHART / "values.yaml").read_text()))
    GOLDEN.mkdir(exist_ok=True)
    for name in NAMES:
        file_of(name).write_text(golden(name))
        print(file_of(name))


if __name__ == "__main__":
    main()
