"""A recipe cannot run code, whatever it says: nothing is imported, expanded, read or written for a name or a value."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.errors import RecipeError
from metriclab.recipe import read_recipe

WHOLE = """
[data]
name = "folder"
root = "images"

[encoder]
name = "pixels"

[head]
name = "linear"
embedding_dim = 8

[loss]
name = "nt-xent"
temperature = 0.1

[method]
name = "simclr"

[train]
steps = 1
"""

NAMES = [  # of a component
    "os",
    "os.system",
    "os:system",
    "this:s",
    "antigravity",
    "builtins:eval",
    "metriclab.losses.nt_xent",
    "metriclab.losses.nt_xent:NTXent",
    "torch.nn:Linear",
    "metriclab-toolkit:__init__",
    "__import__('os').system('touch owned')",
    "__class__",
    "__class__.__mro__",
    "lambda: 0",
    "nt-xent; touch owned",
    "$(touch owned)",
    "`touch owned`",
    "${HOME}",
    "$PATH",
    "%(name)s",
    "{0.__class__}",
    "{loss}",
    "%n%n%s",
    "../nt-xent",
    "../../../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "https://example.invalid/loss.py",
    "C:\\\\Windows\\\\win.ini",
    "nt-xent\\u0000",
    "\\u001b]0;owned\\u0007",
    "nt\\u2010xent",  # a hyphen that is not one
    "nt-\\u0445ent",  # a Cyrillic letter that looks like an x
    "\\uff4e\\uff54-xent",  # full width
    "nt-xent\\u200b",  # a space without width
    "\\u202etnex-tn",  # written from right to left
    "NT-XENT",
    "nt-xent\\n[train]\\nsteps = 9",
    " nt-xent",
    "",
    "a" * 100_000,
    ":",
    "a:b:c",
]

VALUES = [  # the rest of the line that sets the temperature of the loss
    "\"__import__('os').system('touch owned')\"",
    '"${METRICLAB_TEST_TEMPERATURE}"',
    '"0.1 if True else 0"',
    '"{0.1}"',
    "1979-05-27T07:32:00Z",
    "1979-05-27",
    "07:32:00",
    "1e400",
    "inf",
    "nan",
    "-0x1",
    "1" * 400,
    "1" * 5_000,
    "9223372036854775808",
    "[0.1]",
    "{ __class__ = 1 }",
    "{ name = 'os.system' }",
    "[" * 31 + "]" * 31,
    "[" * 3_000 + "]" * 3_000,
    "{ a = " * 200 + "1" + " }" * 200,
    '"' + "b" * 900_000 + '"',
    "'''\n''' ]",
    '"\\u0000"',
    "true",
    "!!python/object/apply:os.system ['touch owned']",
    '0.1\n"__class__" = 1',
    '0.1\n"__init__.__globals__" = 1',
    "0.1\nimport_path = 'os'",
    "0.1\nname = 'os'",
    "0.1\n[loss.__dict__]\nx = 1",
    "0.1\n[os]\nsystem = 'touch owned'",
    "0.1\n[__builtins__]\n",
    "0.1\n[[loss]]\n",
]

HEADS = [  # before the first table
    'extends = "/etc/passwd"',
    'extends = "/dev/zero"',
    'extends = "../../../../../../etc/hostname"',
    'extends = "https://example.invalid/base.toml"',
    'extends = "$HOME/base.toml"',
    'extends = "base\\u0000.toml"',
    'extends = ["a", "b"]',
    'extends = "."',
    'requires = ["os"]\n[loss]\nname = "os"',
    'requires = ["../os"]',
    'requires = ["pip @ https://example.invalid/pip.zip"]',
    "import = 'os'",
    "plugin = 'mine.py'",
    "plugins = ['mine.py']",
    "__import__ = 'os'",
    "a.b.c.d = 1",
    "\x00",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
]

RECIPES = [
    *(WHOLE.replace('"nt-xent"', f'"{name}"') for name in NAMES),
    *(WHOLE.replace("temperature = 0.1", f"temperature = {value}") for value in VALUES),
    *(f"{head}\n{WHOLE}" for head in HEADS),
    "",
    "[" * 100_000,
    "a." * 50_000 + "b = 1",
    "\ufeff\ufeff" + WHOLE,
    WHOLE.replace("[loss]", "['lo\\u0073s']"),
]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a plugin that would be seen if anything imported it; all that is named is loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METRICLAB_TEST_TEMPERATURE", "0.1")
    (tmp_path / "mine.py").write_text("open('owned', 'w')\n")
    (tmp_path / "nt_xent.py").write_text("open('owned', 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "recipe.toml"
    path.write_text(WHOLE)
    assert read_recipe(path)
    command(path)
    with pytest.raises(RecipeError):
        read_recipe(path, ["requires=['no-such-package']"])
    return path


def command(path: Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


def test_hostile_recipes_are_refused_and_leave_no_trace(place: Path) -> None:
    assert len(RECIPES) >= 50
    for index, recipe in enumerate(RECIPES):
        place.write_text(recipe, encoding="utf-8")
        modules, environment, before = set(sys.modules), dict(os.environ), files(place.parent)
        with pytest.raises(RecipeError) as caught:
            read_recipe(place)
        text = str(caught.value)
        if index % 5 == 0:  # the command says the same
            assert command(place) == (2, f"{text}\n"), recipe[:200]
        assert "Traceback" not in text
        assert len(text) < 3_000, recipe[:200]
        assert all(character.isprintable() or character in "\n\t" for character in text), recipe[:200]
        assert set(sys.modules) == modules, recipe[:200]
        assert dict(os.environ) == environment
        assert files(place.parent) == before


OPTIONS = [
    *(f"loss.name={name}" for name in NAMES if 0 < len(name) < 100 and name == name.strip()),
    "loss.__class__=1",
    "__class__.x=1",
    "loss.temperature=__import__('os')",
    "data.name=os.system",
    "os.system=touch owned",
    "loss.temperature=${METRICLAB_TEST_TEMPERATURE}",
    "extends=/etc/passwd",
    "evaluate.0.name=os.system",
    "track.0.name=os.system",
    f"loss.temperature={'9' * 5_000}",
    "a" * 10_000 + "=1",
]


def test_hostile_options_are_refused_and_leave_no_trace(place: Path) -> None:
    for option in OPTIONS:
        modules, before = set(sys.modules), files(place.parent)
        with pytest.raises(RecipeError):
            read_recipe(place, [option])
        assert set(sys.modules) == modules, option
        assert files(place.parent) == before, option


@pytest.mark.parametrize("text", ["$HOME", "${HOME}/images", "~/images", "{seed}", "%(HOME)s", "$(ls)", "../images"])
def test_text_is_what_it_says(text: str, place: Path) -> None:
    assert read_recipe(place, [f"data.root='{text}'"]).components["dataset"].params["root"] == text
