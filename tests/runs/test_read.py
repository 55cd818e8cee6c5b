"""Files of a run folder that anyone may have touched: one kind of error, with the file's name, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from metriclab.assembly.embedder import load
from metriclab.cli import main
from metriclab.errors import RecipeError, StorageError
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.files import digest, digest_of, parse_json, read_json, write_json
from metriclab.runs.folder import RunFolder
from metriclab.runs.shapes import Line, Shape
from metriclab.training.interruption import Interrupted
from tests.support.tiny import outcome, run, tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(tiny(folder, "train.steps=3", "train.evaluate_every=2"), folder / "run")
    return folder / "run"


@pytest.fixture
def finished(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode byte 0xff"),
        (b"[" * 100_000, "it is nested too deep"),
        (b"[" * 80 + b"]" * 80, "it is nested too deep"),
        (b'{"a": NaN}', "NaN is no number in JSON"),
        (b'{"a": 1e999}', "1e999 is no number in JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": 1, "b": 2, "a": 3}', "it has the key 'a' twice"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b"[]", "it is no table of names and values"),
        (b"{}", "step: Field required"),
        (b'{"step": "3"}', "step: Input should be a valid integer"),
        (b'{"step": true}', "step: Input should be a valid integer"),
        (b'{"step": -1}', "step: Input should be greater than or equal to 0"),
    ],
)
def test_what_is_wrong_is_said_with_the_place(content, said):
    with pytest.raises(StorageError) as caught:
        parse_json(content, Line, "runs/a/metrics.jsonl:3")
    assert caught.value.message.startswith("runs/a/metrics.jsonl:3 ")
    assert said in caught.value.message
    assert caught.value.help == "put back what the run wrote, or run it again in another folder"


def test_only_regular_files_of_some_size_are_read(tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(StorageError, match="is not there"):
        read_json(path, Shape)
    os.mkfifo(path)
    with pytest.raises(StorageError, match=r"result.json is no regular file"):
        read_json(path, Shape)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match=r"result.json is no regular file"):
        read_json(path, Shape)
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StorageError, match=r"it has 1,099,511,627,776 bytes, and may have 268,435,456"):
        read_json(path, Shape)


def test_what_is_written_can_be_read_whatever_files_are_called(tmp_path):
    write_json(tmp_path / "manifest.json", {"command": [os.fsdecode(b"r\xff.toml")]})
    assert read_json(tmp_path / "manifest.json", Shape) == {"command": ["r?.toml"]}


def changed(path: Path, *keys: str, to: object) -> None:
    whole = value = json.loads(path.read_text())
    for key in keys[:-1]:
        value = value[key]
    value[keys[-1]] = to
    path.write_text(json.dumps(whole))


def refuse(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments))
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (2, 3, 5), (done.exit_code, done.output)
    return str(done.stderr)


@pytest.mark.parametrize(
    ("keys", "to", "said"),
    [
        (("metrics",), [], "metrics: Input should be a valid dictionary"),
        (("metrics", "retrieval", "map_at_r"), "high", "metrics.retrieval.map_at_r: Input should be a valid number"),
        (("metrics", "retrieval"), 3, "metrics.retrieval: Input should be a valid dictionary"),
        (("definitions", "retrieval"), None, "definitions.retrieval: Input should be a valid dictionary"),
        (("fingerprint", "evaluate"), [1], "fingerprint.evaluate: Input should be a valid dictionary"),
        (("cost", "parameters"), "many", "cost.parameters: Input should be a valid number"),
        (("steps",), 1.5, "steps: Input should be a valid integer"),
        (("images_seen",), "8", "images_seen: Input should be a valid integer"),
        (("items",), ["a"], "items: Input should be a valid dictionary"),
        (("output",), "q", "output: Input should be 'h' or 'z'"),
        (("warnings",), [1], "warnings.0: Input should be a valid string"),
        (("baselines",), {"pca": 1}, "baselines.pca: Input should be a valid dictionary"),
    ],
)
def test_a_result_of_another_shape_is_refused_by_its_key(keys, to, said, finished, tmp_path):
    changed(finished / "result.json", *keys, to=to)
    for command in (["compare", str(finished)], ["report", str(finished), "-o", str(tmp_path / "page.html")]):
        assert f"{finished / 'result.json'} does not hold what a run writes there: {said}" in refuse(*command)


def write_list(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def write_no_utf8(folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n')


def forge_scores(folder: Path) -> None:
    (folder / "scores.safetensors").write_bytes(b"not tensors")
    changed(folder / "result.json", "scores_sha256", to=digest(b"not tensors"))


def forge_fewer_scores(folder: Path) -> None:
    content = safetensors.torch.save({"labels": torch.zeros(3, dtype=torch.int64), "items": torch.zeros(2)})
    (folder / "scores.safetensors").write_bytes(content)
    changed(folder / "result.json", "scores_sha256", to=digest(content))


def make_fifo(name: str):
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (write_list, "manifest.json does not hold what a run writes there: it is no table of names and values"),
        (write_no_utf8, "metrics.jsonl:2 cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (forge_scores, "scores.safetensors holds no tensors: "),
        (forge_fewer_scores, "scores.safetensors does not hold labels, items, and scores of as many queries"),
        (make_fifo("scores.safetensors"), "scores.safetensors is no regular file"),
        (make_fifo("metrics.jsonl"), "metrics.jsonl is no regular file"),
        (make_fifo("result.json"), "result.json is no regular file"),
        (make_fifo("manifest.json"), "manifest.json is no regular file"),
    ],
)
def test_what_a_report_reads_is_refused_by_its_file(damage, said, finished, tmp_path):
    damage(finished)
    assert said in refuse("report", str(finished), "--no-images", "-o", str(tmp_path / "page.html"))


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run that was stopped after five steps."""
    asked = iter([False] * 4 + [True] * 9)
    with pytest.raises(Interrupted):
        run(tiny(tmp_path), tmp_path / "run", stop=lambda: next(asked))
    return tmp_path / "run"


def test_checkpoints_that_are_a_file_are_refused(stopped, tmp_path):
    shutil.rmtree(stopped / "checkpoints")
    (stopped / "checkpoints").write_text("mine")
    with pytest.raises(StorageError, match=r"checkpoints cannot be read: Not a directory"):
        run(tiny(tmp_path), stopped, resume=True)
    assert (stopped / "checkpoints").read_text() == "mine"


def forge(folder: Path, step: int, **numbers: object) -> None:
    """Changes numbers of a checkpoint, and its hash with them."""
    path = folder / "checkpoints" / f"step-{step:010d}.json"
    body = json.loads(path.read_text())["body"]
    body["numbers"] |= numbers
    path.write_text(json.dumps({"body": body, "sha256": digest_of(body)}))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"best_step": "4"}, "body.numbers.best_step: Input should be a valid integer"),
        ({"seconds": None}, "body.numbers.seconds: Input should be a valid number"),
        ({"optimizer": {"optimizer.9999.step": 1}}, "does not fit this recipe's optimizer: list index out of range"),
        ({"optimizer": {"x": 1}}, "does not fit this recipe's optimizer"),
    ],
)
def test_a_checkpoint_with_a_forged_hash_is_one_error(numbers, said, stopped, tmp_path):
    for step in checkpoints.checkpoint_steps(stopped / "checkpoints"):
        forge(stopped, step, **numbers)
    with pytest.raises(StorageError) as caught:
        run(tiny(tmp_path), stopped, resume=True)
    assert said in caught.value.message


def test_a_checkpoint_of_another_run_is_refused_by_its_name_and_left_there(stopped, tmp_path):
    other = tmp_path / "other"
    run(tiny(tmp_path, "loss.temperature=0.3", "train.keep_checkpoints=true"), other)
    for file in (other / "checkpoints").glob("step-0000000007.*"):
        shutil.copy(file, stopped / "checkpoints")
    foreign = stopped / "checkpoints" / "step-0000000007"
    for use in (lambda: run(tiny(tmp_path), stopped, resume=True), lambda: load(stopped)):
        with pytest.raises(StorageError) as caught:
            use()
        assert caught.value.message == f"checkpoint {foreign} is of another run: it has not the recipe of {stopped}"
        assert caught.value.help == "move it back to the run that wrote it; without it this one goes on from its own"
    for file in (stopped / "checkpoints").glob("step-0000000007.*"):
        file.unlink()
    run(tiny(tmp_path), stopped, resume=True)
    assert RunFolder(stopped).result()["steps"] == 7


def test_a_checkpoint_from_before_it_knew_its_run_is_resumed(stopped, tmp_path):
    for path in (stopped / "checkpoints").glob("*.json"):
        body = json.loads(path.read_text())["body"]
        assert set(body.pop("run")) == {"recipe", "data"}
        path.write_text(json.dumps({"body": body, "sha256": digest_of(body)}))
    run(tiny(tmp_path), stopped, resume=True)
    run(tiny(tmp_path), tmp_path / "whole")
    assert outcome(stopped)["metrics"] == outcome(tmp_path / "whole")["metrics"]


def test_where_data_lie_and_how_is_logged_may_be_changed_by_hand(stopped, tmp_path):
    recipe = stopped / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "jsonl"', 'name = "console"').replace("threads", "# threads"))
    assert checkpoints.read_newest_checkpoint(stopped / "checkpoints")[0].step == 5


def test_a_finished_run_keeps_the_weights_of_its_best_step_alone(whole, tmp_path):
    run(tiny(tmp_path, "train.steps=3", "train.evaluate_every=2", "train.keep_checkpoints=true"), tmp_path / "kept")
    (tensors,) = (whole / "checkpoints").glob("*.safetensors")
    assert [path.name for path in (whole / "checkpoints").glob("*.json")] == ["step-0000000003.json"]
    state = safetensors.torch.load_file(tensors)
    assert {name.partition(".")[0] for name in state} == {"method"}
    kept = safetensors.torch.load_file(tmp_path / "kept" / "checkpoints" / tensors.name)
    assert {name.partition(".")[0] for name in kept} == {"method", "optimizer"}
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())
    assert len(list((tmp_path / "kept" / "checkpoints").glob("*.json"))) == 2
    with pytest.raises(StorageError, match=r"checkpoints has no checkpoint of step 2\n.*train.keep_checkpoints = true"):
        load(whole, step=2)
    ours, theirs = load(whole).state_dict(), load(tmp_path / "kept").state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_weights_alone_are_not_trained_on(finished, tmp_path):
    (finished / "result.json").unlink()
    with pytest.raises(StorageError, match=r"has kept the weights alone, as a run does at its end"):
        run(tiny(tmp_path, "train.steps=3", "train.evaluate_every=2"), finished, resume=True)


@pytest.mark.parametrize("killed", ["before the tensors", "before anything was removed"])
def test_a_kill_while_the_rest_is_left_away_loses_nothing(killed, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run(tiny(tmp_path, "train.steps=3", "train.keep_checkpoints=true"), folder)
    expected = load(folder).state_dict()

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write_atomic" if killed == "before the tensors" else "_remove", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.keep_weights(folder / "checkpoints", 3)
    monkeypatch.undo()
    after_the_kill = load(folder).state_dict()
    checkpoints.keep_weights(folder / "checkpoints", 3)
    for state in (after_the_kill, load(folder).state_dict()):
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_what_a_run_hands_on_names_no_folder_of_this_machine(whole):
    here = str(whole.parent).encode()
    for path in (*whole.rglob("*.json"), *whole.rglob("*.safetensors"), whole / "metrics.jsonl"):
        assert here not in path.read_bytes(), path


def test_the_stored_recipe_says_when_it_has_no_seed(finished, tmp_path):
    recipe = finished / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("seed = 0", 'seed = "x"'))
    assert f"{recipe} has no seed in [train]" in refuse("compare", str(finished))
    recipe.write_text("data = 3\n")
    with pytest.raises((StorageError, RecipeError)):
        load(finished)
