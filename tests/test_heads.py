import pytest
import torch
from torch import nn

from metriclab.heads import LinearHead, MLPHead, NoHead


def features() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def test_no_head_gives_the_features():
    head = NoHead(5)
    assert head.out_features == 5
    assert torch.equal(head(features()), features())
    assert not list(head.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_linear_head(bias: bool):
    head = LinearHead(5, embedding_dim=3, bias=bias)
    assert head.out_features == 3
    expected = features() @ head.layer.weight.T + (head.layer.bias if bias else 0)
    torch.testing.assert_close(head(features()), expected)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("final_batch_norm", [True, False])
def test_mlp_head_has_what_it_says(layers: int, batch_norm: bool, final_batch_norm: bool):
    head = MLPHead(
        5, embedding_dim=3, hidden=7, layers=layers, batch_norm=batch_norm, final_batch_norm=final_batch_norm
    )
    linear = [part for part in head.layers if isinstance(part, nn.Linear)]
    norms = [part for part in head.layers if isinstance(part, nn.BatchNorm1d)]
    assert [part.in_features for part in linear] == [5, 7, 7][:layers]
    assert [part.out_features for part in linear] == [7] * (layers - 1) + [3]
    assert len(norms) == (layers - 1) * batch_norm + final_batch_norm
    assert [part.bias is None for part in linear] == [batch_norm] * (layers - 1) + [final_batch_norm]
    assert head.out_features == 3
    assert head(features()).shape == (6, 3)


def test_mlp_head_is_the_papers_formula():
    """z = W2 relu(W1 h), here with biases and, in training, BatchNorm before the ReLU."""
    plain = MLPHead(5, embedding_dim=3, hidden=7, batch_norm=False).double()
    first, _, second = plain.layers
    for h, z in zip(features().double(), plain(features().double()), strict=True):
        torch.testing.assert_close(z, second.weight @ (first.weight @ h + first.bias).clamp(min=0) + second.bias)

    normed = MLPHead(5, embedding_dim=3, hidden=7, final_batch_norm=True).double()
    hidden = features().double() @ normed.layers[0].weight.T
    hidden = ((hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()).clamp(min=0)
    z = hidden @ normed.layers[3].weight.T
    z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(normed(features().double()), z)


def test_final_batch_norm_learns_nothing():
    head = MLPHead(5, final_batch_norm=True)
    assert not list(head.layers[-1].parameters())
