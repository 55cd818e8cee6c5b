"""A registry that forgets what a test put into it, and distributions that exist as metadata alone."""

import importlib
import sys
from pathlib import Path

import pytest

from metriclab.registry import entry, registry


@pytest.fixture(autouse=True)
def _forgetful_registry():
    """What a test loads or declares is gone after it."""
    before = {**registry.declared}, {**registry.definitions}
    yield
    for memory, content in zip((registry.declared, registry.definitions), before, strict=True):
        memory.clear()
        memory.update(content)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lays out a distribution as pip would: its metadata, and its modules."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    modules = set(sys.modules)

    def lay_out(package: str, entry_points: str, version: str = "1.0", **sources: str) -> Path:
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)
        for module, source in sources.items():
            (site / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        entry._installed.cache_clear()
        return site

    yield lay_out
    entry._installed.cache_clear()
    for module in set(sys.modules) - modules:
        if str(site) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]
