"""What the ranks of a run tell each other in one step of training, and how long the step takes, on 1, 2 and 3 ranks.

    python benchmarks/ranks.py

SimCLR on synthetic images: the global batch stays the same, so each rank has a share of it. All ranks are gloo
processes of this machine with one thread each. Bytes are those that one rank sends, from the sizes of the tensors of
each collective, by the usual ring: an all-reduce of b bytes over W ranks sends 2 (W - 1) / W b, an all-gather in which
each rank brings b bytes sends (W - 1) b, and so does a reduce-scatter that leaves each rank b bytes. Seconds are
medians over steps, and say something only where each rank has a core of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

RECIPE = """
[data]
name = "synthetic"
per_class = {batch}
size = {size}

[views]
name = "simclr"
size = {size}

[sampler]
name = "shuffled"
batch_size = {batch}

[encoder]
name = "timm"
model = "{model}"

[head]
name = "mlp"

[loss]
name = "nt-xent"

[method]
name = "simclr"

[optimizer]
name = "sgd"
learning_rate = 0.05

[train]
steps = {steps}
synchronize_batch_norm = {synchronize}
"""

PURPOSES = ("gather", "gather, backward", "gradients", "batch norm", "counts")


class Traffic:
    """Bytes that this rank sends, and collectives that it takes part in, by purpose."""

    def __init__(self) -> None:
        self.sent, self.calls = Counter[str](), Counter[str]()

    def count(self, share: float, tensor: Any) -> None:
        self.sent[purpose()] += round(share * tensor.numel() * tensor.element_size())
        self.calls[purpose()] += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what passes torch.distributed for as long as the `with` lasts."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        real = dist.all_reduce, dist.all_gather, dist.reduce_scatter

        def all_reduce(tensor: Any, *arguments: Any, **options: Any) -> Any:
            self.count(2 * (world - 1) / world, tensor)
            return real[0](tensor, *arguments, **options)

        def all_gather(parts: Any, tensor: Any, *arguments: Any, **options: Any) -> Any:
            self.count(world - 1, tensor)
            return real[1](parts, tensor, *arguments, **options)

        def reduce_scatter(own: Any, parts: Any, *arguments: Any, **options: Any) -> Any:
            self.count(world - 1, own)
            return real[2](own, parts, *arguments, **options)

        dist.all_reduce, dist.all_gather, dist.reduce_scatter = all_reduce, all_gather, reduce_scatter
        try:
            yield
        finally:
            dist.all_reduce, dist.all_gather, dist.reduce_scatter = real


def purpose() -> str:
    """What a collective is for, by who called it."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_average":
            return "gradients"
        if code.co_qualname == "_Gather.forward":
            return "gather"
        if code.co_qualname == "_Gather.backward":
            return "gather, backward"
        if code.co_filename.endswith("batch_norm.py") or code.co_qualname == "_Total.backward":
            return "batch norm"
        frame = frame.f_back
    return "counts"


def train(share: Any, path: str, warm_up: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Of a step of this rank: bytes sent and collectives by purpose, and the median of its seconds."""
    from metriclab.assembly.assemble import assemble
    from metriclab.assembly.splits import load_splits
    from metriclab.recipe import read_recipe
    from metriclab.training.fit import fit

    recipe = read_recipe(Path(path))
    training = assemble(recipe, load_splits(recipe).train)
    steps = fit(training)
    for _ in range(warm_up):
        next(steps)
    traffic, seconds, clock = Traffic(), [], time.perf_counter()
    with traffic.counting():
        for _ in steps:
            seconds.append(time.perf_counter() - clock)
            clock = time.perf_counter()
    sent, calls = ({name: count / len(seconds) for name, count in of.items()} for of in (traffic.sent, traffic.calls))
    return sent, calls, statistics.median(seconds)


def table(title: str, found: dict[int, tuple[dict[str, float], dict[str, float], float]]) -> None:
    print(f"\n{title}\n")
    print(f"| ranks | {' | '.join(PURPOSES)} | all | collectives | step |")
    print("| ---: |" + " ---: |" * (len(PURPOSES) + 3))
    for ranks, (sent, calls, seconds) in found.items():
        cells = [size(sent.get(name, 0)) for name in PURPOSES]
        print(f"| {ranks} | {' | '.join(cells)} | {size(sum(sent.values()))} | {sum(calls.values()):.0f} | ", end="")
        print(f"{1000 * seconds:,.0f} ms |", flush=True)


def size(number: float) -> str:
    return (
        f"{number / 1e6:,.2f} MB" if number >= 1e5 else f"{number / 1e3:,.1f} kB" if number >= 100 else f"{number:.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="of timm")
    parser.add_argument("--batch", type=int, default=192, help="images of a step, over all ranks")
    parser.add_argument("--size", type=int, default=32, help="of the images")
    parser.add_argument("--steps", type=int, default=8, help="that are measured, after two others")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    import ranks  # not __main__: the other processes import it by name

    from metriclab.testing.ranks import on_ranks

    work: Callable[..., Any] = ranks.train
    with tempfile.TemporaryDirectory() as folder:
        for synchronize in ("true", "false"):
            values = {**vars(given), "steps": given.steps + 2, "synchronize": synchronize}
            path = Path(folder, f"synchronize-{synchronize}.toml")
            path.write_text(RECIPE.format(**values))
            found = {number: on_ranks(work, number, str(path), 2)[0] for number in given.ranks}
            of = "all ranks" if synchronize == "true" else "each rank"
            table(f"{given.model}, {given.batch} images at {given.size} px, statistics of BatchNorm over {of}", found)


if __name__ == "__main__":
    main()
