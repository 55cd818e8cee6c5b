"""What the process keeps of freed memory, each case in a process of its own: the setting cannot be taken back.

Both are forked from one that has imported torch, which takes longer than all else.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os
import torch
from metriclab.core.allocator import keep_freed_memory
if child := os.fork():
    os.waitpid(child, 0)
    os.environ["MALLOC_ARENA_MAX"] = "2"
kept = keep_freed_memory()
def held():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
before = held()
large = torch.ones(2**24)
del large
print(kept, round(held() - before), flush=True)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_unless_the_user_has_set_it_otherwise():
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=plain, capture_output=True, text=True, check=True)
    (kept, held), (left, returned) = (line.split() for line in done.stdout.splitlines())
    assert (kept, left) == ("True", "False")
    assert int(held) > 48
    assert int(returned) < 16
