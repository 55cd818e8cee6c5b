"""In tests, annotations of metriclab are executed, with shapes and without (tests/support/type_checks.py)."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation
from jaxtyping import TypeCheckError

from metriclab.core.pairs import pairs_of
from metriclab.core.rows import Keys, rows
from metriclab.ranking.workers import side_by_side
from metriclab.registry.entry import ComponentEntry, installed, is_builtin, normalized
from metriclab.testing.cases import shuffle


def test_wrong_arguments_are_refused_by_functions_generators_and_dataclasses():
    entry = installed()[0]
    fields = {name: getattr(entry, name) for name in inspect.signature(ComponentEntry).parameters}
    with pytest.raises(BeartypeCallHintParamViolation, match="is_builtin"):
        is_builtin("ring")
    with pytest.raises(TypeCheckError, match="side_by_side"):
        side_by_side(abs, [1], "two")
    with pytest.raises(BeartypeCallHintParamViolation, match="kind"):
        ComponentEntry(**fields | {"kind": 3})


def test_a_wrong_value_returned_is_refused(monkeypatch):
    monkeypatch.setattr("metriclab.registry.entry.re", SimpleNamespace(sub=lambda *_: SimpleNamespace(lower=int)))
    with pytest.raises(BeartypeCallHintReturnViolation, match="normalized"):
        normalized("My_Plugin")


def test_names_in_shapes_agree_within_a_call():
    keys = rows(torch.eye(3), torch.tensor([0, 1, 2])).keys
    with pytest.raises(BeartypeCallHintParamViolation, match="similarity"):
        pairs_of(torch.eye(3).long(), keys, keys, 3)
    with pytest.raises(BeartypeCallHintParamViolation, match="items"):
        Keys(torch.arange(3), torch.arange(2), torch.arange(3), torch.arange(3))
    assert len(keys[:2]) == 2  # another call, another n


def test_shapes_in_terms_of_an_argument_hold(monkeypatch):
    assert len(shuffle(3)) == 3
    one_too_many = SimpleNamespace(randperm=lambda n, **_: torch.arange(n + 1), Generator=torch.Generator)
    monkeypatch.setattr("metriclab.testing.cases.torch", one_too_many)
    with pytest.raises(TypeCheckError, match="shuffle"):
        shuffle(3)


def test_a_checked_function_looks_as_it_was_written():
    assert str(inspect.signature(is_builtin)) == "(entry: 'ComponentEntry') -> 'bool'"
    assert is_builtin.__module__ == "metriclab.registry.entry"
    assert "is_builtin" in inspect.getsource(is_builtin)
