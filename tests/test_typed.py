"""mypy --strict accepts the files of a user of the library, and finds no Any in any expression of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "typed").glob("*.py"))
WRONG = """
import torch
from metriclab.losses import NTXent, ProxyAnchor
NTXent()(torch.randn(3, 2))
NTXent(temperature="0.1")
ProxyAnchor()(torch.randn(3, 2), [0, 0, 1], miner=None)
"""


def mypy(*arguments, cwd):
    options = ("--strict", "--disallow-any-expr", "--follow-imports=silent", "--python-version=3.11")
    command = [sys.executable, "-m", "mypy", "--config-file=", "--no-error-summary", *options, *map(str, arguments)]
    cache = Path(__file__).parent.parent / ".mypy_cache"
    return subprocess.run([*command, f"--cache-dir={cache}"], capture_output=True, text=True, cwd=cwd)


@pytest.mark.slow
def test_a_users_file_is_typed(tmp_path):
    pytest.importorskip("mypy")
    found = mypy(*FILES, cwd=tmp_path)
    assert found.stdout == ""
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_what_is_wrong_is_found(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "wrong.py").write_text(WRONG)
    lines = mypy("wrong.py", cwd=tmp_path).stdout.splitlines()
    assert {line.split(":")[1] for line in lines if ": error:" in line} == {"4", "5", "6"}
