"""Makes docs/what-goes-wrong.md: `metriclab check-loss` over the losses of other libraries.

    pip install "metriclab-toolkit[pml]" lightly==1.6.0 sentence-transformers==6.2.0
    python benchmarks/what_goes_wrong.py            # checks what is not in --found yet, then writes the page
    python benchmarks/what_goes_wrong.py --page     # writes the page from what was found

Each loss is checked by the command, in this process; what it prints as JSON is kept in a file, so that a run that was
stopped goes on, and the page can be written anew without checking anything.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from click.testing import CliRunner

from metriclab.cli import main

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "what-goes-wrong.md"
FOUND = ROOT / "benchmarks" / "what_goes_wrong.json"

PML, LIGHTLY, ADAPTED = "pytorch_metric_learning.losses:", "lightly.loss:", "benchmarks/other_losses.py:"
_CLASSES = ("num_classes=6", "embedding_size=16")
LIBRARIES: dict[str, list[tuple[str, ...]]] = {
    "pytorch-metric-learning": [
        *((PML + name,) for name in ("AngularLoss", "ArcFaceLoss", "CircleLoss", "ContrastiveLoss")),
        (PML + "ContrastiveLoss", "--calls", "rows"),
        (PML + "CosFaceLoss", *_CLASSES),
        *((PML + name,) for name in ("DynamicSoftMarginLoss", "FastAPLoss", "GeneralizedLiftedStructureLoss")),
        *((PML + name,) for name in ("HistogramLoss", "InstanceLoss", "IntraPairVarianceLoss")),
        *((PML + name,) for name in ("LargeMarginSoftmaxLoss", "LiftedStructureLoss", "MarginLoss")),
        *((PML + name,) for name in ("MultiSimilarityLoss", "NCALoss", "NPairsLoss", "NTXentLoss")),
        (PML + "NTXentLoss", "temperature=0.02"),
        *((PML + name,) for name in ("NormalizedSoftmaxLoss", "P2SGradLoss", "PNPLoss", "ProxyAnchorLoss")),
        (PML + "ProxyNCALoss",),
        (PML + "RankedListLoss", "margin=0.5", "Tn=1"),
        *((PML + name,) for name in ("SignalToNoiseRatioContrastiveLoss", "SmoothAPLoss", "SoftTripleLoss")),
        (PML + "SphereFaceLoss",),
        (PML + "SubCenterArcFaceLoss", *_CLASSES),
        *((PML + name,) for name in ("SupConLoss", "ThresholdConsistentMarginLoss", "TripletMarginLoss")),
        (PML + "TupletMarginLoss",),
        (ADAPTED + "CrossBatchMemory",),
        (ADAPTED + "DistributedLossWrapper",),
        (ADAPTED + "DistributedLossWrapper", "efficient=true"),
    ],
    "lightly": [
        *((LIGHTLY + name,) for name in ("BarlowTwinsLoss", "DCLLoss", "DCLWLoss", "DirectCLRLoss", "MACLLoss")),
        *((LIGHTLY + name,) for name in ("NTXentLoss", "NegativeCosineSimilarity", "TiCoLoss", "VICRegLoss")),
        (LIGHTLY + "NTXentLoss", "memory_bank_size=[64, 16]"),
        *((LIGHTLY + name, "gather_distributed=true") for name in ("BarlowTwinsLoss", "DCLLoss", "DCLWLoss")),
        *((LIGHTLY + name, "gather_distributed=true") for name in ("NTXentLoss", "TiCoLoss", "VICRegLoss")),
        *((ADAPTED + name, "gather_distributed=true") for name in ("SIGReg", "LeJEPALoss")),
    ],
    "sentence-transformers": [
        *((ADAPTED + name,) for name in ("BatchAllTripletLoss", "BatchHardTripletLoss")),
        *((ADAPTED + name,) for name in ("BatchHardSoftMarginTripletLoss", "BatchSemiHardTripletLoss")),
        *((ADAPTED + name,) for name in ("MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss")),
        (ADAPTED + "MultipleNegativesRankingLoss", "gather_across_devices=true"),
        (ADAPTED + "CachedMultipleNegativesRankingLoss",),
        *((ADAPTED + name,) for name in ("ContrastiveLoss", "OnlineContrastiveLoss", "CosineSimilarityLoss")),
        *((ADAPTED + name,) for name in ("CoSENTLoss", "AnglELoss")),
    ],
}
"""Library -> the loss, and its settings or options, as the command has them."""

ISSUES = {
    ("NTXentLoss", "memory"): "KevinMusgrave/pytorch-metric-learning#203, #547",
    ("NTXentLoss", "float16"): "KevinMusgrave/pytorch-metric-learning#6",
    ("TripletMarginLoss", "a row of NaN"): "KevinMusgrave/pytorch-metric-learning#228",
    ("CrossBatchMemory", "state"): "KevinMusgrave/pytorch-metric-learning#639, #748",
    ("DistributedLossWrapper", "several ranks"): "KevinMusgrave/pytorch-metric-learning#712, #380",
    ("BarlowTwinsLoss", "several ranks"): "lightly-ai/lightly#1977",
    ("SIGReg", "several ranks"): "lightly-ai/lightly#1920",
    ("lightly NTXentLoss", "zero rows"): "lightly-ai/lightly#1259",
    ("BatchSemiHardTripletLoss", "memory"): "huggingface/sentence-transformers#4026",
    ("MultipleNegativesRankingLoss", "several ranks"): "huggingface/sentence-transformers#2831, #3149",
}
"""Where users met the same: a thread that is about this loss and this fault."""


def command(words: tuple[str, ...]) -> list[str]:
    """The words after `metriclab`."""
    loss, *rest = words
    options = rest if rest[:1] == ["--calls"] else [part for setting in rest for part in ("--set", setting)]
    return ["check-loss", loss, *options]


def check(words: tuple[str, ...]) -> dict[str, object]:
    """What the command says of a loss, or why it could not be called."""
    result = CliRunner().invoke(main, [*command(words), "--format", "json"])
    if result.exit_code == 2:
        return {"refused": result.output.strip().splitlines()[0]}
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.output[result.output.index("{") :])


def check_all(path: Path) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    for losses in LIBRARIES.values():
        for words in losses:
            key = " ".join(command(words))
            if key not in found:
                found[key] = check(words)
                path.write_text(json.dumps(found, indent=1) + "\n")
                print(key, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page from what was found")
    parser.add_argument("--found", type=Path, default=FOUND)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.page:
        check_all(arguments.found)
