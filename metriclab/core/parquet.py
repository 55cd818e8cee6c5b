"""Parquet files, for which pyarrow is an extra."""

from __future__ import annotations

from typing import Any

from metriclab.errors import RecipeError


def pyarrow_for(what: str) -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        RecipeError: where it is not installed; `what` says what for it is needed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise RecipeError(f"{what} .parquet needs pyarrow", help="pip install 'metriclab-toolkit[parquet]'") from error
    return pyarrow.parquet
