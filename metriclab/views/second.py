"""What views that differ in their second one share."""

from __future__ import annotations

from metriclab.errors import RecipeError


def require_two_views(name: str, count: int) -> None:
    """Checks that there is a second view to be told about.

    Raises:
        RecipeError: where there is one view alone.
    """
    if count == 1:
        raise RecipeError(
            f"views '{name}' make one view of an image, and `second` is about another",
            help="set views.count = 2, or leave out second",
        )
