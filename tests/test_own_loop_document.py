"""Every block of docs/own-loop.md runs as it is written; the one for several processes is one process on 2 and 3."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from metriclab.api import apply_loss, gather, rows
from metriclab.losses import NTXent
from metriclab.testing.ranks import on_ranks

TEXT = (Path(__file__).parent.parent / "docs" / "own-loop.md").read_text("utf-8")
BLOCKS = {
    part.splitlines()[0]: part.partition("```python\n")[2].partition("```")[0]
    for part in re.split(r"^#+ ", TEXT, flags=re.MULTILINE)[1:]
}
NEEDS = {"Lightning": "lightning", "Accelerate": "accelerate"}
DISTRIBUTED = "Several processes"


def test_the_blocks_are_those_that_are_tested():
    assert len(BLOCKS) == TEXT.count("```python") == 8


@pytest.mark.parametrize("heading", [heading for heading in BLOCKS if heading != DISTRIBUTED])
def test_a_block_runs(heading, tmp_path, monkeypatch):
    with warnings.catch_warnings():
        if heading in NEEDS:
            warnings.simplefilter("ignore")  # what these packages say of themselves
            pytest.importorskip(NEEDS[heading])
        monkeypatch.chdir(tmp_path)
        exec(compile(BLOCKS[heading], heading, "exec"), {"__name__": "own_loop"})


def weights_of_block(share, block):
    scope = {}
    exec(compile(block, DISTRIBUTED, "exec"), scope)
    return [parameter.detach() for parameter in scope["model"].parameters()]


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_block_for_several_processes_is_one_process(ranks):
    torch.manual_seed(0)
    model = nn.Linear(16, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        inputs, labels = torch.randn(32, 16), torch.arange(32) % 8
        optimizer.zero_grad()
        NTXent(temperature=0.1)(model(inputs), labels).backward()
        optimizer.step()
    for found in on_ranks(weights_of_block, ranks, BLOCKS[DISTRIBUTED]):
        for mine, expected in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(mine, expected.detach(), atol=1e-5, rtol=0)


def cheaper(share):
    torch.manual_seed(0)
    model, criterion = nn.Linear(16, 8).double(), NTXent(temperature=0.1)
    inputs, labels = torch.randn(32, 16, dtype=torch.float64), torch.arange(32) % 8
    batch = rows(model(inputs[share.of(32)]), labels[share.of(32)])
    values = [criterion(gather(batch)), apply_loss(criterion, batch, gather(batch))]
    gradients = [torch.autograd.grad(value, model.weight, retain_graph=True)[0] for value in values]
    return [value.detach() for value in values], gradients


def test_the_cheaper_call_is_the_same_loss():
    found = on_ranks(cheaper, 2)
    whole, parts = (sum(values[way] for values, _ in found) / 2 for way in (0, 1))
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)
    whole, parts = (sum(gradients[way] for _, gradients in found) / 2 for way in (0, 1))
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)


def test_what_the_page_names_exists():
    api = importlib.import_module("metriclab.api")
    for name in re.findall(r"`(\w+)\(", TEXT):
        assert name in {"criterion", "print"} or hasattr(api, name), name
