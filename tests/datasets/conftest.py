from __future__ import annotations

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("METRICLAB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def drawn_cache(tmp_path_factory):
    """A cache for the whole session, so that the glyphs are drawn once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRICLAB_CACHE", str(folder))
        yield folder
