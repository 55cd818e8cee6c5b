"""The schema accepts good recipes and refuses bad ones, by a small validator of the words that it uses."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from metriclab.recipe import Train, read_recipe
from metriclab.recipe.schema import schema

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
HANDLED = {
    "$schema", "$defs", "$ref",
    "title", "description", "default", "type", "const", "enum", "properties", "required", "items", "oneOf",
    "anyOf", "allOf", "not", "if", "then", "additionalProperties", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems", "maxItems", "minLength", "prefixItems", "multipleOf",
}  # fmt: skip


def fits(value: Any, rule: Any) -> bool:
    if isinstance(rule, bool):
        return rule
    assert set(rule) <= HANDLED, set(rule) - HANDLED
    assert rule.get("$ref", "#/$defs/JsonValue") == "#/$defs/JsonValue"  # any value
    of_type = "type" not in rule or (
        rule["type"] != "null"
        and isinstance(value, TYPES[rule["type"]])
        and (rule["type"] == "boolean" or not isinstance(value, bool))
    )
    return (
        of_type
        and value == rule.get("const", value)
        and value in rule.get("enum", [value])
        and all(fits(value, part) for part in rule.get("allOf", []))
        and ("anyOf" not in rule or any(fits(value, part) for part in rule["anyOf"]))
        and ("oneOf" not in rule or sum(fits(value, part) for part in rule["oneOf"]) == 1)
        and not ("not" in rule and fits(value, rule["not"]))
        and not ("if" in rule and fits(value, rule["if"]) and not fits(value, rule["then"]))
        and (not isinstance(value, dict) or fits_table(value, rule))
        and (not isinstance(value, list) or all(fits(part, rule.get("items", True)) for part in value))
        and (isinstance(value, str | bool | dict | list) or fits_range(value, rule))
    )


def fits_table(value: dict[str, Any], rule: dict[str, Any]) -> bool:
    known = rule.get("properties", {})
    return set(rule.get("required", [])) <= set(value) and all(
        fits(part, known.get(key, rule.get("additionalProperties", True))) for key, part in value.items()
    )


def fits_range(value: float, rule: dict[str, Any]) -> bool:
    return (
        value >= rule.get("minimum", value)
        and value <= rule.get("maximum", value)
        and not ("exclusiveMinimum" in rule and value <= rule["exclusiveMinimum"])
        and not ("exclusiveMaximum" in rule and value >= rule["exclusiveMaximum"])
    )


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    return schema()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["head.hidden=4", "evaluate.1.name=spread", "optimizer.groups.head=0.5", "encoder.params.depth=[1, 2]"],
        ["method.name=recalling", "memory.name=ring", "memory.size=3", "miner.name=sieve"],
        ['requires=["packaging>=1"]'],
        ["views.name=pair", "views.second.blur=0.1", "views.second.colours=[0.1, 0.2]"],
    ],
)
def test_good_recipes_fit(options: list[str], rules: dict[str, Any], base: Path) -> None:
    assert fits(tomllib.loads(read_recipe(base, options).to_toml()), rules)


def test_a_recipe_that_extends_another_may_leave_tables_out(rules: dict[str, Any]) -> None:
    assert fits({"extends": "base.toml", "head": {"name": "twig"}, "method": {"name": "pairwise"}}, rules)


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("head", {"name": "twig", "hiden": 512}),
        ("head", {"name": "no-such-head"}),
        ("head", {"hidden": 3}),
        ("head", [{"name": "twig"}]),
        ("loss", {"name": "pull", "temperature": 0}),
        ("loss", {"name": "pull", "temperature": "0.1"}),
        ("encoder", {"name": "tower", "pretrained": 1}),
        ("encoder", {"name": "tower", "pool": "meen"}),
        ("evaluate", {"name": "nearest"}),
        ("evaluate", [{"name": "nearest", "k": [0]}]),
        ("memory", {"name": "hoop", "size": 3}),
        ("method", {"name": "recalling"}),
        ("method", {"name": "looking"}),
        ("train", {"steps": 1, "epochs": 1}),
        ("train", {"seed": 1}),
        ("train", {"steps": 1, "accumulate": 2}),
        ("optimiser", {"name": "walk"}),
        ("requires", "metriclab-circle"),
        ("requires", [3]),
        ("views", {"name": "pair", "second": 0.1}),
        ("views", {"name": "pair", "second": {"size": 4}}),
        ("views", {"name": "pair", "second": {"blur": 1.5}}),
    ],
)
def test_mistakes_do_not_fit(table: str, value: Any, rules: dict[str, Any], base: Path) -> None:
    recipe = tomllib.loads(base.read_text())
    assert fits(recipe, rules)
    assert not fits({**recipe, table: value}, rules)


@pytest.mark.parametrize("table", ["data", "encoder", "method", "train"])
def test_needed_tables(table: str, rules: dict[str, Any], base: Path) -> None:
    recipe = tomllib.loads(base.read_text())
    del recipe[table]
    assert not fits(recipe, rules)


def test_every_setting_is_described(rules: dict[str, Any]) -> None:
    described = {key for key, value in rules["properties"]["train"]["properties"].items() if value.get("description")}
    assert described == set(Train.model_fields)
