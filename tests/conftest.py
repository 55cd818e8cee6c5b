"""Set-up of every test: shapes and types of metriclab are checked at run time, and nothing outside tmp is written."""

from __future__ import annotations

import os
import tempfile

# Before metriclab is imported anywhere: annotations are executed, and caches go to a folder of this session.
os.environ["METRICLAB_CACHE"] = tempfile.mkdtemp(prefix="metriclab-test-cache-")
os.environ["METRICLAB_REPORT"] = "none"  # as of a run; tests of it ask for one

from tests.support import type_checks

type_checks.install()

import gc  # noqa: E402

gc.disable()  # until all is imported, as that stays

import logging  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import zlib  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402

from metriclab.core import fresh_numbers  # noqa: E402

torch.set_num_threads(1)
os.fsync = lambda descriptor: None  # waits for the disk, so that files outlive the machine: nothing a test can see
if not torch.cuda.is_available():  # torch's own keeps a formatted stack of each call for GPUs yet to come: milliseconds
    torch.manual_seed = torch.default_generator.manual_seed


def pytest_collection_finish(session: pytest.Session) -> None:
    """The collector need not look through what was imported again and again.

    For `make quick` nothing has to be marked: a test that starts a process leaves itself out.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    if session.config.getoption("no_processes"):
        subprocess.Popen = lambda *_, **__: pytest.skip("starts a process")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-processes", action="store_true", help="leave out tests as soon as they start a process")


def pytest_unconfigure() -> None:
    """Leaves nothing behind, in the process that hands tests out as little as in those that run them."""
    shutil.rmtree(os.environ["METRICLAB_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def alone(request) -> Iterator[None]:
    """Every test draws the same numbers, and gives its rows the same items and ids, alone or after others.

    A command that is quiet in one test, in this process, keeps nothing from another that waits for a message.
    """
    torch.manual_seed(0)
    fresh_numbers._next = (zlib.crc32(request.node.nodeid.encode()) % 2**19 + 1) << 20
    logger = logging.getLogger("metriclab")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """What torch does on a CPU with more than one core."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("METRICLAB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def drawn_cache(tmp_path_factory):
    """A cache for the whole session, so that the glyphs are drawn once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRICLAB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The tiny recipe run to its end: once for all processes of a session, of which each has a copy of its own."""
    from tests.support.tiny import run, tiny

    here = tmp_path_factory.getbasetemp()
    of_all = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "tiny-run"
    own = tmp_path_factory.mktemp("tiny") / "run"
    with FileLock(f"{of_all}.lock"):
        if not of_all.exists():
            run(tiny(own.parent), own)
            shutil.copytree(own, of_all)
            return own
    shutil.copytree(of_all, own)
    return own
