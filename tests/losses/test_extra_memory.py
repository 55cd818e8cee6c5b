"""No loss over pairs takes much memory beside its rows; measured by the benchmark that prints it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loss_memory.py"
MOST_MB = 200


@pytest.mark.slow
def test_every_registered_loss_over_pairs_at_4096_rows():
    printed = subprocess.run([sys.executable, SCRIPT], check=True, capture_output=True, text=True).stdout
    extra = {name: int(mb) for name, mb in re.findall(r"(\S+) +(\d+) MB", printed)}
    assert {"contrastive", "triplet", "nt-xent", "supcon", "logistic", "multi-similarity", "arcface"} <= set(extra)
    assert {name: mb for name, mb in extra.items() if mb > MOST_MB} == {}
