"""What a component is, read from its source without importing it."""

import sys

import pytest

from metriclab.registry import entries, load_component
from metriclab.registry.registry import definitions, summary

SOURCE = """
raise RuntimeError("imported")

class Oval:
    '''An oval, about 1.5 wide. It is a loss.

    Paper: none.
    '''

def circle():
    '''A circle of
    one line.'''

def bare(): ...

made = circle
"""


def package(install, target, **files):
    site = install("my-ellipse", f"[metriclab.loss]\nellipse = {target}\n")
    for name, source in files.items():
        file = site / f"{name.replace('__', '/')}.py".replace("/init", "/__init__")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    [entry] = [entry for entry in entries("loss") if entry.name == "ellipse"]
    return entry


@pytest.mark.parametrize(
    ("target", "files", "text"),
    [
        ("shapes:Oval", {"shapes": SOURCE}, "An oval, about 1.5 wide."),
        ("shapes:circle [extra]", {"shapes": SOURCE}, "A circle of one line."),
        ("shapes.round:Oval", {"shapes__init": "1 / 0", "shapes__round": SOURCE}, "An oval, about 1.5 wide."),
        ("shapes.inner:Oval", {"shapes__init": "", "shapes__inner__init": SOURCE}, "An oval, about 1.5 wide."),
        ("shapes:Round", {"shapes__init": "from .b import Oval as Round", "shapes__b": SOURCE}, "An oval, about 1.5"),
        ("shapes:Oval", {"shapes__init": "from shapes.b import Oval", "shapes__b": SOURCE}, "An oval, about 1.5 wide."),
        ("shapes:Oval", {"shapes__init": "from . import Oval"}, ""),
        ("shapes:bare", {"shapes": SOURCE}, ""),
        ("shapes:made", {"shapes": SOURCE}, ""),
        ("shapes:absent", {"shapes": SOURCE}, ""),
        ("shapes:Oval", {"shapes": "class Oval: = 1"}, ""),
        ("shapes:Oval", {"shapes": "\0"}, ""),
        ("shapes.absent:Oval", {"shapes__init": SOURCE}, ""),
        ("shapes.absent:Oval", {"shapes": SOURCE}, ""),
        ("nowhere.at_all:Oval", {}, ""),
        ("sys:Oval", {}, ""),
        ("no module", {}, ""),
        ("", {}, ""),
    ],
)
def test_the_source_is_read_and_not_run(install, target, files, text):
    entry = package(install, target, **files)
    assert summary(entry).startswith(text)
    assert bool(summary(entry)) == bool(text)
    assert not [module for module in sys.modules if module.partition(".")[0] in ("shapes", "nowhere")]


def test_it_is_the_first_sentence_that_is_shown_of_a_loaded_component():
    definitions.clear()
    read = {entry: summary(entry) for entry in entries()}
    for entry, text in read.items():
        assert load_component(entry.kind, f"{entry.package}:{entry.name}").summary.startswith(text)
        assert text
