"""The kinds of component, and where a recipe and a run meet each of them."""

from __future__ import annotations

from dataclasses import dataclass

BUILTIN = "metriclab-toolkit"
"""The distribution that metriclab's own components belong to."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of component.

    Attributes:
        name: as in `metriclab list loss`; its entry points are the group `metriclab.<name>`.
        table: the recipe's table that chooses a component of this kind.
        given: what the run passes by position when it builds one.
        optional: how many of the last of these a component may do without, all or none of them.
        many: whether a recipe may choose several, by an array of tables.
        labelled: whether each of several may be called something else than its name, so that one name can be there
            twice.
    """

    name: str
    table: str
    given: tuple[str, ...] = ()
    optional: int = 0
    many: bool = False
    labelled: bool = False

    @property
    def group(self) -> str:
        return GROUP_PREFIX + self.name

    @property
    def header(self) -> str:
        """How the table begins in a recipe."""
        return f"[[{self.table}]]" if self.many else f"[{self.table}]"


GROUP_PREFIX = "metriclab."

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("dataset", "data", ("split",)),
        Kind("views", "views"),
        Kind("sampler", "sampler", ("labels",)),
        Kind("encoder", "encoder"),
        Kind("head", "head", ("in_features",)),
        Kind("loss", "loss", ("embedding_dim", "classes"), optional=2),  # most losses need neither
        Kind("miner", "miner"),
        Kind("memory", "memory", ("embedding_dim", "classes"), optional=1),  # only proxies need classes
        Kind("method", "method", ("network", "total_steps"), optional=1),  # for what changes over the run
        Kind("optimizer", "optimizer", ("modules",)),
        Kind("schedule", "schedule", ("total_steps",)),
        Kind("evaluator", "evaluate", many=True, labelled=True),
        Kind("tracker", "track", ("folder",), many=True),
    )
}
