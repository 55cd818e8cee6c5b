"""The linear probe: how much of the classes a linear map of the frozen embedding can tell."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Float64, Int64
from scipy.optimize import minimize
from torch import Tensor

from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators.call import call_evaluator
from metriclab.evaluators.probes.classification import Classify, classification, held_out, rules
from metriclab.evaluators.probes.discriminant import discriminant, moments
from metriclab.evaluators.probes.examples import Examples
from metriclab.registry import register

PENALTIES = (1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""From the strongest: each fit starts from the one before."""

UNCHOSEN = 1e-2
"""The penalty where no class has rows to hold out."""

MOST_CELLS = 2**24
"""Rows times classes beyond which nothing is fitted by iterations: each would take seconds, all of them hours."""

SHRINKAGES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Of the closed form, from the strongest."""

UNSHRUNK = 0.1
"""The shrinkage where no class has rows to hold out."""

TILE_CELLS = 2**21
"""Logits that are held at once."""

_HISTORY_CELLS = 2**26


@register("evaluator", "linear-probe")
@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Multinomial logistic regression on frozen embeddings: accuracy, and precision, recall and F1 over classes.

    Full-batch L-BFGS with an L2 penalty that is chosen on held-out rows. Memory does not grow with rows times classes.
    Where those are more than 16.8 million (Stanford Online Products has 300 million), linear discriminant analysis in
    closed form takes the place of the regression: it, too, is linear in the embedding, and takes seconds.

    Paper: T. Chen, S. Kornblith, M. Norouzi, G. Hinton. A Simple Framework for Contrastive Learning of Visual
    Representations. ICML 2020, appendix B.8 (logistic regression by L-BFGS, its penalty chosen from a grid).

    Args:
        labels: share of the fitting rows of each class that is fitted, at least one; 0.01 is the 1 % protocol.
        iterations: most steps of L-BFGS for one penalty.

    Example:
        >>> z, labels = torch.eye(3).repeat(2, 1), [0, 1, 2, 0, 1, 2]
        >>> LinearProbe()(z, labels, torch.eye(3).repeat(4, 1), [0, 1, 2] * 4)["accuracy"].value
        1.0
    """

    labels: Annotated[float, Gt(0), Le(1)] = 1.0
    iterations: Annotated[int, Ge(1)] = 200

    @property
    def definition(self) -> str:
        """How the classes are predicted, and what is fitted and measured."""
        return (
            "predicted by multinomial logistic regression: mean cross-entropy plus penalty / 2 times the squared norm "
            f"of the weights without biases, by L-BFGS of at most {self.iterations} steps; the penalty of 10^1, 10^0, "
            f"..., 10^-5 with the best accuracy on {held_out()} (the largest of equals; {UNCHOSEN:g} where no class "
            f"has two rows), refitted to all of them; beyond {MOST_CELLS:,} rows x classes by linear discriminant "
            f"analysis in place of it, its shrinkage of {', '.join(map(str, SHRINKAGES))} chosen in the same way "
            f"({UNSHRUNK:g} where no class has two rows); {rules(self.labels)} (linear-probe/1)."
        )

    __call__ = call_evaluator

    @torch.no_grad()
    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]:
        """Accuracy, macro precision, recall and F1 with their values by class, and the queries left out.

        Args:
            queries: rows to measure; those with a negative label are passed over.
            gallery: rows to fit. Items on both sides are cut in two halves of each class.

        Raises:
            DivergedError: where an embedding is not finite.
        """
        yield 0.0
        return classification(queries, gallery, self._fit, self.labels, self.definition)

    def _fit(self, examples: Examples, classes: int) -> Classify:
        few = len(examples.y) * classes <= MOST_CELLS
        weights = self._regressed(examples, classes) if few else _analysed(examples, classes)
        return functools.partial(predict, weights)

    def _regressed(self, examples: Examples, classes: int) -> Float64[Tensor, "d_and_bias c"]:
        x, y = examples.x, examples.y
        start = x.new_zeros(x.shape[1] + 1, classes, dtype=torch.float64)
        chosen, weights = UNCHOSEN, start
        if bool(examples.inner.any()):
            best, fitted, inner = -1.0, start, examples.inner
            for penalty in PENALTIES:
                fitted = logistic_regression(x[~inner], y[~inner], penalty, fitted, self.iterations)
                accuracy = _accuracy(fitted, x[inner], y[inner])
                if accuracy > best:
                    best, chosen, weights = accuracy, penalty, fitted
        return logistic_regression(x, y, chosen, weights, self.iterations)


def _analysed(examples: Examples, classes: int) -> Float64[Tensor, "d_and_bias c"]:
    x, y, inner = examples.x, examples.y, examples.inner
    chosen = UNSHRUNK
    if bool(inner.any()):
        outer = moments(x[~inner], y[~inner], classes)
        found = {shrinkage: _accuracy(discriminant(outer, shrinkage), x[inner], y[inner]) for shrinkage in SHRINKAGES}
        chosen = max(found, key=lambda shrinkage: found[shrinkage])
    return discriminant(moments(x, y, classes), chosen)


def _accuracy(weights: Float64[Tensor, "d_and_bias c"], x: Float[Tensor, "n d"], y: Int64[Tensor, "n"]) -> float:
    return float((predict(weights, x) == y).double().mean())


def logistic_regression(
    x: Float[Tensor, "n d"],
    y: Int64[Tensor, "n"],
    penalty: float,
    start: Float64[Tensor, "d_and_bias c"],
    iterations: int = 200,
    tolerance: float = 1e-4,
) -> Float64[Tensor, "d_and_bias c"]:
    """The weights, their last row the biases, that minimise mean cross-entropy + penalty / 2 |weights|^2.

    Args:
        x: inputs.
        y: dense labels.
        penalty: of the weights, not of the biases.
        start: where to begin.
        iterations: most steps.
        tolerance: largest gradient that ends the search.
    """
    result = minimize(
        _objective(x, y, penalty, start.shape),
        start.flatten().cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": iterations,
            "gtol": tolerance,
            "ftol": 64 * np.finfo(float).eps,
            "maxcor": max(3, min(10, _HISTORY_CELLS // start.numel())),
        },
    )
    return torch.from_numpy(result.x).to(x.device).view(start.shape)


def _objective(
    x: Float[Tensor, "n d"], y: Int64[Tensor, "n"], penalty: float, shape: torch.Size
) -> Callable[[Any], tuple[float, Any]]:
    """Loss and gradient, a tile of rows at a time: n x c logits are never there at once."""
    height = max(1, TILE_CELLS // (shape[1] + shape[0]))

    def loss_and_gradient(flat: Any) -> tuple[float, Any]:
        weights = torch.from_numpy(flat).to(x.device).view(shape)
        gradient = torch.cat([penalty * weights[:-1], torch.zeros_like(weights[-1:])])
        loss = 0.5 * penalty * weights[:-1].square().sum()
        for start in range(0, len(x), height):
            part, labels = x[start : start + height].double(), y[start : start + height, None]
            log_probability = (part @ weights[:-1] + weights[-1]).log_softmax(1)
            loss -= log_probability.gather(1, labels).sum() / len(x)
            error = log_probability.exp_().scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float64))
            error /= len(x)
            gradient[:-1] += part.T @ error
            gradient[-1] += error.sum(0)
        return float(loss), gradient.flatten().cpu().numpy()

    return loss_and_gradient


def predict(weights: Float64[Tensor, "d_and_bias c"], x: Float[Tensor, "n d"]) -> Int64[Tensor, "n"]:
    """The most probable class of each row."""
    height = max(1, TILE_CELLS // sum(weights.shape))
    parts = [(part.double() @ weights[:-1] + weights[-1]).argmax(1) for part in torch.split(x, height)]
    return torch.cat(parts)
