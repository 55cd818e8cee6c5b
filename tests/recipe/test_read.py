"""What a good recipe gives, and files that are no recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.errors import PluginError, RecipeError
from metriclab.recipe import Recipe, RecipeProblems, read_recipe
from metriclab.recipe.document import LIMIT
from metriclab.registry import load_plugin_file
from metriclab.registry.toml import toml_value
from metriclab.runs.files import digest_of

BASE = Path(__file__).parent / "golden" / "base" / "pairwise.toml"


def test_defaults_are_filled_in(base: Path) -> None:
    recipe = read_recipe(base)
    assert recipe.path == base
    assert recipe.components["loss"].params == {"temperature": 0.1}
    assert recipe.components["encoder"].params["params"] is None
    assert "miner" not in recipe.components
    assert recipe.train.log_every == 10
    assert recipe.as_dict()["evaluate"] == [{"name": "nearest", "k": [1, 10]}]


def test_absent_tables_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(
        '[data]\nname = "synthetic"\n[encoder]\nname = "pixels"\n[method]\nname = "none"\n[train]\nsteps = 0\n'
    )
    recipe = read_recipe(path)
    names = {kind: chosen.name for kind, chosen in recipe.components.items()}
    assert names == {
        "dataset": "synthetic",
        "views": "plain",
        "sampler": "shuffled",
        "encoder": "pixels",
        "head": "none",
        "method": "none",
        "optimizer": "adamw",
        "schedule": "constant",
    }
    assert [evaluator.name for evaluator in recipe.evaluators] == ["retrieval"]
    assert [tracker.name for tracker in recipe.trackers] == ["console", "jsonl"]
    assert rewritten(recipe, tmp_path) == recipe


def test_a_whole_number_is_a_float(base: Path) -> None:
    temperature = read_recipe(base, ["loss.temperature=1"]).components["loss"].params["temperature"]
    assert isinstance(temperature, float)


def test_a_table_of_own_keys_is_part_of_the_recipe(base: Path, tmp_path: Path) -> None:
    options = ["views.name=pair", "views.second.blur=1", "views.second.colours=[0, 1.5]"]
    recipe = read_recipe(base, options)
    params = recipe.components["views"].params
    assert params == {"size": 8, "blur": 0.5, "colours": 1.0, "second": {"blur": 1.0, "colours": (0.0, 1.5)}}
    assert isinstance(params["second"]["blur"], float)
    again = rewritten(recipe, tmp_path)
    assert again == recipe
    assert again.to_toml() == recipe.to_toml()
    assert recipe != read_recipe(base, ["views.name=pair"])
    assert digest_of(recipe.as_dict()) != digest_of(read_recipe(base, options[:2]).as_dict())


def test_optional_components(base: Path) -> None:
    recipe = read_recipe(base, ["method.name=recalling", "memory.name=ring", "memory.size=4", "miner.name=sieve"])
    assert {"loss", "memory", "miner"} <= set(recipe.components)
    assert "miner" not in read_recipe(base, ["method.name=recalling", "memory.name=ring", "memory.size=4"]).components


def rewritten(recipe: Recipe, folder: Path) -> Recipe:
    path = folder / "rewritten.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    return read_recipe(path)


TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda values: st.lists(values, max_size=2) | st.dictionaries(TEXT, values, max_size=2),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None)
@given(
    root=TEXT,
    temperature=st.floats(1e-300, 1e300),
    params=st.dictionaries(TEXT, PLAIN, max_size=3),
    groups=st.none() | st.dictionaries(st.sampled_from(["encoder", "head"]), st.floats(0, 2)),
    evaluators=st.permutations(["nearest", "spread"]),
    steps=st.integers(0, 9),
)
def test_reading_what_to_toml_writes_gives_an_equal_recipe(
    root: str,
    temperature: float,
    params: dict[str, object],
    groups: dict[str, float] | None,
    evaluators: list[str],
    steps: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    options = [f"data.root={toml_value(root)}", f"loss.temperature={temperature}", f"train.steps={steps}"]
    options += [f"encoder.params={toml_value(params)}"]
    options += [] if groups is None else [f"optimizer.groups={toml_value(groups)}"]
    options += [f"evaluate={toml_value([{'name': name} for name in evaluators])}"]
    recipe = read_recipe(BASE, options)
    assert recipe.components["dataset"].params["root"] == root
    again = rewritten(recipe, tmp_path_factory.getbasetemp())
    assert again == recipe
    assert again.as_dict() == recipe.as_dict()
    assert again.to_toml() == recipe.to_toml()


def test_no_evaluator_and_no_tracker(base: Path, tmp_path: Path) -> None:
    recipe = read_recipe(base, ["evaluate=[]", "track=[]"])
    assert recipe.evaluators == recipe.trackers == []
    assert rewritten(recipe, tmp_path) == recipe


def test_tables_replace_those_of_the_extended_recipe_whole(base: Path, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        base.read_text().replace('name = "twig"', 'name = "twig"\nhidden = 7\ndropout = 0.5')
    )
    child = tmp_path / "child.toml"
    child.write_text('extends = "base.toml"\n[head]\nname = "twig"\nhidden = 9\n')
    recipe = read_recipe(child)
    assert recipe.components["head"].params == {"hidden": 9, "dropout": 0.0}
    assert recipe.components["loss"].name == "pull"
    assert "extends" not in recipe.to_toml()
    assert rewritten(recipe, tmp_path) == recipe


def test_windows_line_ends_and_a_byte_order_mark(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + base.read_bytes().replace(b"\n", b"\r\n"))
    assert read_recipe(path) == read_recipe(base)
    path.write_bytes(path.read_bytes().replace(b'"pull"', b'"pul"'))
    assert ":18:8: there is no loss 'pul'" in problems(path)


def problems(path: Path) -> str:
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(path)
    assert isinstance(caught.value, RecipeError)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_no_file(tmp_path: Path, base: Path) -> None:
    (tmp_path / "simclr.toml").write_text(base.read_text())
    path = tmp_path / "simcrl.toml"
    assert problems(path) == f"{path}: no such file\n  help: did you mean '{tmp_path / 'simclr.toml'}'?"
    path = tmp_path / "recipes" / "simclr.toml"
    assert problems(path) == f"{path}: no such file\n  help: the folder {path.parent} does not exist"


def test_a_folder(tmp_path: Path) -> None:
    assert problems(tmp_path) == f"{tmp_path}: this is a folder\n  help: name the recipe file in it"


def test_not_a_regular_file() -> None:
    assert problems(Path("/dev/zero")) == "/dev/zero: this is not a regular file"


def test_a_path_that_no_system_has() -> None:
    assert "cannot be read" in problems(Path("a\0b")) or "no such file" in problems(Path("a\0b"))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[data]\nname = "d\xe9partement"\n')
    assert problems(path) == f"{path}: line 2 is not UTF-8 (byte 0xe9)\n  help: save the file as UTF-8"


def test_a_large_file_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    with path.open("wb") as file:
        file.truncate(10_000_000)
    message = f"{path}: the file has 10,000,000 bytes; a recipe has at most {LIMIT:,}"
    assert problems(path) == f"{message}\n  help: is it a recipe?"


@pytest.mark.parametrize("text", ["a = " + "[" * 50 + "]" * 50, "a" + ".a" * 50 + " = 1", "a = " + "[" * 100_000])
def test_deep_nesting(text: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(text)
    assert "nested more than 32 deep" in problems(path)


def test_a_number_too_long_for_python(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(f"[data]\nsize = {'9' * 5000}\n")
    assert problems(path) == f"{path}: a number in it is too long"


def test_thousands_of_problems_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.toml"
    path.write_text("".join(f"key{index} = 1\n" for index in range(1000)))
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(path)
    assert len(caught.value.problems) > 1000
    assert "problems more" in str(caught.value).splitlines()[-1]


def test_a_broken_plugin_that_is_named_is_not_the_recipe_s_fault(base: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "twins.py"
    plugin.write_text(
        "from metriclab.registry import register\n\n\n@register('loss', 'twin')\ndef twin(*, a: int = 1): ...\n"
    )
    load_plugin_file(plugin)
    other = tmp_path / "others.py"
    other.write_text(plugin.read_text())
    load_plugin_file(other)
    assert read_recipe(base).components["loss"].name == "pull"
    with pytest.raises(PluginError, match="ambiguous"):
        read_recipe(base, ["loss.name=twin", "head.hidden=0"])
    assert read_recipe(base, ["loss.name=twins.py:twin"]).components["loss"].name == "twins.py:twin"


@pytest.mark.parametrize(
    "text", ["os.system", "builtins:eval", "!!python/object", "${HOME}", "file:///etc/passwd", "_target_"]
)
def test_names_never_import_or_expand(text: str, base: Path) -> None:
    with pytest.raises(RecipeProblems, match="encoder"):
        read_recipe(base, [f"encoder.name={text}"])
    assert read_recipe(base, [f"data.root={text}"]).components["dataset"].params["root"] == text
