"""Every plugin that is wrong in a known way is caught by name, in files as a third party would write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from metriclab.registry import ComponentEntry, entries, load_plugin_file
from metriclab.registry import registry as registered
from metriclab.testing import component_checks

FOLDER = Path(__file__).parent / "broken"

FAULTS = {
    "losses": {
        ("loss", "good"): {},
        ("loss", "normalises-twice"): {"rows taken as they come": "NormalisesTwice normalises rows again"},
        ("loss", "divides-by-norm"): {"edge cases": "DividesByNorm is nan on zero rows"},
        ("loss", "looks-at-row-order"): {"row order": "LooksAtRowOrder is .* by the order of its rows"},
        ("loss", "state-outside-buffers"): {"state saved": "StateOutsideBuffers gives .* keep state in buffers"},
        ("loss", "divides-by-no-positives"): {"edge cases": "PairLoss is nan on plain rows"},
        ("loss", "gathers"): {"several ranks": "Gathers gathers by itself"},
        ("loss", "mutates-its-input"): {"arguments unchanged": "MutatesItsInput writes into the labels of its rows"},
        ("loss", "wrong-sign"): {"signs": "PairLoss pushes positives apart"},
        ("loss", "whole-matrix"): {"memory": "WholeMatrix holds a tensor of .* elements for .* pairs"},
        ("loss", "counts-itself"): {"no pairs": "CountsItself is 1.* with a single row, expected 0"},
        ("loss", "warms-up"): {"state saved": "WarmsUp keeps state between calls: 'calls' is another one after each"},
        ("loss", "pulls-alone"): {
            "signs": "PairLoss never pushes negatives apart, whatever their angle: it only pulls .where that is meant, "
            r"leave this check out: signs=False, or `--without signs`\)"
        },
        ("loss", "hides-nan"): {"edge cases": "HidesNaN is .* though a row is NaN: that hides divergence"},
    },
    "stateful": {
        ("miner", "adds-pairs"): {"masks only shrink": "_everything_negative adds negative pairs"},
        ("miner", "draws-globally"): {"pure function": "_half chooses otherwise in a second call"},
        ("miner", "counts-its-calls"): {"pure function": "Counts keeps state between calls: 'calls' is another one"},
        ("miner", "counts-in-a-closure"): {"pure function": "keeps state between calls: 'calls.0' is another one"},
        ("memory", "counts-pushes"): {"state saved": "CountsPushes keeps state between calls: 'pushes'"},
        ("memory", "not-normalised"): {"shapes, ids and origin of rows": "holds a row of length 3"},
        ("memory", "returns-this-batch"): {"no graph kept": "ReturnsThisBatch keeps the graph of what is pushed"},
        ("memory", "state-outside-buffers"): {"state saved": "goes on differently after its state was saved"},
        ("method", "side-effects"): {"no side effects of objective": "SideEffects.objective changes its state"},
        ("method", "state-outside-buffers"): {"state saved": "MethodState goes on differently after its state was"},
        ("method", "this-rank-only"): {"several ranks": "ThisRankOnly trains differently on several ranks"},
        ("method", "gathers"): {"several ranks": "MethodGathers trains differently on several ranks"},
        ("method", "mixes-images"): {"embed": "MixesImages.embed gives an image another z in company than alone"},
        ("method", "climbs"): {
            "descent": "steps of Climbs raise its own loss, from .* is a sign, or a moving average, "
        },
        ("method", "climbs-the-given-loss"): {"descent": "raise the loss NTXent it was given"},
        ("method", "average-runs-away"): {"descent": "of AverageRunsAway moves away from what it averages"},
        ("method", "average-of-one-step"): {"descent": "of AverageOfOneStep keeps 0.01 of itself in a step"},
        ("method", "undoes-its-steps"): {"descent": "steps of UndoesItsSteps raise its own loss"},
        ("method", "in-float32"): {},
        ("method", "crashes-on-few-images"): {
            "several ranks": "CrashesOnFewImages raises on rank 0 of 2: ValueError: too few images for a queue"
        },
        ("method", "renames-its-network"): {"loss and gradient of a step": "has no module `network`"},
    },
    "seen": {
        ("views", "good"): {},
        ("views", "one-draw-for-the-batch"): {"draws of each image": "the same draws for every image of the batch"},
        ("views", "first-image-decides"): {"sample by sample": "depends on the other images of the batch"},
        ("views", "draws-globally"): {"pure function of the random keys": "a pure function of images and random keys"},
        ("views", "one-draw-for-both-views"): {"draws of each image": "the same draws for every view of an image"},
        ("views", "ignores-copies"): {"draws of each image": "the same draws for an image that comes again"},
        ("views", "sees-padding"): {"padding": "depends on how far images are padded"},
        ("views", "normalises"): {"result of 3 channels": r"expected \[0, 1\]: mean and standard deviation belong to"},
        ("views", "mutates-its-input"): {"arguments unchanged": "writes into the images it is given"},
        ("views", "counts-its-calls"): {"pure function of the random keys": "CountsItsCalls keeps state between calls"},
        ("views", "miscounts"): {"result of 3 channels": "Miscounts returns 1 views, and says count = 2"},
        ("sampler", "good"): {},
        ("sampler", "draws-globally"): {"pure function of the seed": "it must be a pure function of the seed"},
        ("sampler", "seeds-globally"): {"global generators": "uses or seeds a global generator"},
        ("sampler", "goes-on"): {"pure function of the seed": "gives other batches in a second call"},
        ("sampler", "counts-epochs"): {"pure function of the seed": "CountsEpochs keeps state between calls: 'epochs'"},
        ("sampler", "small-seeds"): {"batches": r"epoch\(9223372036854775807\) raises ValueError"},
        ("sampler", "never-shuffles"): {"another seed, another order": "the same order for every seed"},
        ("sampler", "out-of-range"): {"batches": "holds items .* to 640, of 0 to 639"},
        ("sampler", "miscounts"): {"batches": "gives 19 batches, and says steps = 20"},
        ("encoder", "good"): {},
        ("encoder", "wrong-width"): {"features": r"WrongWidth gives shape \(6, 7\) in eval\(\), expected \(6, .*512"},
        ("encoder", "mixes-images"): {"each by itself": r"in other company .*: in eval\(\) images must not mix"},
        ("encoder", "state-outside-buffers"): {"state saved": "HiddenMean goes on differently after its state was"},
        ("encoder", "mutates-its-input"): {"arguments unchanged": "NormalisesInPlace writes into what it is given"},
        ("encoder", "divides-by-contrast"): {"features": "DividesByContrast is not finite of zeros"},
        ("encoder", "dead-layer"): {"gradients": "no gradient reaches 'unused.weight' of DeadLayer"},
        ("encoder", "layers-in-a-list"): {
            "gradients": "LayersInAList computes with 2 weights that are none of its parameters, so nothing trains or "
            "saves them; register them, layers in an nn.ModuleList"
        },
        ("encoder", "some-layers-in-a-list"): {"gradients": "computes with 2 weights that are none of its parameters"},
        ("encoder", "plain-weights"): {
            "state saved": "another PlainWeights gives other features with the state of this"
        },
        ("encoder", "stops-gradients"): {"gradients": "the gradient of every parameter of StopsGradients is zero"},
        ("head", "unregistered"): {"state saved": "it has weights that are no parameters, which no checkpoint holds"},
        ("encoder", "needs-contiguous"): {"channels last": "use flatten or reshape in place of view"},
        ("encoder", "drops-out-in-eval"): {"each by itself": r"in a second call in eval\(\): nothing random there"},
        ("dataset", "good"): {},
        ("dataset", "one-fingerprint"): {"fingerprints": "has the fingerprint of train"},
        ("dataset", "sorts-items"): {"same item, same image": "in company, or in another order, than alone"},
        ("dataset", "hands-out-its-own"): {"same item, same image": "written into a batch changes item|another image"},
        ("dataset", "floats"): {"labels, classes and names": "are int32 of shape"},
        ("dataset", "renumbers-classes"): {"labels, classes and names": "equal labels must mean equal classes"},
        ("dataset", "floats-to-uint8"): {"images": r"0 or 1 alone, which are black: scale floats in \[0, 1\] to 255"},
        ("dataset", "doubled-names"): {
            "labels, classes and names": "calls 4 items '0.png': each needs a name of its own"
        },
        ("dataset", "other-images-with-split"): {
            "the same again": "gives other images from with_split than when it is"
        },
        ("dataset", "splits-itself"): {"the same again": "with_split was called: it must leave the data set as it is"},
        ("dataset", "labels-on-reading"): {
            "images": "labels of LabelsOnReading .* are other ones after images were read"
        },
        ("dataset", "draws-its-labels"): {"the same again": "the labels of .* are not the same when it is built again"},
        ("dataset", "one-image"): {"images": r"OneImage \(train\) gives the same image for 12 items"},
        ("dataset", "augments"): {"same item, same image": "another image in company"},
    },
    "measured": {
        ("evaluator", "good"): {},
        ("evaluator", "matches-itself"): {"no query its own match": "counts a query as its own match"},
        ("evaluator", "finds-itself-in-a-copy"): {"no query its own match": "with a copy of the queries for gallery"},
        ("evaluator", "leaves-out-the-diagonal"): {"no query its own match": "with a copy of the queries for gallery"},
        ("evaluator", "finds-itself-in-one-number"): {"no query its own match": "counts a query as its own match"},
        ("evaluator", "unknown-is-a-class"): {
            "unknown labels": "rows of negative label are of no class, and never alike"
        },
        ("evaluator", "unknown-is-wrong"): {"unknown labels": "counts queries of unknown label"},
        ("evaluator", "takes-the-first-that-ties"): {"ties": "by the order of rows that are equally near"},
        ("evaluator", "forgets-the-last-part"): {"many queries": "for a query among 1301 than among 19"},
        ("evaluator", "counts-its-calls"): {"pure function": "CountsItsCalls keeps state between calls: 'calls'"},
        ("evaluator", "hides-nan-of-the-gallery"): {"NaN in sight": "gives plain numbers though a gallery row is NaN"},
        ("evaluator", "breaks-ties-by-position"): {"row order": "by the order of rows"},
        ("evaluator", "hides-nan"): {"NaN in sight": "gives plain numbers though a query is NaN"},
        ("evaluator", "without-definition"): {"scores": "'hit' of WithoutDefinition has no definition"},
        ("evaluator", "draws-globally"): {"pure function": "in a second call: it must be a pure function"},
        ("evaluator", "centres-in-place"): {"arguments unchanged": "CentresInPlace writes into the z of its rows"},
        ("evaluator", "one-value-too-few"): {"scores": r"has per_query of shape \(18,\) for 19 queries"},
        ("evaluator", "needs-matches"): {"queries without a match": "raises on queries of unknown label"},
        ("optimizer", "good"): {},
        ("optimizer", "wrong-sign"): {"descent": "Upwards never lowers a plain loss .* is the sign right"},
        ("optimizer", "decays-anyway"): {"learning rate": "DecaysAnyway moves .* at a learning rate of 0"},
        ("optimizer", "state-outside-buffers"): {"state saved": "Counts moves .* differently after its state was"},
        ("optimizer", "trains-the-frozen"): {"every parameter in one group": "1 times, expected 0"},
        ("optimizer", "forgets-a-group"): {"descent": "FirstGroup never moves 'head.bias' in 30 steps"},
        ("schedule", "good"): {},
        ("schedule", "counts-calls"): {"pure function of the step": "it must be a pure function of the step"},
        ("schedule", "wears-off"): {"pure function of the step": "the schedule keeps state between calls: 'calls'"},
        ("schedule", "divides-by-zero"): {"factors": "division by zero"},
        ("tracker", "good"): {},
        ("tracker", "knows-the-first-names-alone"): {"every number of a run": r"log raises in a new folder on"},
        ("tracker", "refuses-a-resumed-run"): {"resumed run": "File exists"},
        ("tracker", "truncates"): {"numbers in files": "Truncates loses what was logged before the run was resumed"},
        ("tracker", "rounds"): {
            "numbers in files": r"Rounds rounds 0.7310585786300049 in log.txt: write numbers whole"
        },
        ("tracker", "rounds-what-is-small"): {"numbers in files": "rounds 3.059022269256247e-07 to fewer digits"},
        ("tracker", "writes-at-the-end"): {
            "numbers in files": "has not written the first of 20 logs before it is closed"
        },
        ("tracker", "never-flushes"): {"numbers in files": "NeverFlushes writes empty files: are they closed"},
        ("tracker", "writes-elsewhere"): {"every number of a run": "writes mine.txt beside the run folder"},
    },
}
"""File -> component -> the checks that must catch it -> what they say. Other checks may catch it too."""

CASES = [(file, *key) for file, of_file in FAULTS.items() for key in of_file]


@pytest.fixture(autouse=True)
def _forgetful_registry():
    before = {**registered.declared}, {**registered.definitions}
    yield
    for memory, content in zip((registered.declared, registered.definitions), before, strict=True):
        memory.clear()
        memory.update(content)


def brought(file: str) -> list[ComponentEntry]:
    load_plugin_file(FOLDER / f"{file}.py")
    return [entry for entry in entries() if entry.package == f"{file}.py"]


@pytest.mark.parametrize("file", FAULTS)
def test_every_component_of_the_files_is_there(file):
    assert {(entry.kind, entry.name) for entry in brought(file)} == set(FAULTS[file])


@pytest.mark.parametrize(("file", "kind", "name"), CASES, ids=lambda value: value)
def test_a_broken_plugin_is_caught_and_told_why(file, kind, name):
    expected = FAULTS[file][kind, name]
    brought(file)
    for check in component_checks(kind, name):
        if check.name in expected:
            with pytest.raises((AssertionError, ZeroDivisionError, FileExistsError), match=expected[check.name]):
                check.run()
        elif not expected and check.name != "several ranks":  # a good one
            check.run()
    assert expected.keys() <= {check.name for check in component_checks(kind, name)}
