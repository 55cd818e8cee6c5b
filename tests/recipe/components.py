"""A one-file plugin with one small component of each kind, so that the tests of recipes depend on no real one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from metriclab.core.protocols import Loss, Memory, Miner
from metriclab.registry import OwnKeys, TableOf, build, register


@register("dataset", "dots")
def dots(split: str, /, *, root: str, size: Annotated[int, Ge(1), Le(1024)] = 32) -> Any:
    """Dots.

    Args:
        root: folder of the dots.
        size: edge of an image in pixels.
    """
    return build("dataset", "synthetic", split, size=12)


@register("views", "as-is")
def as_is() -> Any:
    """One view."""
    return build("views", "plain", size=8)


@register("views", "pair")
def pair(
    *,
    size: Annotated[int, Ge(1)] = 8,
    blur: Annotated[float, Ge(0), Le(1)] = 0.5,
    colours: tuple[float, float] | float = 1.0,
    second: Annotated[dict[str, object], OwnKeys(("blur", "colours"))] = {},
) -> Any:
    """Two views, of which the second may be another."""
    return build("views", "plain", size=size, count=2)


@register("sampler", "in-order")
def in_order(labels: Any, /, *, batch_size: Annotated[int, Ge(1)] = 8) -> Any:
    """One after the other."""
    return build("sampler", "shuffled", labels, batch_size=batch_size)


@register("encoder", "tower")
def tower(
    *,
    width: Annotated[int, Ge(1)] = 64,
    pretrained: bool = False,
    pool: Literal["mean", "largest"] = "mean",
    params: dict[str, object] | None = None,
) -> Any:
    """Layers."""
    return build("encoder", "pixels", size=8)


@register("head", "twig")
def twig(
    in_features: int, /, *, hidden: Annotated[int, Ge(1)] = 512, dropout: Annotated[float, Ge(0), Le(1)] = 0.0
) -> Any:
    """One layer more."""
    return build("head", "linear", in_features)


@register("loss", "pull")
def pull(*, temperature: Annotated[float, Gt(0)] = 0.1) -> Any:
    """Pulls."""
    return build("loss", "nt-xent", temperature=temperature)


class Whole:
    """No loss over pairs."""

    def __call__(self, anchors: Any, references: Any, /) -> Any:
        return (anchors.z * references.z).sum()


@register("loss", "wholesale")
def wholesale() -> Any:
    """Looks at no pairs."""
    return Whole()


@register("miner", "sieve")
def sieve(*, margin: float = 0.2) -> Any:
    """Sieves."""
    return build("miner", "none")


@register("memory", "hoop")
def ring(width: int, classes: Any, /, *, size: Annotated[int, Ge(1)]) -> Any:
    """Remembers."""
    return build("memory", "ring", width, size=size)


@register("method", "pairwise")
def pairwise(network: Any, /, *, loss: Loss) -> Any:
    """Needs a loss."""
    return build("method", "supervised", network, loss=loss)


@register("method", "recalling")
def recalling(network: Any, /, *, loss: Loss, memory: Memory, miner: Miner | None = None, weight: float = 1.0) -> Any:
    """Needs a loss and a memory, and may have a miner."""
    return build("method", "supervised", network, loss=loss, miner=miner, memory=memory)


@register("method", "looking")
def looking(network: Any, /) -> Any:
    """Needs nothing."""
    return build("method", "none", network)


@register("optimizer", "walk")
def walk(
    modules: Any, /, *, learning_rate: Annotated[float, Gt(0)] = 0.001, groups: dict[str, float] | None = None
) -> Any:
    """Walks downhill."""
    return build("optimizer", "sgd", modules, learning_rate=learning_rate, groups=groups)


@register("schedule", "flat")
def flat(total_steps: int, /) -> Any:
    """Changes nothing."""
    return build("schedule", "constant", total_steps)


@register("evaluator", "nearest")
def nearest(*, k: list[Annotated[int, Ge(1)]] = [1, 10]) -> Any:
    """Looks at neighbours."""
    retrieval = build("evaluator", "retrieval", k=k)
    return lambda queries, gallery: {"recall": retrieval(queries, gallery)["r_precision"]}


@register("evaluator", "spread")
def spread() -> Any:
    """Measures spread."""
    return build("evaluator", "health")


@register("evaluator", "beyond")
def beyond(
    *,
    data: Annotated[dict[str, object], TableOf("dataset")],
    evaluator: str = "nearest",
    parameters: Annotated[dict[str, object], TableOf("evaluator", named_by="evaluator")] = {},
) -> Any:
    """Looks at other data."""
    return build("evaluator", "retrieval")


@register("tracker", "ink")
def ink(folder: Any, /, *, colour: str = "black") -> Any:
    """Writes."""
