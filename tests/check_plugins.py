"""Builds each package of plugins/ as a wheel, installs it, tests it, runs a recipe with it, and removes it again.

Run by `make plugins` in the environment of the development tools; not collected by pytest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from run.tiny import TINY

PLUGINS = Path(__file__).parent.parent / "plugins"


def call(*command: object, **options) -> subprocess.CompletedProcess:
    print("+", *command, flush=True)
    return subprocess.run([sys.executable, *map(str, command)], check=True, text=True, **options)


def check(package: Path, folder: Path) -> None:
    call("-m", "build", "--wheel", "--outdir", folder, package)
    (wheel,) = folder.glob("*.whl")
    name = wheel.name.split("-")[0]
    call("-m", "pip", "install", "--quiet", "--no-deps", wheel)
    try:
        call("-m", "pytest", package / "tests", "-p", "no:cacheprovider", "-c", package / "pyproject.toml")
        listed = call("-m", "metriclab.cli", "plugins", "--json", capture_output=True)
        assert name.replace("_", "-") in listed.stdout, listed.stdout
        for point in metadata.distribution(name).entry_points:
            if point.group == "metriclab.loss":
                run_recipe(point.name, folder)
    finally:
        call("-m", "pip", "uninstall", "--quiet", "--yes", name)


def run_recipe(loss: str, folder: Path) -> None:
    """A short run with the plugin's loss, whose package and version end up in the manifest."""
    recipe = folder / "tiny.toml"
    recipe.write_text(TINY)
    options = ("--set", f"loss.name={loss}", "--set", "train.steps=20", "--out", folder / loss, "-q")
    call("-m", "metriclab.cli", "run", recipe, *options)
    print("plugins of the run:", json.loads((folder / loss / "manifest.json").read_text())["plugins"])


if __name__ == "__main__":
    for package in sorted(path.parent for path in PLUGINS.glob("*/pyproject.toml")):
        with tempfile.TemporaryDirectory() as folder:
            check(package, Path(folder))
