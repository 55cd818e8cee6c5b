"""Builds each package of plugins/ as a wheel, installs it, tests it, runs recipes with it, and removes it again.

All of that in environments where metriclab is a wheel too, as a user has it; the packages it depends on are those of
the environment that runs this, its pip and hatchling among them. There is an environment a processor, which checks one
package at a time; what a package printed is shown when it is through. Run by `make plugins`; not collected by pytest.
Names of packages as arguments, as in `python -m tests.check_plugins metriclab-circle`, check these alone.
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
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.support.tiny import TINY

ROOT = Path(__file__).parent.parent
STEPS, BATCH = 20, 32
RUN_COMMANDS = ROOT / "tests" / "support" / "run_commands.py"  # beside which is no metriclab
_LEFT_OUT = re.compile(r"^(epochs|weights)\s*=.*$", re.MULTILINE)
"""Lines of recipes: steps say how long, and both would be refused; what an earlier run trained is not here."""


class Environment(NamedTuple):
    """A virtual environment.

    Attributes:
        python: its interpreter.
        folder: an empty one, in which everything runs: no checkout is on the path.
        said: what the commands since the last package printed.
    """

    python: Path
    folder: Path
    said: list[str]

    def call(self, *command: object) -> None:
        """A command of this interpreter, which must succeed; what it prints is kept."""
        self.said.append(self.ask(*command))

    def ask(self, *command: object) -> str:
        """What a command prints to its output, for the caller alone; all that a failing one prints is kept."""
        self.said.append(f"+ {' '.join(map(str, command))}")
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        arguments = [str(self.python), *map(str, command)]
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=self.folder, env=clean)
        if done.returncode:
            self.said.extend([done.stdout, done.stderr])
        done.check_returncode()
        return done.stdout

    def install(self, wheel: Path) -> None:
        """The wheel, whatever the environment around this one has, and then what it depends on if that is missing."""
        self.call("-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps", wheel)
        self.call("-m", "pip", "install", "--quiet", name_of(wheel))


def environment(folder: Path) -> Environment:
    """A new environment that also sees the packages of this one, but none of its editable installations."""
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    work = folder / "work"
    work.mkdir()
    made = Environment(folder / "venv" / "bin" / "python", work, [])
    purelib = made.ask("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    around = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(purelib.strip()) / "around.pth").write_text("\n".join(around) + "\n")
    return made


def wheel_of(package: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, package]
    subprocess.run(command, check=True, capture_output=True, text=True)
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
        losses = sorted(component for kind, component in promised if kind == "loss")
        run(name, [*of_losses(losses, made), *of_recipes(package, made)], made)
    finally:
        made.call("-m", "pip", "uninstall", "--quiet", "--yes", name)
    assert not components_of(name, made), f"{name} is still there after it was removed"


def components_of(name: str, made: Environment) -> set[tuple[str, str]]:
    """Kind and name of what a package brings."""
    listed = made.ask("-m", "metriclab.cli", "list", "--json")
    in_venv = f"d.name == {name!r} and d.locate_file('').resolve().is_relative_to(sys.prefix)"
    code = f"import sys; from importlib import metadata; print(any({in_venv} for d in metadata.distributions()))"
    found = made.ask("-c", code).strip() == "True"  # the environment around this one may have it too
    of_package = [entry for entry in json.loads(listed) if entry["package"] == name]
    return {(entry["kind"], entry["name"]) for entry in of_package} if found else set()


def of_losses(losses: list[str], made: Environment) -> Iterator[list[str]]:
    """A short run with each of the plugin's losses; one over classes has their proxies."""
    if not losses:
        return
    recipe = made.folder / "tiny.toml"
    recipe.write_text(TINY)
    needs_memory = f"getattr(build('loss', name), 'needs_memory', False) for name in {losses}"
    of_classes = made.ask("-c", f"from metriclab.api import build; print(*({needs_memory}))").split()
    for loss, needed in zip(losses, of_classes, strict=True):
        more = ["--set", "method.name=supervised", "--set", "memory.name=proxies"] if needed == "True" else []
        yield [str(recipe), "--set", f"loss.name={loss}", *more]


def of_recipes(package: Path, made: Environment) -> Iterator[list[str]]:
    """The first steps of every recipe of the package, in small batches; of large data on fewer and simpler images."""
    if not (package / "recipes").is_dir():
        return
    copied = made.folder / package.name
    shutil.copytree(package / "recipes", copied)
    for recipe in sorted(copied.rglob("*.toml")):
        recipe.write_text(_LEFT_OUT.sub("", recipe.read_text()))
    for recipe in sorted(copied.glob("*.toml")):
        values = tomllib.loads(recipe.read_text())
        root = values.get("data", {}).get("root")
        if root is not None and not Path(root).exists():
            made.said.append(f"{recipe.name} is not run: it needs data in {root}")
            continue
        batch = values.get("sampler", {}).get("batch_size", 0)
        smaller = ["--set", f"sampler.batch_size={BATCH}"] if batch > BATCH else []
        if values.get("data", {}).get("name") in ("glyphs", "fabrics"):
            smaller += ["--set", "data.name=synthetic"]  # measuring 14,773 images by every baseline takes minutes
        yield [str(recipe), *smaller]


def run(name: str, recipes: list[list[str]], made: Environment) -> None:
    """Some steps of each, after which the plugin's package and version stand in the manifest."""
    out = [made.folder / f"{name}-{number}" for number in range(len(recipes))]
    ends = [["--set", f"train.steps={STEPS}", "--out", str(folder), "-q"] for folder in out]
    commands = [["run", *recipe, *end] for recipe, end in zip(recipes, ends, strict=True)]
    made.call(RUN_COMMANDS, json.dumps(commands))
    for folder in out:
        plugins = json.loads((folder / "manifest.json").read_text())["plugins"]
        made.said.append(f"plugins of the run: {plugins}")
        assert name in plugins, f"the run used nothing of {name}"


def check_all(packages: list[Path], folder: Path) -> Iterator[str]:
    """What was said of each package, as soon as it is through; what is wrong with one is raised then."""
    metriclab, free = wheel_of(ROOT, folder / "metriclab"), SimpleQueue()

    def prepare(number: int) -> None:
        made = environment(folder / str(number))
        made.install(metriclab)
        where = made.ask("-c", "import metriclab; print(metriclab.__file__)").strip()
        assert Path(where).is_relative_to(folder), f"{where} is not the wheel"
        free.put(made)

    def checked(package: Path) -> str:
        made = free.get()
        made.said[:] = [f"== {package.name}"]
        try:
            check(package, made)
            return "\n".join(made.said)
        except BaseException:
            print(*made.said, sep="\n", flush=True)
            raise
        finally:
            free.put(made)

    at_once = min(len(packages), os.cpu_count() or 1)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(prepare, range(at_once)))
        yield from pool.map(checked, packages)


def main(wanted: list[str]) -> None:
    packages = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
    unknown = set(wanted) - {package.name for package in packages}
    assert not unknown, f"plugins/ has no {', '.join(unknown)}"
    chosen = [package for package in packages if not wanted or package.name in wanted]
    with tempfile.TemporaryDirectory() as folder:
        for said in check_all(chosen, Path(folder)):
            print(said, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
