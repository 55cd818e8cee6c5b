"""Names, entry points, and signatures as schemas. Importing this, and listing what there is, imports no torch."""

from __future__ import annotations

from metriclab.registry.decorator import load_plugin_file, register
from metriclab.registry.definition import Definition
from metriclab.registry.entry import ComponentEntry
from metriclab.registry.kinds import KINDS, Kind
from metriclab.registry.marks import CheckedBy, OwnKeys, RunStep, TableOf, TrueWith
from metriclab.registry.params import (
    REQUIRED,
    ComponentParameter,
    Parameter,
    ParameterProblem,
    suggest,
)
from metriclab.registry.registry import UnknownName, build, entries, load_component

__all__ = [
    "KINDS",
    "REQUIRED",
    "CheckedBy",
    "ComponentEntry",
    "ComponentParameter",
    "Definition",
    "Kind",
    "OwnKeys",
    "Parameter",
    "ParameterProblem",
    "RunStep",
    "TableOf",
    "TrueWith",
    "UnknownName",
    "build",
    "entries",
    "load_component",
    "load_plugin_file",
    "register",
    "suggest",
]
