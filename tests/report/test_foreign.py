"""Reports on run folders from elsewhere: whatever their recipes say, nothing is fetched and no folder made."""

from __future__ import annotations

import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.report.offline import offline
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


def test_a_data_set_that_is_to_be_downloaded_is_not(whole, tmp_path):
    place = tmp_path / "deep" / "data"
    text = f'name = "torchvision"\ndataset = "MNIST"\ndownload = true\nroot = "{place}"'
    folder = foreign(whole, tmp_path / "run", "data", text)
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
