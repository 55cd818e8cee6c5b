"""Reports on run folders from elsewhere: whatever their recipes say, nothing is fetched and no folder made."""

from __future__ import annotations

import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.images.cache_files import alone, cache_folder, save_arrays, without_caching
from metriclab.report.offline import offline
from tests.support.pictures import classes
from tests.support.tiny import run, tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(tiny(folder, "train.steps=0"), folder / "run")
    return folder / "run"


def foreign(whole: Path, folder: Path, table: str, text: str) -> Path:
    shutil.copytree(whole, folder)
    recipe = folder / "recipe.toml"
    before, _, after = recipe.read_text().partition(f"[{table}]")
    recipe.write_text(f"{before}[{table}]\n{text}\n\n[" + after.partition("\n[")[2])
    return folder


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    "text",
    [
        'name = "torchvision"\ndataset = "MNIST"\ndownload = true\nroot = "{place}"',
        'name = "class-folds"\ndata = {{ name = "torchvision", dataset = "MNIST", download = true, root = "{place}" }}',
    ],
)
def test_a_data_set_that_is_to_be_downloaded_is_not(text, whole, tmp_path):
    place = tmp_path / "deep" / "data"
    folder = foreign(whole, tmp_path / "run", "data", text.format(place=place))
    before = tree(tmp_path)
    done = CliRunner().invoke(main, ["report", str(folder), "-o", str(tmp_path / "page.html")])
    assert done.exit_code == 3, done.output
    assert f"the data of {folder} cannot be read: {place}: torchvision's MNIST is missing or damaged" in done.stderr
    assert "--no-images" in done.stderr
    assert tree(tmp_path) == before


def test_pretrained_weights_are_not_fetched(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    text = 'name = "timm"\nmodel = "resnet18.a1_in1k"\npretrained = true'
    folder = foreign(whole, tmp_path / "run", "encoder", text)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    done = CliRunner().invoke(main, ["report", str(folder), "-o", str(tmp_path / "page.html")])
    assert done.exit_code == 3, done.output
    assert "cannot fetch the pretrained weights of 'resnet18.a1_in1k'" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_no_connection_is_opened_within_and_again_after():
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with offline():
        for address in (f"http://127.0.0.1:{port}", "http://example.invalid"):
            with pytest.raises(urllib.error.URLError, match="a report opens no connection"):
                urllib.request.urlopen(address)
    socket.create_connection(("127.0.0.1", port)).close()
    server.close()


def test_a_report_decodes_what_the_cache_lacks_and_keeps_none_of_it(cache, tmp_path, monkeypatch):
    """Neither decoded images nor a lock, an index or a folder; what is damaged in the cache stays as it is."""
    pictures = classes(tmp_path / "pictures", red=4, blue=4)
    given = ("data.name=folder", f"data.root='{pictures}'", "data.val=0.0", "data.test=0.5", "train.steps=0")
    run(tiny(tmp_path, *given), tmp_path / "run")
    pages = []
    for change in ("none", "damaged", "gone"):
        if change == "damaged":
            for file in cache.rglob("pixels/*/*"):
                file.write_bytes(file.read_bytes()[:-1] + b"?")
        elif change == "gone":
            shutil.rmtree(cache)
        before = {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in tree(tmp_path)}
        done = CliRunner().invoke(main, ["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")])
        assert done.exit_code == 0, done.output
        pages.append((tmp_path / "page.html").read_bytes())
        (tmp_path / "page.html").unlink()
        assert {
            path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in tree(tmp_path)
        } == before
    assert pages[1:] == pages[:1] * 2
    assert b"data:image" in pages[0]
    assert b"not trained" in pages[0]
    assert b">trained" not in pages[0]


def test_whatever_else_would_be_cached_is_not_kept_either(cache):
    with without_caching():
        save_arrays(cache_folder("glyphs") / "x.npz", {"x": np.zeros(2)})
        with alone(cache_folder("glyphs") / "x.lock", waiting=None) as mine:
            assert mine
    assert not cache.exists()
    save_arrays(cache_folder("glyphs") / "x.npz", {"x": np.zeros(2)})
    assert cache.exists()
