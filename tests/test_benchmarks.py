"""The benchmarks that need no other package run: on numbers so small that what they print says nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "comparison.py --trials 2",
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
