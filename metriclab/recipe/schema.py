"""JSON Schema of recipes, by which editors complete and check them as they are typed."""

from __future__ import annotations

from typing import Any

from metriclab.errors import PluginError
from metriclab.recipe.check import DEFAULTS, REQUIRED, TAKEN_BY_METHODS
from metriclab.recipe.losses import LossOptions
from metriclab.recipe.recipe import REQUIRES
from metriclab.recipe.spec import LABEL
from metriclab.recipe.train import Train
from metriclab.registry import KINDS, Definition, Kind, Parameter, entries, load_component
from metriclab.registry.entry import NAME


def schema() -> dict[str, Any]:
    """The schema of a recipe, with the tables of every component that can be named.

    It knows structure, types and ranges. Components whose package is broken are left out.
    """
    definitions = {name: _definitions(name) for name in KINDS}
    tables = {KINDS[name].table: _table(KINDS[name], found) for name, found in definitions.items()}
    whole = {"required": [KINDS[name].table for name in REQUIRED] + ["train"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "metriclab recipe",
        "$defs": {"JsonValue": {"description": "any plain value"}},
        "type": "object",
        "properties": {
            "extends": {"type": "string", "description": "a recipe whose tables stand in for those left out here"},
            REQUIRES: {
                "type": "array",
                "items": {"type": "string"},
                "description": "packages that must be installed, such as metriclab-circle>=0.1",
            },
            **tables,
            "train": _train(),
        },
        "additionalProperties": False,
        "anyOf": [{"required": ["extends"]}, whole],
        "allOf": [_taken_by(name, definition) for name, definition in definitions["method"].items()],
    }


def _definitions(kind: str) -> dict[str, Definition]:
    """By the name that a recipe writes; components with one name are told apart by their packages."""
    found = {}
    for entry in entries(kind):
        for name in (entry.name, f"{entry.package}:{entry.name}"):
            try:
                found[name] = load_component(kind, name)
                break
            except PluginError:  # broken, or a name of two packages
                continue
    return found


def _table(kind: Kind, definitions: dict[str, Definition]) -> dict[str, Any]:
    label = {LABEL: {"type": "string", "pattern": f"^{NAME.pattern}$"}}
    if kind.name == "loss":
        several = _one_of(definitions, {**label, **_fields(LossOptions)["properties"]})
        return {"anyOf": [_one_of(definitions, {}), {"type": "array", "items": several, "minItems": 1}]}
    one = _one_of(definitions, label if kind.labelled else {})
    return {"type": "array", "items": one, "default": DEFAULTS[kind.table]} if kind.many else one


def _one_of(definitions: dict[str, Definition], besides: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [_component(name, definition, besides) for name, definition in definitions.items()]}


def _component(name: str, definition: Definition, besides: dict[str, Any]) -> dict[str, Any]:
    parameters = _fields(definition.model)
    for table in definition.parameters:
        if table.own_keys:
            parameters["properties"][table.name] = _own_keys(table, parameters["properties"])
    parameters["properties"] = {"name": {"const": name}, **besides, **parameters["properties"]}
    parameters["required"] = ["name", *parameters.get("required", [])]
    return {"title": name, "description": definition.summary, **parameters}


def _own_keys(table: Parameter, properties: dict[str, Any]) -> dict[str, Any]:
    """A table of keys that stand beside it, which have the values around it for defaults."""
    without = {
        key: {name: part for name, part in properties[key].items() if name != "default"} for key in table.own_keys
    }
    return {**properties[table.name], "properties": without, "additionalProperties": False}


def _train() -> dict[str, Any]:
    one_length = [{"required": ["steps"]}, {"required": ["epochs"]}]
    return {"description": "The settings of the loop.", **_fields(Train), "oneOf": one_length}


def _fields(model: type[Any]) -> dict[str, Any]:
    fields: dict[str, Any] = model.model_json_schema(by_alias=True)
    fields = {key: value for key, value in fields.items() if key not in ("title", "description", "$defs")}
    fields.setdefault("properties", {})
    for field in fields["properties"].values():
        field.pop("title", None)
        if field.get("default", 0) is None:  # TOML has no null: the key is left out
            del field["default"]
    return fields


def _taken_by(name: str, definition: Definition) -> dict[str, Any]:
    """Which tables of losses, miners and memories a method needs and refuses."""
    taken = {parameter.kind: parameter.required for parameter in definition.components.values()}
    method = {"type": "object", "properties": {"name": {"const": name}}, "required": ["name"]}
    return {
        "if": {"properties": {"method": method}, "required": ["method"], "not": {"required": ["extends"]}},
        "then": {
            "properties": {KINDS[kind].table: False for kind in TAKEN_BY_METHODS if kind not in taken},
            "required": [KINDS[kind].table for kind in TAKEN_BY_METHODS if taken.get(kind)],
        },
    }
