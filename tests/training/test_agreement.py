"""Ranks that would not run the same are told before the first step, and one that fails takes the others along."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from metriclab import distributed
from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.errors import MetriclabError, RecipeError
from metriclab.registry import load_plugin_file
from metriclab.runs import manifest
from metriclab.testing import Share, on_ranks
from metriclab.training.agreement import require_same, require_same_recipe
from tests.support.tiny import TINY, run, tiny


def refused(share: Share, folder: Path, overrides: list[str]) -> tuple[str, str | None, bool]:
    """What a rank with overrides of its own is told."""
    own = folder / str(share.rank)
    own.mkdir()
    with pytest.raises(MetriclabError) as caught:
        run(tiny(own, overrides[share.rank]), folder / "run")
    return caught.value.message, caught.value.help, (folder / "run").exists()


def test_another_temperature_is_named_on_every_rank(tmp_path):
    one, other = on_ranks(refused, 2, tmp_path, ["loss.temperature=0.2", "loss.temperature=0.3"])
    assert one == other
    assert one == (
        "the ranks do not run the same: they differ in loss.temperature (0.2 on rank 0, 0.3 on rank 1)",
        "start every rank by one command, with the same packages",
        False,
    )


def test_other_data_are_named_on_every_rank(tmp_path):
    """Equal recipes, and files that differ."""
    for rank in range(2):
        for split in ("train", "test"):
            for label in "ab":
                folder = tmp_path / f"data-{rank}" / split / label
                folder.mkdir(parents=True)
                for number in range(4):
                    _grey(folder / f"{number}.png", 10 * number + ord(label) + 5 * rank * (split == "test"))
    messages = on_ranks(refused_by_data, 2, tmp_path)
    assert messages[0] == messages[1]
    assert messages[0].startswith("the ranks do not run the same: they differ in data.test (")


def _grey(path: Path, value: int) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (value, value, value)).save(path)


def refused_by_data(share: Share, folder: Path) -> str:
    os.environ["XDG_CACHE_HOME"] = str(folder / f"cache-{share.rank}")
    own = folder / f"data-{share.rank}"
    os.chdir(own)
    try:
        recipe = tiny(own, "data.name=folder", "data.root=.", "data.val=0", "sampler.batch_size=4")
        with pytest.raises(RecipeError) as caught:
            run(recipe, folder / "run")
    finally:
        os.chdir("/")
        del os.environ["XDG_CACHE_HOME"]
    return caught.value.message


PLUGIN = """
from metriclab.api import register
from metriclab.losses import NTXent

@register("loss", "test-mine")
def mine() -> object:
    return NTXent(temperature={})
"""


def refused_by_plugin(share: Share, folder: Path) -> str:
    own = folder / str(share.rank)
    own.mkdir()
    (own / "mine.py").write_text(PLUGIN.format(0.1 + share.rank))
    load_plugin_file(own / "mine.py")
    with pytest.raises(RecipeError) as caught:
        require_same_recipe(tiny(own, "loss.name=test-mine"))
    return caught.value.message


def test_another_plugin_of_one_file_is_named_on_every_rank(tmp_path):
    one, other = on_ranks(refused_by_plugin, 2, tmp_path)
    assert one == other
    assert "they differ in plugins.mine.py (" in one


def refused_by_version(share: Share) -> str:
    with pytest.raises(RecipeError) as caught:
        require_same({"versions": {"torch": f"2.{share.rank}", "numpy": "2"}, "plugins": {}}, help="install one")
    return str(caught.value)


def test_another_version_is_named_on_every_rank():
    expected = "differ in versions.torch (2.0 on rank 0, 2.1 on rank 1)\n  help: install one"
    assert [text.partition("they ")[2] for text in on_ranks(refused_by_version, 3)] == [expected] * 3


def fail_on_the_second(share: Share) -> str:
    def act() -> int:
        if share.rank == 1:
            raise RecipeError("no such file", help="look again")
        return share.rank

    with pytest.raises(MetriclabError) as caught:
        distributed.on_every_rank(act)
    return str(caught.value)


def test_a_rank_that_fails_tells_the_others():
    told = "rank 1 failed, so this one stops too: no such file\n  help: look again"
    assert on_ranks(fail_on_the_second, 3) == [told, "no such file\n  help: look again", told]


def fail_to_assemble(share: Share, folder: Path) -> str:
    own = folder / str(share.rank)
    own.mkdir()
    recipe = tiny(own, "head.hidden=16" if share.rank == 0 else "encoder.weights=missing.pth")
    with pytest.raises(MetriclabError) as caught:
        assemble(recipe, load_splits(recipe).train)
    return caught.value.message


def test_a_rank_without_its_weights_does_not_leave_the_others_waiting(tmp_path):
    one, other = on_ranks(fail_to_assemble, 2, tmp_path)
    assert one.startswith(f"rank 1 failed, so this one stops too: {other}")


def test_ranks_without_an_agent_end_together(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "metriclab.cli", "run", "tiny.toml", "--out", "run", *more],
            cwd=tmp_path,
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, more in enumerate([[], ["--set", "loss.temprature=0.3"]])
    ]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 2], errors
    assert "rank 1 failed, so this one stops too: " in errors[0]
    assert "did you mean 'temperature'?" in errors[0]
    assert not (tmp_path / "run").exists()


def test_a_library_of_another_distribution_has_its_version(monkeypatch):
    def version(name: str) -> str:
        if name in ("pillow", "scikit-learn", "matplotlib"):
            raise manifest.metadata.PackageNotFoundError(name)
        return "1"

    import PIL

    monkeypatch.setattr(manifest.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # not installed at all
    versions = manifest.environment()["versions"]
    assert (versions["pillow"], versions["matplotlib"], versions["torch"]) == (PIL.__version__, None, "1")
