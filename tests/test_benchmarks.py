"""The benchmarks that need no other package run: on numbers so small that what they print says nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from metriclab.recipe import read_recipe

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "comparison.py --trials 2",
        "decoding.py --repeats 1 --few",
        "data.py --images 160 --side 64 --lines 600 --items 100 --steps 2 --repeats 1",
        "ranks.py --batch 12 --size 32 --steps 1 --ranks 1 2 --model test_convnext",
        "scale.py --scale 0.01 --rounds 1",
        "samplers.py --classes 100 300 --repeats 1",
    ],
)
def test_a_benchmark_runs(command):
    script, *arguments = command.split()
    done = subprocess.run([sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") > 3


@pytest.mark.parametrize(
    ("script", "recipe"),
    [("sxbm.py", "../recipes/sxbm.toml"), ("lightly_loop.py", "simclr-fashion-mnist.toml")],
)
def test_a_script_asks_a_recipe_for_settings_that_it_has(script, recipe):
    asked = re.findall(r'(?:params|head|views)\["(\w+)"\]', (BENCHMARKS / script).read_text("utf-8"))
    components = read_recipe(BENCHMARKS / recipe).components.values()
    assert asked
    assert set(asked) <= {name for component in components for name in component.params}
