"""Builds each package of plugins/ as a wheel, installs it, tests it, runs recipes with it, and removes it again.

All of that in an environment of its own, where metriclab is a wheel too, as a user has it; the packages it depends on
are those of the environment that runs this. Run by `make plugins`; not collected by pytest. Names of packages as
arguments, as in `python tests/check_plugins.py metriclab-circle`, check these alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from tests.support.tiny import TINY

ROOT = Path(__file__).parent.parent
STEPS, BATCH = 20, 32
_EPOCHS = re.compile(r"^epochs\s*=.*$", re.MULTILINE)


class Environment(NamedTuple):
    """A virtual environment.

    Attributes:
        python: its interpreter.
        folder: an empty one, in which everything runs: no checkout is on the path.
    """

    python: Path
    folder: Path

    def call(self, *command: object, **options) -> subprocess.CompletedProcess:
        print("+", *command, flush=True)
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        arguments = [str(self.python), *map(str, command)]
        return subprocess.run(arguments, check=True, text=True, cwd=self.folder, env=clean, **options)

    def install(self, wheel: Path) -> None:
        """The wheel, whatever the environment around this one has, and then what it depends on if that is missing."""
        self.call("-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps", wheel)
        self.call("-m", "pip", "install", "--quiet", name_of(wheel))


def environment(folder: Path) -> Environment:
    """A new environment that also sees the packages of this one, but none of its editable installations."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    work = folder / "work"
    work.mkdir()
    made = Environment(folder / "venv" / "bin" / "python", work)
    purelib = made.call("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", capture_output=True)
    around = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(purelib.stdout.strip()) / "around.pth").write_text("\n".join(around) + "\n")
    return made


def wheel_of(package: Path, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, package], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def name_of(wheel: Path) -> str:
    return wheel.name.split("-")[0].replace("_", "-")


def check(package: Path, made: Environment) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = wheel_of(package, Path(folder))
        name = name_of(wheel)
        made.install(wheel)
    try:
        made.call("-m", "pytest", package / "tests", "-p", "no:cacheprovider", "-c", package / "pyproject.toml")
        # Of every package by its own file, so that an entry point which the wheel lacks is found.
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        promised = {
            (group.removeprefix("metriclab."), component)
            for group, components in project["entry-points"].items()
            if group != "metriclab.api"  # the version it is written for
            for component in components
        }
        assert promised == components_of(name, made), (promised, components_of(name, made))
        for kind, component in sorted(promised):
            if kind == "loss":
                run_tiny(name, component, made)
        run_recipes(name, package, made)
    finally:
        made.call("-m", "pip", "uninstall", "--quiet", "--yes", name)
    assert not components_of(name, made), f"{name} is still there after it was removed"


def components_of(name: str, made: Environment) -> set[tuple[str, str]]:
    """Kind and name of what a package brings."""
    listed = made.call("-m", "metriclab.cli", "list", "--json", capture_output=True)
    in_venv = f"metadata.distribution('{name}').locate_file('').resolve().is_relative_to(sys.prefix)"
    code = f"import sys; from importlib import metadata; print({in_venv})"
    try:
        found = made.call("-c", code, capture_output=True).stdout.strip() == "True"
    except subprocess.CalledProcessError:
        found = False  # the environment around this one does not have it either
    of_package = [entry for entry in json.loads(listed.stdout) if entry["package"] == name]
    return {(entry["kind"], entry["name"]) for entry in of_package} if found else set()


def run_tiny(name: str, loss: str, made: Environment) -> None:
    """A short run with the plugin's loss."""
    recipe = made.folder / "tiny.toml"
    recipe.write_text(TINY)
    run(name, recipe, made, "--set", f"loss.name={loss}")


def run_recipes(name: str, package: Path, made: Environment) -> None:
    """The first steps of every recipe of the package, in small batches; of glyphs on fewer and simpler images."""
    if not (package / "recipes").is_dir():
        return
    copied = made.folder / "recipes"
    shutil.copytree(package / "recipes", copied, dirs_exist_ok=True)
    for recipe in sorted(copied.rglob("*.toml")):
        recipe.write_text(_EPOCHS.sub("", recipe.read_text()))  # steps say how long; both would be refused
    for recipe in sorted(copied.glob("*.toml")):
        values = tomllib.loads(recipe.read_text())
        root = values.get("data", {}).get("root")
        if root is not None and not Path(root).exists():
            print(f"{recipe.name} is not run: it needs data in {root}")
            continue
        batch = values.get("sampler", {}).get("batch_size", 0)
        smaller = ["--set", f"sampler.batch_size={BATCH}"] if batch > BATCH else []
        if values.get("data", {}).get("name") == "glyphs":
            smaller += ["--set", "data.name=synthetic"]  # measuring 14,773 images by every baseline takes minutes
        run(name, recipe, made, *smaller)
    shutil.rmtree(copied)


def run(name: str, recipe: Path, made: Environment, *options: str) -> None:
    """Some steps, after which the plugin's package and version stand in the manifest."""
    out = made.folder / "run"
    made.call("-m", "metriclab.cli", "run", recipe, *options, "--set", f"train.steps={STEPS}", "--out", out, "-q")
    plugins = json.loads((out / "manifest.json").read_text())["plugins"]
    print("plugins of the run:", plugins)
    assert name in plugins, f"the run used nothing of {name}"
    shutil.rmtree(out)


def main(wanted: list[str]) -> None:
    packages = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
    unknown = set(wanted) - {package.name for package in packages}
    assert not unknown, f"plugins/ has no {', '.join(unknown)}"
    with tempfile.TemporaryDirectory() as folder:
        made = environment(Path(folder))
        built = Path(folder) / "metriclab"
        made.install(wheel_of(ROOT, built))
        where = made.call("-c", "import metriclab; print(metriclab.__file__)", capture_output=True).stdout.strip()
        assert Path(where).is_relative_to(folder), f"{where} is not the wheel"
        for package in packages:
            if not wanted or package.name in wanted:
                check(package, made)


if __name__ == "__main__":
    main(sys.argv[1:])
