"""What users import: the names, that they are there, and that asking for others fails as it should."""

from __future__ import annotations

import pytest

import tandem
from tandem import client
from tandem.client import sources


def test_the_package_hands_out_connect_and_its_version() -> None:
    assert tandem.connect is client.connect
    assert sorted(tandem.__all__) == tandem.__all__ == ["__version__", "connect"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tandem.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", [client, sources])
def test_exported_names_are_there(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    assert all(hasattr(module, name) for name in names)


def test_records_are_frozen_and_errors_apart() -> None:
    records = [
        getattr(client, name)
        for name in client.__all__
        if hasattr(getattr(client, name), "__dataclass_params__")
    ]
    assert len(records) > 15
    assert all(record.__dataclass_params__.frozen for record in records)
