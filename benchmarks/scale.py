"""How time and memory of retrieval and nearest neighbours grow with the number of rows, of embeddings read from files.

    python benchmarks/scale.py

Unit rows of 128 float32 numbers, ten of a class, noise around the direction of their class: against themselves, and
10,000 queries against galleries. Each measurement is made in a process of its own, which reads the embeddings as
`metriclab measure` does: mapped, not copied. Extra memory is what the peak of the process rises by once they are read.
The exponent is the slope of log seconds over log rows, by least squares.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import peak_mb

WIDTH, OF_A_CLASS, NOISE = 128, 10, 1.0
SIDES = {
    "retrieval": ("retrieval", {}),
    "retrieval, best rows": ("retrieval", {"whole_ranking": False}),
    "knn": ("knn", {}),
}
AGAINST_THEMSELVES = (10_000, 30_000, 100_000)
QUERIES, GALLERIES = 10_000, (100_000, 1_000_000)
_PART = 50_000


def write(folder: Path, name: str, count: int, classes: int, seed: int) -> Path:
    """Embeddings and labels as two .npy files, drawn part by part."""
    path, labels = folder / f"{name}.npy", np.arange(count) % classes
    if path.exists():
        return path
    centres = np.random.default_rng(0).standard_normal((classes, WIDTH), dtype=np.float32) / WIDTH**0.5
    generator = np.random.default_rng(seed)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, WIDTH))
    for start in range(0, count, _PART):
        part = labels[start : start + _PART]
        z = centres[part] + NOISE * generator.standard_normal((len(part), WIDTH), dtype=np.float32) / WIDTH**0.5
        file[start : start + _PART] = z / np.linalg.norm(z, axis=1, keepdims=True)
    file.flush()
    np.save(folder / f"{name}.labels.npy", labels)
    return path


def one(side: str, *paths: str) -> None:
    """Prints the seconds and the extra memory of one side."""
    from metriclab.api import build
    from metriclab.vectors.rows import Source, read_rows

    name, parameters = SIDES[side]
    sources = [Source(Path(path), Path(path).with_suffix(".labels.npy")) for path in paths]
    evaluator, rows = build("evaluator", name, **parameters), read_rows(*sources)
    before, start = peak_mb(), time.perf_counter()
    evaluator(*rows)
    print(json.dumps([time.perf_counter() - start, peak_mb() - before]))


def measured(side: str, rounds: int, *paths: Path) -> tuple[float, float]:
    """Medians of seconds and of extra memory."""
    taken = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--one", side, *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{side} failed:\n{done.stderr}")
        taken.append(json.loads(done.stdout.splitlines()[-1]))
    return statistics.median(one[0] for one in taken), statistics.median(one[1] for one in taken)


def exponent(counts: list[int], seconds: list[float]) -> float:
    """Slope in a plot of two logarithmic axes."""
    return float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])


def series(title: str, counts: list[int], files: list[list[Path]], rounds: int) -> None:
    """One table: a line for each side, a column for each number of rows."""
    print(f"\n{title}\n")
    print("| | " + " | ".join(f"{count:,}" for count in counts) + " | exponent |")
    print("| --- |" + " ---: |" * (len(counts) + 1))
    for side in SIDES:
        found = [measured(side, rounds, *paths) for paths in files]
        cells = [f"{seconds:.2f} s, {extra:,.0f} MB" for seconds, extra in found]
        print(f"| {side} | {' | '.join(cells)} | {exponent(counts, [one[0] for one in found]):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of rows")
    parser.add_argument("--folder", type=Path, help="where the embeddings go, and stay: 0.6 GB; a temporary one else")
    parser.add_argument("--one", nargs="+", metavar="SIDE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)

        def scaled(counts: tuple[int, ...]) -> list[int]:
            return [max(OF_A_CLASS * 2, int(count * given.scale)) for count in counts]

        threads = os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))
        print(f"{threads} threads; medians of {given.rounds} rounds; seconds and extra memory")
        counts = scaled(AGAINST_THEMSELVES)
        files = [[write(folder, f"rows-{n}", n, n // OF_A_CLASS, seed=1)] for n in counts]
        series("Rows against themselves", counts, files, given.rounds)
        (queries,), galleries = scaled((QUERIES,)), scaled(GALLERIES)
        files = [
            [
                write(folder, f"queries-{queries}-{n}", queries, n // OF_A_CLASS, seed=2),
                write(folder, f"gallery-{n}", n, n // OF_A_CLASS, seed=3),
            ]
            for n in galleries
        ]
        series(f"{queries:,} queries against galleries", galleries, files, given.rounds)


if __name__ == "__main__":
    main()
