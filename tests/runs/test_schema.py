"""The version of recipes that a run stores: old ones are upgraded, newer ones are told to be newer."""

from __future__ import annotations

import json

import pytest

from metriclab.assembly.embedder import load
from metriclab.errors import StorageError
from metriclab.recipe.renamed import ADDED, RENAMED, REPLACED, SCHEMA
from metriclab.runs.files import digest_of
from metriclab.runs.folder import RunFolder
from tests.support.tiny import run, tiny


def with_schema(folder: RunFolder, schema: int | None) -> None:
    manifest = folder.manifest()
    manifest.pop("recipe_schema")
    folder.manifest_file.write_text(json.dumps(manifest | ({} if schema is None else {"recipe_schema": schema})))


def test_a_run_stores_it_and_one_of_a_newer_version_is_told(tmp_path):
    recipe = tiny(tmp_path, "train.steps=1")
    run(recipe, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.manifest()["recipe_schema"] == SCHEMA
    with_schema(folder, None)  # of the first versions, with keys of then, and checkpoints of any run
    for file in folder.checkpoints.glob("*.json"):
        body = json.loads(file.read_text())["body"]
        body.pop("run")
        file.write_text(json.dumps({"body": body, "sha256": digest_of(body)}))
    text = folder.recipe_file.read_text()
    folder.recipe_file.write_text(text.replace("embedding_dim = 8", "width = 8"))
    assert folder.recipe().as_dict() == recipe.as_dict()
    load(tmp_path / "run")
    folder.manifest_file.write_text(json.dumps({**folder.manifest(), "recipe_schema": SCHEMA + 1}))
    with pytest.raises(StorageError) as caught:
        load(tmp_path / "run")
    assert str(caught.value) == (
        f"{tmp_path / 'run'} was run by a newer metriclab: its recipe is of version {SCHEMA + 1}, "
        f"of which this one knows {SCHEMA}\n  help: update metriclab"
    )


def test_every_new_name_makes_a_new_version():
    """Where this fails, raise SCHEMA by one, and write both numbers here."""
    names = sum(map(len, RENAMED.values())) + len(REPLACED) + sum(map(len, ADDED.values()))
    assert (SCHEMA, names) == (2, 5)
