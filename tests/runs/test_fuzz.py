"""Run folders and recipes that anyone may have damaged: commands end with an error that says so, or with a result."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metriclab.cli import main
from metriclab.runs.files import digest, digest_of
from tests.support.tiny import TINY, run, tiny

CODES = {0, 1, 2, 3, 4, 5}
FUZZ = settings(
    max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
FILES = ("recipe.toml", "manifest.json", "metrics.jsonl", "result.json", "scores.safetensors", "checkpoints")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(tiny(folder, "train.steps=2", "train.keep_checkpoints=true"), folder / "run")
    return folder


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fails where the block hangs."""

    def fail(*arguments: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ends_well(*arguments: str) -> None:
    with within(60):
        done = CliRunner().invoke(main, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception, done.exc_info)
    assert done.exit_code in CODES, (arguments, done.exit_code, done.output)
    assert "Traceback" not in done.output


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -1, "", "x", "../../x", "\x1b[31m", "retrieval", "NaN"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The way to every value in a JSON document."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def damage_value(file: Path, data: st.DataObject) -> None:
    """Another value somewhere in a JSON file; hashes that are over it follow, so that they do not save us."""
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    line = data.draw(st.integers(0, len(lines) - 1))
    document = json.loads(lines[line])
    path = data.draw(st.sampled_from(list(places(document))))
    value = data.draw(VALUES)
    if not path:
        document = value
    else:
        at = document
        for key in path[:-1]:
            at = at[key]
        if data.draw(st.booleans()):
            at[path[-1]] = value
        else:
            del at[path[-1]]
    if isinstance(document, dict) and "body" in document:
        document["sha256"] = digest_of(document["body"])
    lines[line] = json.dumps(document, indent=None if file.suffix == ".jsonl" else 2)
    file.write_text("\n".join(lines) + "\n")


def damage_bytes(file: Path, data: st.DataObject) -> None:
    """Bytes that are cut off, turned over, put in or doubled."""
    content = bytearray(file.read_bytes())
    source = random.Random(data.draw(st.integers(0, 10**6)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = source.randrange(len(content) + 1)
        match data.draw(st.sampled_from(["cut", "turn", "insert", "double"])):
            case "cut":
                del content[at:]
            case "turn" if at < len(content):
                content[at] ^= 1 << source.randrange(8)
            case "insert":
                content[at:at] = data.draw(st.sampled_from([b"\xff\xfe", b"\0" * 9, b"[" * 3000, b"{}", b"\n", b'"']))
            case _:
                content += content[at:]
    file.write_bytes(bytes(content))


def damage_kind(file: Path, data: st.DataObject) -> None:
    """Something else where the file was."""
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    match data.draw(st.sampled_from(["pipe", "folder", "file", "dangling", "loop", "device", "nothing"])):
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "file":
            file.write_text("mine")
        case "dangling":
            file.symlink_to(file.with_name("nowhere"))
        case "loop":
            file.symlink_to(file)
        case "device":
            file.symlink_to("/dev/zero")
        case _:
            pass


def damage(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    file = folder / name
    if name == "checkpoints" and data.draw(st.integers(0, 3)):
        file = data.draw(st.sampled_from(sorted(file.iterdir())))
    ways = [damage_kind]
    if file.is_file():
        ways += [damage_bytes, *([damage_value] * 3 if file.suffix in (".json", ".jsonl") else [])]
    data.draw(st.sampled_from(ways))(file, data)
    scores, result = folder / "scores.safetensors", folder / "result.json"
    if file == scores and scores.is_file() and not scores.is_symlink():  # whose hash is forged
        told = json.loads(result.read_text())
        result.write_text(json.dumps({**told, "scores_sha256": digest(scores.read_bytes())}))


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_damaged_run_folders_end_with_words(whole, data):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        shutil.copytree(whole / "run", folder)
        damage(folder, data)
        if unfinished := data.draw(st.booleans()):
            (folder / "result.json").unlink(missing_ok=True) if not (folder / "result.json").is_dir() else None
        before = tree(Path(place))
        ends_well("compare", str(folder), "--format", data.draw(st.sampled_from(["rich", "md", "json"])))
        assert tree(Path(place)) == before
        page = Path(place) / "page.html"
        ends_well("report", str(folder), "-o", str(page), *data.draw(st.sampled_from([[], ["--no-images"]])))
        page.unlink(missing_ok=True)
        assert tree(Path(place)) == before
        given = ["--set", "train.steps=2", "--set", "train.keep_checkpoints=true", "-q"]
        ends_well("run", str(whole / "tiny.toml"), *given, "--out", str(folder), "--resume")
        inside = str(folder) + os.sep
        outside = [path for path in tree(Path(place)) if not path.startswith(inside) and path != str(folder)]
        assert outside == [], unfinished


LINES = [line for line in TINY.splitlines() if line]
WORDS = ["=", "[", "]", '"', "'", "{", "}", "#", ".", "\n", "3", "-1", "1e400", "nan", "true", '"x"', "é", "\0", "\\"]


@pytest.mark.slow
@settings(FUZZ, max_examples=400)
@given(data=st.data())
def test_recipes_of_any_text_are_checked_with_words(data, tmp_path_factory):
    lines = data.draw(st.lists(st.sampled_from(LINES) | st.text(max_size=20), max_size=40))
    text = "\n".join(lines if data.draw(st.booleans()) else LINES)
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(WORDS) | st.text(max_size=5))
            + text[at + data.draw(st.integers(0, 3)) :]
        )
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.write_bytes(text.encode(errors="surrogatepass"))
    ends_well("check", str(recipe))
    assert tree(recipe.parent) == [str(recipe)]
