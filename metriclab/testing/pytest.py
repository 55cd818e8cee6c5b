"""One line of pytest for a component: a test for each check of the kit.

    from metriclab.testing.pytest import conformance

    test_mine = conformance("loss", "mine")

This is a function to call and no plugin that pytest loads by itself: such a plugin is imported into every session of
everyone who has metriclab installed, also where they test something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from metriclab.testing.checks import Check
from metriclab.testing.components import component_checks


def conformance(
    kind: str, name: str, params: Mapping[str, Any] | None = None, /, **options: Any
) -> Callable[[Check], None]:
    """A test of a registered component, to be given a name that begins with `test`; pytest runs it once for each check.

        test_circle = conformance("loss", "circle", {"scale": 16.0}, gradcheck=False)
        test_method = conformance("method", "mine", {"loss": build("loss", "contrastive")})
        test_images = conformance("dataset", "mine", {"root": "tests/images"})

    A check has its name in brackets, `test_circle[row-order]`; `pytest -k row-order` runs that one alone.

    Args:
        kind: of the component.
        name: under which it is registered; its module must be imported, or its package installed.
        params: its parameters, where the defaults will not do, and for a method the components to give it.
        options: of the kind's check, such as those of `metriclab.testing.check_loss`.
    """

    @pytest.mark.parametrize("check", _checks(kind, name, params, options), ids=lambda check: check.slug)
    def test_conformance(check: Check) -> None:
        check.run()

    return test_conformance


def _checks(kind: str, name: str, params: Mapping[str, Any] | None, options: Mapping[str, Any]) -> list[Check]:
    try:
        return component_checks(kind, name, params, **options)
    except Exception as error:  # a test that fails; other tests of the file go on
        problem = error

        def fail() -> None:
            raise problem

        return [Check("built", fail)]
