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
_NO_RANKS = ("--without", "several-ranks")  # what pairs there are is up to whoever makes them
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
        (ADAPTED + "SIGReg", "gather_distributed=true", "--without", "signs"),  # of all rows alike, it pairs none
        (ADAPTED + "LeJEPALoss", "gather_distributed=true"),
    ],
    "sentence-transformers": [
        *((ADAPTED + name,) for name in ("BatchAllTripletLoss", "BatchHardTripletLoss")),
        *((ADAPTED + name,) for name in ("BatchHardSoftMarginTripletLoss", "BatchSemiHardTripletLoss")),
        *((ADAPTED + name,) for name in ("MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss")),
        (ADAPTED + "MultipleNegativesRankingLoss", "gather_across_devices=true"),
        (ADAPTED + "CachedMultipleNegativesRankingLoss",),
        *((ADAPTED + name, *_NO_RANKS) for name in ("ContrastiveLoss", "OnlineContrastiveLoss")),
        *((ADAPTED + name, *_NO_RANKS) for name in ("CosineSimilarityLoss", "CoSENTLoss", "AnglELoss")),
    ],
}
"""Library -> the loss, and its settings or options, as the command has them."""

ISSUES = {
    (PML + "NTXentLoss", "memory"): ("KevinMusgrave/pytorch-metric-learning", 203, 547),
    (PML + "NTXentLoss", "float16"): ("KevinMusgrave/pytorch-metric-learning", 6),
    (ADAPTED + "DistributedLossWrapper", "several ranks"): ("KevinMusgrave/pytorch-metric-learning", 380, 712),
    (LIGHTLY + "BarlowTwinsLoss gather_distributed=true", "several ranks"): ("lightly-ai/lightly", 1977),
    (LIGHTLY + "NTXentLoss", "zero rows"): ("lightly-ai/lightly", 1259),
    (ADAPTED + "SIGReg gather_distributed=true --without signs", "several ranks"): ("lightly-ai/lightly", 1920),
    (ADAPTED + "BatchSemiHardTripletLoss", "memory"): ("huggingface/sentence-transformers", 4026),
    (ADAPTED + "MultipleNegativesRankingLoss", "several ranks"): ("huggingface/sentence-transformers", 2831, 3149),
}
"""Where users met it: threads about this loss, with these settings where some stand here, and this subject. Some are
mended since, as the row shows."""

NOTES = {
    (PML + "CircleLoss", "gradcheck"): "its weights of pairs are held constant on purpose",
    (LIGHTLY + "DCLWLoss", "gradcheck"): "its weights are held constant on purpose",
    (LIGHTLY + "MACLLoss", "gradcheck"): "its temperature and weights are held constant on purpose",
    (LIGHTLY + "TiCoLoss", "gradcheck"): "its covariance is held constant on purpose",
    (LIGHTLY + "BarlowTwinsLoss gather_distributed=true", "several ranks"): "each rank standardises its own rows",
    (PML + "SmoothAPLoss", "row order"): "it wants equal classes, sorted, and says so for the former",
    (PML + "NPairsLoss", "row order"): "it takes two rows of each class",
}
"""What is fair to add."""


def command(words: tuple[str, ...]) -> list[str]:
    """The words after `metriclab`."""
    loss, *rest = words
    settings = [word for word in rest if "=" in word]
    options = [word for word in rest if "=" not in word]
    return ["check-loss", loss, *(part for setting in settings for part in ("--set", setting)), *options]


def check(words: tuple[str, ...]) -> dict[str, object]:
    """What the command says of a loss, or why it could not be called."""
    result = CliRunner().invoke(main, [*command(words), "--format", "json"])
    if result.exit_code == 2:
        return {"refused": result.output.strip().splitlines()[0].rpartition("/")[2]}
    assert result.exit_code in (0, 1), result.output
    told = json.loads(result.output[result.output.index("{") :])
    return {**told, "loss": words[0], "checks": [[one["check"], one["status"], one["text"]] for one in told["checks"]]}


def check_all(path: Path) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    for losses in LIBRARIES.values():
        for words in losses:
            key = " ".join(command(words))
            if key not in found:
                found[key] = check(words)
                path.write_text(json.dumps(found, indent=1) + "\n")
                print(key, flush=True)


def page(found: dict[str, dict]) -> str:
    """The page, from what was found."""
    told = [one for one in found.values() if "checks" in one]
    versions = sorted({one["package"] for one in told if not one["package"].endswith(".py")})
    clean = sum(not _short(one) for one in told)
    parts = [INTRO.format(count=len(told), clean=clean, torch=told[0]["torch"], versions=", ".join(versions))]
    for library, losses in LIBRARIES.items():
        rows = [_row(words, found[" ".join(command(words))]) for words in losses]
        parts.append(f"## {library}\n\n{HEADER}\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


INTRO = """# What goes wrong in losses

Made by `python benchmarks/what_goes_wrong.py`, which runs `metriclab check-loss` over losses of other libraries. The
first column is what stands after `metriclab check-loss`, so each row can be made again; settings that are not named
are the defaults. Versions: {versions}, sentence-transformers 6.2.0, torch {torch}; on CPU.
Those of `other_losses.py`, which lies in `benchmarks/`, take something else than tensors, and are called there without
a change of what they compute; all of sentence-transformers are among them. There, losses of scored pairs are given all
pairs of two views, and of a cached loss what it computes is tried, not how it caches gradients.

Of {count} rows, {clean} fall short in nothing. A loss that falls short may serve you well: most of these cases are
rare, and some are how the loss is meant, which stands beside it where we know. What holds is not listed. The same
checks run over each loss of metriclab in its tests. Yours: `metriclab check-loss my_loss.py:MyLoss`.

| check | where it falls short, a user sees |
| --- | --- |
| row order | what is learned depends on how the sampler orders a batch |
| gradcheck | the optimizer follows something else than the logged loss |
| signs | positives are not drawn together, or negatives are |
| own pairs | a row counts itself, as its positive or in the softmax |
| precision | float32 is not float64 to rounding: the hardest pairs get a wrong share |
| float16, bfloat16 | a network in half precision trains by another loss, or not at all (2 % and 10 % are let pass) |
| autocast | float32 rows inside an autocast block give another loss (2 % are let pass) |
| no pairs | a batch without positives, without negatives, or of one row gives NaN or an error |
| one pair | a far positive and a near negative give no gradient |
| zero rows | one row of zeros gives NaN, or a gradient over a million |
| identical rows | a collapsed network gives NaN; or a pair of copies drops out of the pairs |
| a row of NaN | a network that diverged is not seen in the loss |
| huge labels | labels from 2^24 or 2^53 on run together |
| state | a resumed run goes on otherwise, val changes training, or one NaN stays for ever |
| several ranks | under DistributedDataParallel, 2 and 3 ranks do not give what one process gives |

*Several ranks* tells the kind: *exact*; *scaled by ranks*, a right gradient but for a factor; *local negatives*, each
rank's rows meet only its own, which is the default of most libraries and cheap; or *another loss*. *Memory* is how the
largest tensor grows with the rows, and its size for 16,384 rows of 16 dimensions, not counted as falling short."""

HEADER = "| loss | several ranks | falls short | memory | users |\n| --- | --- | --- | --- | --- |"


def _row(words: tuple[str, ...], one: dict) -> str:
    name = f"`{' '.join(command(words)[1:]).removeprefix('benchmarks/')}`"
    if "refused" in one:
        return f"| {name} | | cannot be called: {_cell(one['refused'])} | | |"
    texts = [f"{check}: {_cell(text)}{_note(words, check)}" for check, text in _short(one)]
    memory = next(text for check, _, text in one["checks"] if check == "memory")
    growth, _, sizes = memory.partition(": ")
    size = sizes.rpartition(", ")[2].removesuffix(" for 16,384 rows")
    ranks = next(text for check, _, text in one["checks"] if check == "several ranks")
    kind = "not tried" if ranks == "as asked for" else ranks.partition(";")[0].partition(":")[0]
    return f"| {name} | {kind} | {'<br>'.join(texts) or 'nothing'} | {growth}, {size} | {_users(words, one)} |"


def _short(one: dict) -> list[tuple[str, str]]:
    return [(check, text) for check, status, text in one["checks"] if status == "falls short"]


def _about(table: dict, words: tuple[str, ...], check: str) -> object:
    """What a table has of a loss with these settings, or of the loss."""
    return table.get((" ".join(words), check), table.get((words[0], check)))


def _note(words: tuple[str, ...], check: str) -> str:
    note = _about(NOTES, words, check)
    return f" ({note})" if note else ""


def _users(words: tuple[str, ...], one: dict) -> str:
    links = []
    for check, status, _ in one["checks"]:
        repository, *numbers = _about(ISSUES, words, check) or [""]
        if status != "ok":
            links += [f"[{repository}#{n}](https://github.com/{repository}/issues/{n})" for n in numbers]
    return ", ".join(links)


def _cell(text: str) -> str:
    """Without what several ranks have beyond 2, and fit for a table."""
    _, semicolon, rest = text.partition("; 2 ranks: ")
    text = f"2 ranks: {rest.partition('; 3 ranks: ')[0]}" if semicolon else text
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page from what was found")
    parser.add_argument("--found", type=Path, default=FOUND)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.page:
        check_all(arguments.found)
    PAGE.write_text(page(json.loads(arguments.found.read_text())))
