"""What the JSON files of a run folder have to hold for anyone to go on with them; more may be in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt
from pydantic import BaseModel, ConfigDict

Count = Annotated[int, Ge(0), Lt(2**63)]
Parts = dict[str, dict[str, float | None]]


class Shape(BaseModel):
    """A table that may have more keys than are named."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Fingerprint(Shape):
    """Of the benchmark that a run was measured by."""

    evaluate: dict[str, dict[str, Any]]


class Result(Shape):
    """result.json."""

    metrics: Parts
    definitions: dict[str, dict[str, str]]
    protocol: str
    fingerprint: Fingerprint
    steps: Count
    images_seen: Count
    output: Literal["h", "z"]
    cost: dict[str, float | None]
    baselines: dict[str, Parts] = {}
    best_step: Count = 0
    items: dict[str, Count] = {}
    missing: dict[str, str] = {}
    warnings: list[str] = []
    scores_sha256: str = ""


class Fingerprints(Shape):
    """Of the splits of a data set."""

    train: str
    val: str = ""
    test: str = ""


class Manifest(Shape):
    """manifest.json."""

    data: Fingerprints
    classes: list[Count] = []
    recipe_schema: Count = 1
    versions: dict[str, Any] = {}
    plugins: dict[str, Any] = {}
    statistics: dict[str, list[float]] | None = None


class Numbers(Shape):
    """The part of a run's state that is no tensor."""

    best_step: Count
    best_value: float | None
    seconds: float
    warned: list[str]
    optimizer: dict[str, Any]


class Body(Shape):
    """What a checkpoint's hash is taken of."""

    step: Count
    tensors_sha256: str
    weights_sha256: str = ""
    run: dict[str, str] = {}
    numbers: Numbers


class StoredCheckpoint(Shape):
    """The JSON file of a checkpoint."""

    body: Body
    sha256: str


class Line(Shape):
    """A line of metrics.jsonl; numbers that JSON does not have are strings."""

    step: Count
