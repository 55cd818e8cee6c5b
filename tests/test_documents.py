"""What the documentation takes from the code is what the code has, and every block of code in it works."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from metriclab.api import Batch, Network, build
from metriclab.cli import main
from metriclab.cli.new_plugin.package import plan, write
from metriclab.recipe import read_recipe
from metriclab.registry import KINDS, registry
from metriclab.testing import check_loss, check_method
from tests.support.tiny import TINY

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TEXT = (DOCS / "plugins.md").read_text("utf-8")
BLOCKS = re.findall(r"(?:<!-- from the code: ([\w-]+) -->\n)?```(\w+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _forgetful_registry():
    before = dict(registry.declared), dict(registry.definitions)
    yield
    for memory, content in zip((registry.declared, registry.definitions), before, strict=True):
        memory.clear()
        memory.update(content)


def blocks(language: str, name: str = "") -> list[str]:
    """The blocks of code that authors wrote, or those of a name that are taken from the code."""
    return [text for marked, kind, text in BLOCKS if (marked, kind) == (name, language)]


def test_every_block_is_tested_below():
    assert {language for _, language, _ in BLOCKS} == {"python", "toml", "sh"}
    assert (len(blocks("python")), len(blocks("toml")), len(blocks("sh"))) == (4, 2, 3)


def test_recipes_are_documented_as_the_code_has_them(generate):
    assert generate.recipes_page() == (DOCS / "recipes.md").read_text("utf-8"), "run: python docs/generate.py"


def test_the_losses_of_the_example_go_together(tmp_path):
    (losses,) = re.findall(r"```toml\n(.*?)```", (DOCS / "recipes.md").read_text("utf-8"), re.DOTALL)
    path = tmp_path / "recipe.toml"
    path.write_text(TINY.replace('[loss]\nname = "nt-xent"\n', losses))
    recipe = read_recipe(path, ["method.name=supervised", "head.embedding_dim=32"])
    criterion = recipe.losses.build(32, torch.arange(3))
    assert criterion.names == ("supcon-8", "supcon-16", "supcon-32", "nt-xent", "hard")


def test_every_kind_is_documented_with_the_signature_the_code_has(generate):
    assert set(KINDS) | set(generate.PARTS) == set(generate.documented(TEXT))
    for kind in KINDS:
        assert f"\n### {kind}\n" in TEXT
    assert generate.plugins_page(TEXT) == TEXT, "run: python docs/generate.py"


def test_the_outline_of_a_class_is_its_signatures(generate):
    text = generate.signature("loss") + generate.signature("Batch")
    assert 'def __call__(self, anchors: Rows, references: Rows, /) -> Float[Tensor, ""]: ...' in text
    assert "def mine(*, key: float = 1.0) -> Loss: ..." in text
    assert "def slice(self, start: int, stop: int) -> Batch: ..." in text


@pytest.mark.parametrize("name", [name for name, _, _ in BLOCKS if name])
def test_signatures_can_be_executed(name):
    (text,) = blocks("python", name)
    names: dict = {}
    exec("from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
         f"from typing import NamedTuple, Protocol\n{text}", names)  # fmt: skip
    assert name in names if name[0].isupper() else "mine" in names


def plugin(folder: Path, number: int) -> Path:
    source = blocks("python")[number]
    path = folder / source.splitlines()[0].removeprefix("# ")
    path.write_text(source)
    return path


def run(folder: Path, *options: str) -> None:
    (folder / "recipe.toml").write_text(TINY)
    arguments = ["run", str(folder / "recipe.toml"), "--set", "train.steps=2", "--out", str(folder / "run"), "-q"]
    done = CliRunner().invoke(main, [*arguments, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_worked_loss_has_twelve_lines_at_most_and_runs(tmp_path):
    path = plugin(tmp_path, 0)
    code = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 12
    run(tmp_path, "--plugin", str(path), "--set", "loss.name=my-loss")
    check_loss(build("loss", "my-loss"), ranks=False)  # the file lies outside the path of other processes
    names: dict = {"check_loss": check_loss}
    test = blocks("python")[3].replace('"my-loss")', '"my-loss"), ranks=False')
    exec(test, names)
    names["test_my_loss"]()


def test_the_worked_loss_that_is_a_class_runs_and_is_called_by_hand(tmp_path):
    path = plugin(tmp_path, 1)
    run(tmp_path, "--plugin", str(path), "--set", "loss.name=my-loss-class")
    loss = build("loss", "my-loss-class", margin=0.2)
    check_loss(loss, ranks=False)
    assert repr(loss) == "MyLoss(margin=0.2)"
    assert loss(torch.randn(4, 3), [0, 0, 1, 1]).shape == ()
    with pytest.raises(ValueError, match="margin of loss 'my-loss-class' must be float >= -1 and <= 1, not 2"):
        type(loss)(margin=2)


def test_the_worked_method_runs(tmp_path):
    path = plugin(tmp_path, 2)
    run(tmp_path, "--plugin", str(path), "--set", "method.name=my-method")
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 6))
    encoder.out_features = 6
    method = build("method", "my-method", Network(encoder, nn.Linear(6, 4)), loss=build("loss", "nt-xent"))
    items = torch.arange(8)
    check_method(method, Batch((torch.rand(8, 3, 4, 4), torch.rand(8, 3, 4, 4)), items, items, items, 0), ranks=False)
    outputs = method(Batch((torch.rand(8, 3, 4, 4),) * 2, items, items, items, 0))
    method.average.load_state_dict({key: torch.zeros_like(v) for key, v in method.average.state_dict().items()})
    method.after_step(outputs, 0)
    for average, now in zip(method.average.parameters(), method.network.parameters(), strict=True):
        torch.testing.assert_close(average, 0.01 * now.detach())


def test_the_entry_points_are_those_that_new_plugin_writes(tmp_path):
    points, requires = blocks("toml")
    write(plan("my-loss", "loss"), tmp_path / "package")
    project = tomllib.loads((tmp_path / "package" / "pyproject.toml").read_text())
    assert tomllib.loads(points)["project"]["entry-points"] == project["project"]["entry-points"]
    (tmp_path / "recipe.toml").write_text(requires + TINY)
    assert read_recipe(tmp_path / "recipe.toml").requires == ("metriclab-toolkit>=0.1",)


def test_every_command_and_option_exists():
    lines = [line.split() for text in blocks("sh") for line in text.splitlines()]
    for words in lines:
        if words[0] != "metriclab":
            assert words[:3] in (["python", "-m", "build"], ["python", "-m", "twine"])
            continue
        told = CliRunner().invoke(main, [words[1], "--help"])
        assert told.exit_code == 0
        for option in (word for word in words if word.startswith("-")):
            assert option in told.output


@pytest.mark.slow
def test_the_script_changes_nothing(tmp_path):
    before = {path: path.read_bytes() for path in DOCS.glob("*.md")}
    subprocess.run([sys.executable, DOCS / "generate.py"], check=True)
    assert {path: path.read_bytes() for path in DOCS.glob("*.md")} == before
