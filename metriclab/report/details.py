"""What a run was: its recipe as it stands in the folder, and what its numbers depend on besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metriclab.report.html import Section, section, tag
from metriclab.report.summary import facts
from metriclab.runs.files import to_json
from metriclab.runs.folder import RunFolder


def recipe_section(path: Path) -> Section:
    """The complete recipe."""
    text = RunFolder(path).recipe_file.read_text("utf-8")
    shown = tag("pre", tag("code", text), tabindex=0, role="region", aria_label="recipe.toml")
    return section("recipe", "Recipe", shown, lead="Complete, with every default filled in. It runs as it stands.")


def manifest_section(path: Path) -> Section:
    """Versions, hardware and data."""
    manifest = RunFolder(path).manifest()
    whole = tag("pre", tag("code", to_json(manifest)), tabindex=0, role="region", aria_label="manifest.json")
    return section(
        "manifest",
        "Manifest",
        facts(_environment(manifest)),
        tag("details", tag("summary", "manifest.json"), whole),
        lead="What the last digits of the numbers may depend on.",
    )


def _environment(manifest: dict[str, Any]) -> list[tuple[str, Any]]:
    versions = manifest.get("versions", {})
    known = {
        "accelerator": manifest.get("accelerator") or "none",
        "processor": manifest.get("processor"),
        "cpus": manifest.get("cpus"),
        "threads": manifest.get("threads"),
        "ranks": manifest.get("ranks"),
        "platform": manifest.get("platform"),
        "Python": manifest.get("python"),
        **{name: versions.get(name) for name in ("torch", "timm", "numpy")},
        "test data": str(manifest.get("data", {}).get("test", ""))[:16],
    }
    return [(name, value) for name, value in known.items() if value not in (None, "")]
