"""From a signature to a schema: what is refused, what is checked, what is said."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, MinLen
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, jaxtyped
from torch import Tensor, nn

from metriclab.core.protocols import Loss, Memory, Miner
from metriclab.errors import PluginError, RecipeError
from metriclab.registry import REQUIRED, ComponentEntry, OwnKeys, TableOf, build, load_component, register
from metriclab.registry.definition import define
from metriclab.registry.toml import toml_value


def definition_of(component, kind="loss"):
    return define(ComponentEntry(kind, "mine", "some.module:mine", "some-package", "1.2"), component)


def refusal_of(component, kind="loss"):
    with pytest.raises(PluginError) as caught:
        definition_of(component, kind)
    return str(caught.value)


class Example(nn.Module):
    """A loss with
    every kind of parameter.

    More about it.

    Paper: Author et al., A Long
    Title, 2020.

    Args:
        temperature: t, in (0, inf);
            on a second line.
        k, names: lists.
        unset (int): not set.

    Raises:
        Nothing: at all.
    """

    def __init__(
        self,
        *,
        temperature: Annotated[float, Gt(0), Le(1)] = 0.1,
        k: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = [1, 5],
        names: dict[str, float] | None = None,
        mode: Literal["all", "hardest"] = "all",
        unset: int | None = None,
        area: tuple[float, float] = (0.08, 1.0),
        copy: bool = False,
        params: dict[str, object] = {},
        share: Annotated[float, Interval(ge=0, lt=1)] = 0.5,
        root: str,
    ) -> None:
        super().__init__()
        self.parameters_given = (temperature, k, mode, area, root)


def test_parameters_and_documentation():
    definition = definition_of(Example)
    assert definition.summary == "A loss with every kind of parameter."
    assert definition.paper == "Author et al., A Long Title, 2020."
    assert [(p.name, p.type_text) for p in definition.parameters] == [
        ("temperature", "float > 0 and <= 1"),
        ("k", "list[int >= 1] with at least 1 entries"),
        ("names", "dict[str, float]"),
        ("mode", '"all" | "hardest"'),
        ("unset", "int"),
        ("area", "tuple[float, float]"),
        ("copy", "bool"),
        ("params", "dict[str, any plain value]"),
        ("share", "float >= 0 and < 1"),
        ("root", "str"),
    ]
    helps = {p.name: p.help for p in definition.parameters}
    assert helps["temperature"] == "t, in (0, inf); on a second line."
    assert helps["k"] == helps["names"] == "lists."
    assert helps["unset"] == "not set."
    assert helps["root"] == ""
    assert definition.parameters[-1].default is REQUIRED


def test_snippet():
    assert (
        definition_of(Example).snippet()
        == """\
[loss]
name = "mine"
temperature = 0.1
k = [1, 5]
# names = ...  (not set: dict[str, float])
mode = "all"
# unset = ...  (not set: int)
area = [0.08, 1.0]
copy = false
params = {}
share = 0.5
# root = ...  (required: str)
"""
    )


def test_defaults_are_filled_and_values_typed():
    filled, problems = definition_of(Example).check({"root": "x", "temperature": 1, "area": [0.5, 1], "k": [2]})
    assert problems == []
    assert filled == {
        "temperature": 1.0,
        "k": [2],
        "names": None,
        "mode": "all",
        "unset": None,
        "area": (0.5, 1.0),
        "copy": False,
        "params": {},
        "share": 0.5,
        "root": "x",
    }
    assert isinstance(filled["temperature"], float)


def test_a_filled_default_is_not_the_signatures_own_list():
    definition = definition_of(Example)
    definition.check({"root": "x"})[0]["k"].append(7)
    assert definition.check({"root": "x"})[0]["k"] == [1, 5]


USUAL = "leave it out for its default, "


@pytest.mark.parametrize(
    ("values", "message", "help"),
    [
        ({"temperature": 0}, "temperature of loss 'mine' must be float > 0 and <= 1, not 0", USUAL + "0.1"),
        ({"temperature": math.inf}, "temperature of loss 'mine' must be float > 0 and <= 1, not inf", USUAL + "0.1"),
        (
            {"temperature": "0.1"},
            "temperature of loss 'mine' must be float > 0 and <= 1, not \"0.1\"",
            "write it without quotes: temperature = 0.1",
        ),
        ({"temperature": True}, "temperature of loss 'mine' must be float > 0 and <= 1, not true", USUAL + "0.1"),
        ({"unset": True}, "unset of loss 'mine' must be int, not true", "leave it out"),
        ({"unset": 1.0}, "unset of loss 'mine' must be int, not 1.0", "leave it out"),
        ({"copy": 1}, "copy of loss 'mine' must be bool, not 1", USUAL + "false"),
        ({"copy": "true"}, "copy of loss 'mine' must be bool, not \"true\"", "write it without quotes: copy = true"),
        (
            {"k": [1, 0]},
            "k of loss 'mine' must be list[int >= 1] with at least 1 entries, not [1, 0]",
            USUAL + "[1, 5]",
        ),
        ({"k": 1}, "k of loss 'mine' must be list[int >= 1] with at least 1 entries, not 1", USUAL + "[1, 5]"),
        ({"area": [0.1]}, "area of loss 'mine' must be tuple[float, float], not [0.1]", USUAL + "[0.08, 1.0]"),
        (
            {"mode": "hradest"},
            'mode of loss \'mine\' must be "all" | "hardest", not "hradest"',
            "did you mean 'hardest'?",
        ),
        ({"names": {"a": "b"}}, "names of loss 'mine' must be dict[str, float], not { a = \"b\" }", "leave it out"),
        ({"temprature": 0.1}, "loss 'mine' has no parameter 'temprature'", "did you mean 'temperature'?"),
        (
            {"xyz": 0.1},
            "loss 'mine' has no parameter 'xyz'",
            "it has temperature, k, names, mode, unset, area, copy, params, share, root",
        ),
    ],
)
def test_problem_texts(values, message, help):
    _, problems = definition_of(Example).check({"root": "x", **values})
    assert [(p.parameter, p.message, p.help) for p in problems] == [(next(iter(values)), message, help)]


def test_all_problems_at_once():
    _, problems = definition_of(Example).check({"temprature": 1, "k": [], "copy": "yes"})
    assert [problem.parameter for problem in problems] == ["temprature", "k", "copy", "root"]
    assert problems[-1].message == "loss 'mine' needs root (str)"


def test_a_long_value_is_cut():
    _, [problem] = definition_of(Example).check({"root": "x", "copy": "y" * 500})
    assert len(problem.message) < 120


def star_star(*, t: float = 1.0, **others: float) -> None: ...
def star(*numbers: float) -> None: ...
def either_way(t: float = 1.0) -> None: ...
def given_one(x: int, /) -> None: ...
def unannotated(*, t=1.0) -> None: ...
def unresolvable(*, t: Missing = 1.0) -> None: ...
def tensor(*, t: Tensor) -> None: ...
def a_callable(*, t: type[int]) -> None: ...
def bad_default(*, t: Annotated[float, Gt(0)] = 0.0) -> None: ...
def text_default(*, t: int = "1") -> None: ...
def odd_default(*, t: dict[str, object] = {"x": object()}) -> None: ...
def bad_range(*, t: Annotated[bool, Gt("x")] = True) -> None: ...
def asks(*, loss: Loss) -> None: ...


REFUSED = "loss 'mine' of some-package 1.2 (some.module:mine) is refused: "


@pytest.mark.parametrize(
    ("component", "reason", "help"),
    [
        (star_star, "it takes **others", "write each parameter out: they are the keys of a recipe"),
        (star, "it takes *numbers", "write each parameter out: they are the keys of a recipe"),
        (
            either_way,
            "parameter 't' may be given by position and by keyword",
            "put a * before the parameters a recipe sets, and a / after those the run gives",
        ),
        (
            given_one,
            "it has 1 positional-only parameters, where a loss has 0 or 2",
            "its signature is (embedding_dim, classes, /, *, ...) or (*, ...)",
        ),
        (unannotated, "parameter 't' has no annotation", "say which values it takes, as in `k: int`"),
        (
            unresolvable,
            "the annotation of parameter 't' cannot be read: name 'Missing' is not defined",
            "import its names at the top of the module, not under TYPE_CHECKING",
        ),
        (
            tensor,
            "parameter 't' is annotated with <class 'torch.Tensor'>, which no recipe can hold",
            "use int, float, bool, str, Literal, or lists, tuples, dicts and unions of them",
        ),
        (
            a_callable,
            "parameter 't' is annotated with type[int], which no recipe can hold",
            "use int, float, bool, str, Literal, or lists, tuples, dicts and unions of them",
        ),
        (
            bad_default,
            "a default is refused: t of loss 'mine' must be float > 0, not 0.0",
            "change the default or the type",
        ),
        (
            text_default,
            "a default is refused: t of loss 'mine' must be int, not \"1\"",
            "change the default or the type",
        ),
        (asks, "parameter 'loss' asks for a loss", "only a method may ask for other components"),
        (3, "some.module:mine is a int", "a component is a class or a function"),
    ],
)
def test_refused_signatures(component, reason, help):
    assert refusal_of(component) == f"{REFUSED}{reason}\n  help: {help}"


def test_a_default_that_is_no_plain_value_is_refused():
    assert "the default of parameter 't' is not a plain value: TOML has no object" in refusal_of(odd_default)


def test_a_range_that_makes_no_sense_is_refused():
    assert "is refused: its defaults cannot be checked: Unable to apply constraint 'gt'" in refusal_of(bad_range)


def test_a_table_of_another_component_reads_as_such():
    def mine(*, data: Annotated[dict[str, object], TableOf("dataset")], name: str = "x") -> None: ...

    (data, name) = definition_of(mine).parameters
    assert (data.type_text, data.table_of, name.table_of) == ("dataset table", TableOf("dataset"), None)
    assert "data of loss 'mine' must be dataset table, not 3" in str(definition_of(mine).check({"data": 3})[1][0])


@pytest.mark.parametrize("table", [TableOf("datasets"), TableOf("dataset", named_by="nam")])
def test_a_table_of_a_component_that_cannot_be_found_is_refused(table):
    def mine(*, data: Annotated[dict[str, object], table], name: str = "x") -> None: ...

    mine.__annotations__["data"] = Annotated[dict[str, object], table]
    text = refusal_of(mine)
    assert f"parameter 'data' is said to be the table of what is not there: {table!r}" in text
    assert "help: name one of dataset, views," in text


def test_a_table_of_own_keys_is_checked_as_they_are():
    def mine(
        *,
        k: Annotated[int, Ge(1)],
        t: float = 1.0,
        mode: Literal["a", "b"] = "a",
        other: Annotated[dict[str, object], OwnKeys(("t", "mode"))] = {},
    ) -> None: ...

    definition = definition_of(mine)
    assert definition.parameters[3].type_text == "table of t, mode"
    values, problems = definition.check({"k": 2, "other": {"t": 3}})
    assert (values, problems) == ({"k": 2, "t": 1.0, "mode": "a", "other": {"t": 3.0}}, [])
    assert isinstance(values["other"]["t"], float)  # equal recipes are written alike
    found = definition.check({"k": 0, "other": {"t": "3", "mode": "a", "k": 4}})[1]
    assert [(problem.path, problem.message) for problem in found] == [
        (("k",), "k of loss 'mine' must be int >= 1, not 0"),
        (("other", "k"), "other of loss 'mine' has no key 'k'"),
        (("other", "t"), "t of loss 'mine' must be float, not \"3\""),
    ]
    assert definition.check({"other": {"t": 2.0}})[1][0].message == "loss 'mine' needs k (int >= 1)"


@pytest.mark.parametrize("key", ["tt", "other"])
def test_own_keys_that_are_not_there_are_refused(key):
    def mine(*, t: float = 1.0, other: Annotated[dict[str, object], OwnKeys(("t",))] = {}) -> None: ...

    mine.__annotations__["other"] = Annotated[dict[str, object], OwnKeys(("t", key))]
    assert f"parameter 'other' is said to hold the key '{key}', which is not beside it" in refusal_of(mine)


def test_a_class_without_its_own_constructor_is_told_what_to_write():
    class Bare(nn.Module):
        pass

    assert "it takes *args\n  help: write each parameter out" in refusal_of(Bare)


def test_the_given_parameters_are_counted():
    def head(*, hidden: int = 3) -> None: ...

    text = refusal_of(head, "head")
    assert (
        "it has 0 positional-only parameters, where a head has 1\n  help: its signature is (in_features, /, *, ...)"
        in text
    )


class Taking:
    """Takes all three.

    Args:
        weight: of the memory.
    """

    def __init__(
        self, network: nn.Module, /, *, loss: Loss, memory: Memory, miner: Miner | None = None, weight: float = 1.0
    ) -> None:
        self.parts = network, loss, memory, miner, weight


def test_a_methods_protocols_are_components():
    definition = definition_of(Taking, "method")
    assert {name: (c.kind, c.required) for name, c in definition.components.items()} == {
        "loss": ("loss", True),
        "memory": ("memory", True),
        "miner": ("miner", False),
    }
    assert [parameter.name for parameter in definition.parameters] == ["weight"]
    _, [problem] = definition.check({"loss": "nt-xent"})
    assert problem.message == "method 'mine' has no parameter 'loss'"
    assert problem.help == "it takes its loss from the table [loss]"
    assert "# [memory] required: see `metriclab list memory`" in definition.snippet()


def test_a_component_parameter_that_cannot_be_filled_is_refused():
    def optional_without_default(network: object, /, *, miner: Miner | None) -> None: ...
    def default_without_none(network: object, /, *, miner: Miner = None) -> None: ...
    def either(network: object, /, *, x: Miner | Loss) -> None: ...

    for method in (optional_without_default, default_without_none, either):
        assert "in a form that no recipe can fill" in refusal_of(method, "method")


def test_wrapped_by_the_shape_checker():
    @jaxtyped(typechecker=beartype)
    def wrapped(*, t: Annotated[float, Gt(0)] = 0.1) -> Float[Tensor, ""] | None: ...

    class Checked(nn.Module):
        @jaxtyped(typechecker=beartype)
        def __init__(self, *, loss: Annotated[int, Ge(1)] = 2) -> None:
            super().__init__()

    assert definition_of(wrapped).parameters[0].type_text == "float > 0"
    assert definition_of(Checked).parameters[0].type_text == "int >= 1"


def test_a_dataclass_is_a_component():
    @dataclass(kw_only=True)
    class Settings:
        width: Annotated[int, Ge(1)] = 4

    assert definition_of(Settings).check({"width": 0})[1][0].message == "width of loss 'mine' must be int >= 1, not 0"


def test_build_checks_what_a_recipe_would():
    @register("head", "test-head")
    def head(in_features: int, /, *, hidden: Annotated[int, Ge(1)] = 4) -> tuple[int, int]:
        return in_features, hidden

    assert build("head", "test-head", 8) == (8, 4)
    assert build("head", "test-head", 8, hidden=2) == (8, 2)
    with pytest.raises(RecipeError) as caught:
        build("head", "test-head", 8, hiden=2)
    assert str(caught.value) == "head 'test-head' has no parameter 'hiden'\n  help: did you mean 'hidden'?"
    with pytest.raises(RecipeError, match=r"built with 1 positional arguments, not 0\n  help: build\('head', 'test-"):
        build("head", "test-head", hidden=2)


def test_a_loss_takes_all_that_is_given_or_nothing():
    @register("loss", "test-classifier")
    def classifier(width: int, classes: tuple[int, ...], /, *, scale: float = 2.0) -> tuple[object, ...]:
        return width, classes, scale

    assert build("loss", "test-classifier", 8, (3, 5), scale=4) == (8, (3, 5), 4.0)
    with pytest.raises(
        RecipeError, match=r"2 positional arguments, not 0\n  help: build\('loss', 'test-classifier', emb"
    ):
        build("loss", "test-classifier")
    assert build("loss", "nt-xent", 8, (3, 5)).temperature == 0.1  # as a run gives all that there is for its kind
    with pytest.raises(RecipeError, match=r"is built with 0 positional arguments, not 1"):
        build("loss", "nt-xent", 8)


def test_build_hands_components_to_a_method():
    register("method", "test-method")(Taking)
    method = build("method", "test-method", "network", loss=len, memory=sum, weight=2)
    assert method.parts == ("network", len, sum, None, 2.0)
    with pytest.raises(RecipeError, match=r"method 'test-method' needs a memory\n  help: pass memory=build\('memory',"):
        build("method", "test-method", "network", loss=len)


def test_a_method_may_ask_how_long_the_run_is():
    def long(network: object, total_steps: int, /) -> None:
        """Changes over the run."""

    assert definition_of(Taking, "method").given == ("network",)
    assert definition_of(long, "method").given == ("network", "total_steps")


def test_the_schema_of_a_definition_uses_the_keys():
    schema = definition_of(Example).model.model_json_schema()
    assert schema["required"] == ["root"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["temperature"] == {
        "default": 0.1,
        "description": "t, in (0, inf); on a second line.",
        "exclusiveMinimum": 0,
        "maximum": 1,
        "title": "temperature",
        "type": "number",
    }


def test_the_decorator_makes_a_function_loadable():
    def mine(*, t: float = 1.0) -> None: ...

    assert register("loss", "test-mine")(mine).__wrapped__ is mine
    definition = load_component("loss", "test-mine")
    assert definition.factory is mine
    assert (definition.entry.package, definition.entry.version) == (__name__, "code")


plain = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(plain)
def test_values_survive_toml(value):
    assert tomllib.loads(f"value = {toml_value(value)}") == {"value": value}


def test_toml_has_no_null():
    with pytest.raises(TypeError, match="TOML has no NoneType"):
        toml_value([None])
