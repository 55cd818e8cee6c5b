"""Settings are checked where code gives them, in the words in which a recipe is told."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt
from beartype import beartype
from jaxtyping import jaxtyped
from torch import nn

from metriclab.core.protocols import Loss
from metriclab.errors import RecipeError
from metriclab.losses import NTXent
from metriclab.registry import build, entries, load, register
from metriclab.registry.entry import is_builtin


class Plain(nn.Module):
    """A loss."""

    def __init__(self, *, t: Annotated[float, Gt(0)], mode: Literal["all", "hardest"] = "all") -> None:
        super().__init__()
        self.t, self.mode = t, mode


def function(*, t: Annotated[float, Gt(0)], mode: Literal["all", "hardest"] = "all") -> tuple[float, str]:
    """A loss."""
    return t, mode


@dataclass(kw_only=True)
class Settings:
    """A loss."""

    t: Annotated[float, Gt(0)]
    mode: Literal["all", "hardest"] = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """A loss."""

    t: Annotated[float, Gt(0)]
    mode: Literal["all", "hardest"] = "all"


KINDS = [Plain, function, Settings, Frozen]


@pytest.fixture(params=KINDS, ids=lambda component: component.__name__)
def component(request):
    """Registered, and as it was afterwards."""
    original = vars(request.param).get("__init__")
    yield register("loss", "test-checked")(request.param)
    if original is not None:
        request.param.__init__ = original


def test_a_value_out_of_range_is_told_as_in_a_recipe(component):
    for values in ({"t": -1}, {"t": 1.0, "mode": "hardst"}, {"t": "0.1"}):
        with pytest.raises(ValueError, match="of loss 'test-checked' must be") as caught:
            component(**values)
        with pytest.raises(RecipeError) as of_recipe:
            build("loss", "test-checked", **values)
        assert str(caught.value) == str(of_recipe.value)
    with pytest.raises(ValueError, match="t of loss 'test-checked' must be float > 0, not -1"):
        component(t=-1)
    with pytest.raises(ValueError, match="help: did you mean 'hardest'"):
        component(t=1.0, mode="hardst")


def test_all_that_is_wrong_is_told_at_once(component):
    with pytest.raises(ValueError, match=r"t of loss .* must be .*\nmode of loss .* must be"):
        component(t=0, mode="none")


def test_what_fits_is_held_as_a_recipe_would_hold_it(component):
    made = component(t=2)
    held = made if isinstance(made, tuple) else (made.t, made.mode)
    assert held == (2.0, "all")
    assert isinstance(held[0], float)


def test_a_call_that_does_not_fit_the_signature_stays_a_type_error(component):
    for values in ({}, {"t": 1.0, "hidden": 3}):
        with pytest.raises(TypeError, match="argument"):
            component(**values)


def test_the_signature_is_the_true_one(component):
    assert list(inspect.signature(component).parameters) == ["t", "mode"]
    assert inspect.signature(component).parameters["mode"].default == "all"
    assert component.__doc__ == "A loss."


def test_registering_again_checks_once(component):
    constructor = vars(component).get("__init__", component)
    again = register("loss", "test-checked")(component)
    assert again is component
    assert vars(again).get("__init__", again) is constructor


def test_a_class_below_is_told_by_its_own_name():
    class Below(NTXent):
        """A loss."""

    class Other(NTXent):
        """A loss."""

        def __init__(self, *, scale: Annotated[float, Ge(1)] = 1.0) -> None:
            super().__init__(temperature=1 / scale)

    before = NTXent.__init__
    below, other = register("loss", "test-below")(Below), register("loss", "test-other")(Other)
    assert NTXent.__init__ is before
    assert other(scale=4).temperature == 0.25
    with pytest.raises(ValueError, match="temperature of loss 'test-below' must be float > 0, not 0"):
        below(temperature=0)
    with pytest.raises(ValueError, match="scale of loss 'test-other'"):
        other(scale=0)
    with pytest.raises(ValueError, match="temperature of loss 'nt-xent'"):
        NTXent(temperature=0)


def test_what_a_run_gives_and_components_pass_unchecked():
    @register("method", "test-taking")
    class Taking:
        """A method."""

        def __init__(self, network: object, /, *, loss: Loss, weight: Annotated[float, Ge(0)] = 1.0) -> None:
            self.given = network, loss, weight

    assert Taking("network", loss=len, weight=2).given == ("network", len, 2.0)
    with pytest.raises(ValueError, match="weight of method 'test-taking' must be float >= 0, not -1"):
        Taking("network", loss=len, weight=-1)


def test_checked_under_beartype_and_without_a_constructor():
    @register("loss", "test-typed")
    class Typed(nn.Module):
        """A loss."""

        @jaxtyped(typechecker=beartype)
        def __init__(self, *, t: Annotated[float, Gt(0)] = 1.0) -> None:
            super().__init__()
            self.t = t

    @register("loss", "test-bare")
    class Bare:
        """A loss."""

    assert Typed(t=3).t == 3.0  # not told that 3 is no float
    with pytest.raises(ValueError, match="of loss 'test-typed' must be"):
        Typed(t=0)
    assert isinstance(Bare(), Bare)
    with pytest.raises(TypeError, match="takes no arguments"):
        Bare(t=1)


def test_a_loss_is_copied_and_pickled():
    loss = NTXent(temperature=0.3)
    assert [made.temperature for made in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)))] == [0.3, 0.3]


@pytest.mark.parametrize("entry", [entry for entry in entries() if is_builtin(entry)], ids=str)
def test_every_built_in_component_checks(entry):
    definition = load(entry.kind, entry.name)
    module, _, name = entry.target.partition(":")
    component = getattr(__import__(module, fromlist=[name]), name)
    for parameter in definition.parameters:
        with pytest.raises(ValueError, match=f"^{parameter.name} of {entry.kind} '{entry.name}' must be"):
            component(*[None] * len(definition.given), **{parameter.name: object()})
