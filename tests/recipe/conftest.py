from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metriclab.registry import load_plugin_file
from metriclab.registry.registry import declared, definitions

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def components() -> Iterator[None]:
    """The components of components.py can be named in these tests, and in no others."""
    before = dict(declared), dict(definitions)
    load_plugin_file(HERE / "components.py")
    yield
    for registered, earlier in zip((declared, definitions), before, strict=True):
        registered.clear()
        registered.update(earlier)


@pytest.fixture
def base() -> Path:
    """A recipe without a mistake that says no more than it must."""
    return HERE / "golden" / "base" / "pairwise.toml"
