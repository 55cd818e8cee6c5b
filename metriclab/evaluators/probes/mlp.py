"""The non-linear probe: how much of the classes a small network can tell from the frozen embedding."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators.call import call_evaluator
from metriclab.evaluators.probes.classification import Classify, classification, held_out, rules
from metriclab.evaluators.probes.examples import Examples
from metriclab.registry import register

BATCH, STEPS = 256, 25
"""Rows a step, and the fewest steps of a round: a pass over a few rows would hardly move the network."""

PATIENCE, UNCHOSEN = 10, 20
"""Rounds without improvement before it stops, and rounds where no class has rows to hold out."""

_TILE = 2**13


@register("evaluator", "mlp-probe")
@dataclass(frozen=True, kw_only=True)
class MLPProbe:
    """A network of two hidden layers on frozen embeddings: accuracy, and precision, recall and F1 over classes.

    The same rows give the same network, and the generator of the run is left as it was.

    Args:
        labels: share of the fitting rows of each class that is fitted, at least one; 0.01 is the 1 % protocol.
        hidden: units of both hidden layers.
        dropout: share of each hidden layer that is dropped in training.
        learning_rate: of Adam.
        rounds: most passes over the fitting rows, a pass being at least 25 steps.

    Example:
        >>> z, labels = torch.eye(3).repeat(2, 1), [0, 1, 2, 0, 1, 2]
        >>> MLPProbe()(z, labels, torch.eye(3).repeat(4, 1), [0, 1, 2] * 4)["accuracy"].value
        1.0
    """

    labels: Annotated[float, Gt(0), Le(1)] = 1.0
    hidden: Annotated[int, Ge(1)] = 128
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    rounds: Annotated[int, Ge(1)] = 100

    @property
    def definition(self) -> str:
        """How the classes are predicted, and what is fitted and measured."""
        return (
            f"predicted by a network of two hidden layers of {self.hidden} with ReLU and dropout {self.dropout:g}, "
            f"trained by Adam (learning rate {self.learning_rate:g}, batches of {BATCH}) for at most {self.rounds} "
            f"rounds, each a pass over the rows or {STEPS} steps where that is more; taken from the round with the "
            f"lowest cross-entropy on {held_out()} (stopped {PATIENCE} rounds after it; {min(UNCHOSEN, self.rounds)} "
            f"rounds where no class has two rows); {rules(self.labels)} (mlp-probe/1)."
        )

    __call__ = call_evaluator

    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """Accuracy, macro precision, recall and F1 with their values by class, and the queries left out.

        Args:
            queries: rows to measure; those with a negative label are passed over.
            gallery: rows to fit. Items on both sides are cut in two halves of each class.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        yield 0.0
        device = queries.z.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(0)
            return classification(queries, gallery, self._fit, self.labels, self.definition)

    def _fit(self, examples: Examples, classes: int) -> Classify:
        x, y = examples.x.detach().float(), examples.y
        network = self._network(x.shape[1], classes).to(x.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        train, inner = (~examples.inner).nonzero().squeeze(1), examples.inner.nonzero().squeeze(1)
        best, since, state = float("inf"), 0, copy.deepcopy(network.state_dict())
        batches, steps = _batches(train), max(STEPS, math.ceil(len(train) / BATCH))
        for done in range(1, (self.rounds if len(inner) else min(UNCHOSEN, self.rounds)) + 1):
            network.train()
            for batch in islice(batches, steps):
                optimizer.zero_grad()
                cross_entropy(network(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            network.eval()
            loss = _loss(network, x, y, inner) if len(inner) else -done
            since += 1
            if loss < best:
                best, since, state = loss, 0, copy.deepcopy(network.state_dict())
            if since == PATIENCE:
                break
        network.load_state_dict(state)

        def classify(x: Float[Tensor, "m d"]) -> Int64[Tensor, "m"]:
            with torch.no_grad():
                return torch.cat([network(part.float()).argmax(1) for part in torch.split(x, _TILE)])

        return classify

    def _network(self, embedding_dim: int, classes: int) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs in (embedding_dim, self.hidden):
            layers += [nn.Linear(inputs, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(self.hidden, classes))


def _batches(rows: Int64[Tensor, "n"]) -> Iterator[Int64[Tensor, "_"]]:
    """Passes over the rows without an end, each in an order of its own."""
    while True:
        # Shuffled on the CPU, so that every device sees the same order.
        yield from torch.split(rows[torch.randperm(len(rows)).to(rows.device)], BATCH)


@torch.no_grad()
def _loss(network: nn.Module, x: Float[Tensor, "n d"], y: Int64[Tensor, "n"], chosen: Int64[Tensor, "m"]) -> float:
    parts = torch.split(chosen, _TILE)
    return sum(float(cross_entropy(network(x[part]), y[part], reduction="sum")) for part in parts) / len(chosen)
