"""A run that was made with plugins names them where they are missing."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.registry import load_plugin_file, registry
from metriclab.registry.decorator import match_plugin_files
from tests.support.tiny import run, tiny

PLUGIN = """
from metriclab.api import PairLoss, Term, register

def pull(pairs):
    return {"pull": Term((1 - pairs.similarity).where(pairs.positive, 0).sum(1), pairs.positive.sum(1))}

@register("loss", "pulls")
def pulls():
    return PairLoss(pull)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, whose plugin file nobody has loaded any more."""
    place = tmp_path_factory.mktemp("run")
    (place / "my_loss.py").write_text(PLUGIN)
    before = {**registry.declared}, {**registry.definitions}
    load_plugin_file(place / "my_loss.py")
    run(tiny(place, "loss.name=pulls", "train.steps=1"), place / "run")
    match_plugin_files([])
    for memory, content in zip((registry.declared, registry.definitions), before, strict=True):
        memory.clear()
        memory.update(content)
    return place


@pytest.mark.parametrize("command", [["embed", "RUN", "RUN", "-o", "x.npy"], ["report", "RUN", "-o", "x.html"]])
def test_a_missing_plugin_file_is_named(command, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").touch()
    words = [str(folder / "run") if word == "RUN" else word for word in command]
    if command[0] == "embed":
        words[2] = "image.png"
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.stderr
    assert "there is no loss 'pulls'" in done.stderr
    assert done.stderr.endswith(
        "help: the run was made with plugins that are not there: add --plugin my_loss.py, with the path of the file\n"
    )
    again = CliRunner().invoke(main, [*words, "--plugin", str(folder / "my_loss.py")])
    assert "there is no loss" not in again.stderr
    match_plugin_files([])


def test_the_page_of_a_run_names_its_plugins(folder, tmp_path):
    out = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["report", str(folder / "run"), "--no-images", "-o", str(out)])
    assert done.exit_code == 0, done.stderr
    assert "my_loss.py file" in out.read_text()
