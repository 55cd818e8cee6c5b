"""`--set table.key=value`."""

from __future__ import annotations

from pathlib import Path

import pytest

from metriclab.recipe import RecipeProblems, read_recipe


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("photos", "photos"),
        ("my photos/2024", "my photos/2024"),
        ("C:\\photos", "C:\\photos"),
        ("~/photos", "~/photos"),
        ("a=b", "a=b"),
        ("2024-05-01", "2024-05-01"),
        ('"2024"', "2024"),
        ("'C:\\photos'", "C:\\photos"),
        ('""', ""),
        (" photos ", "photos"),
        ("photos # new", "photos # new"),
    ],
)
def test_text_needs_no_quotes(text: str, root: str, base: Path) -> None:
    assert read_recipe(base, [f"data.root={text}"]).components["dataset"].params["root"] == root


def test_values_are_toml(base: Path) -> None:
    options = ["head.hidden=0x10", "encoder.pretrained=true", "evaluate.0.k=[1, 2]", "optimizer.groups={head = 0.1}"]
    recipe = read_recipe(base, options)
    assert recipe.components["head"].params["hidden"] == 16
    assert recipe.components["encoder"].params["pretrained"] is True
    assert recipe.components["optimizer"].params["groups"] == {"head": 0.1}
    assert recipe.evaluators[0].params["k"] == [1, 2]


def test_a_name_starts_its_table_anew_whatever_the_order(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "sized.toml"
    path.write_text(base.read_text().replace('root = "dots"', 'root = "dots"\nsize = 8'))
    for options in (["data.name=dots", "data.root=mine"], ["data.root=mine", "data.name=dots"]):
        assert read_recipe(path, options).components["dataset"].params == {"root": "mine", "size": 32}


def test_a_name_starts_an_entry_of_a_list_anew(base: Path) -> None:
    recipe = read_recipe(base, ["evaluate.0.name=spread", "evaluate.1.name=nearest", "evaluate.1.k=[5]"])
    assert [chosen.as_dict() for chosen in recipe.evaluators] == [{"name": "spread"}, {"name": "nearest", "k": [5]}]


def test_an_absent_table_begins_as_its_default(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('[data]\nname = "dots"\nroot = "d"\n[encoder]\nname = "tower"\n[method]\nname = "looking"\n')
    recipe = read_recipe(path, ["train.steps=3", "optimizer.learning_rate=0.5"])
    assert recipe.components["optimizer"].name == "adamw"
    assert recipe.components["optimizer"].params["learning_rate"] == 0.5
    assert recipe.train.steps == 3


def test_a_key_inside_a_parameter(base: Path) -> None:
    recipe = read_recipe(base, ["optimizer.groups.encoder=0.1", "optimizer.groups.head=2", "encoder.params.depth=3"])
    assert recipe.components["optimizer"].params["groups"] == {"encoder": 0.1, "head": 2.0}
    assert recipe.components["encoder"].params["params"] == {"depth": 3}


def test_a_mistake_inside_a_parameter_points_at_the_option(base: Path) -> None:
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(base, ["optimizer.groups.encoder=fast"])
    assert [problem.place.path for problem in caught.value.problems] == ["--set optimizer.groups.encoder=fast"]


def test_options_never_change_the_next_reading(base: Path) -> None:
    before = read_recipe(base)
    read_recipe(base, ["evaluate.0.k=[3]", "loss.temperature=2", "track=[]"])
    assert read_recipe(base) == before


@pytest.mark.parametrize(
    "option",
    [
        "",
        "=",
        "=1",
        "a",
        ".a=1",
        "a.=1",
        "a..b=1",
        "a b=1",
        "a.b=",
        "a.b=\udcff",
        'a.b="c',
        "a.b=[1]\nx = 2",
        "a.b=" + "[" * 40 + "]" * 40,
    ],
)
def test_options_that_cannot_be_read(option: str, base: Path) -> None:
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(base, [option])
    (problem,) = caught.value.problems
    assert problem.place.line is None
    assert problem.help is not None
    str(caught.value).encode()


def test_long_keys_are_refused(base: Path) -> None:
    with pytest.raises(RecipeProblems, match=r"not table\.key=value"):
        read_recipe(base, ["loss." + "a." * 10_000 + "a=1"])


def test_the_caret_stands_below_the_key(base: Path) -> None:
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(base, ["loss.temprature=0.2"])
    head, source, caret = str(caught.value).splitlines()
    assert head == "--set loss.temprature=0.2: loss 'pull' has no parameter 'temprature'"
    assert source[caret.index("^") :] == "temprature=0.2"
