"""TensorBoard for metriclab."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le
from torch.utils.tensorboard import SummaryWriter

from metriclab.api import register
from metriclab_tensorboard.shown import embed_some, retrieval_image

__all__ = ["TensorBoard"]


@register("tracker", "tensorboard")
class TensorBoard:
    """Curves while a run trains; after a finished run, test images in the projector, and what is nearest to some.

    Everything is in the folder `tensorboard` of the run: `tensorboard --logdir RUNS` shows all runs in a folder. Each
    log is on disk at once. A resumed run purges what was logged after its checkpoint, so no step is there twice.

    Args:
        folder: of the run.
        items: images of the test split, some of each of some classes, that are embedded at the end by the best
            checkpoint; 0 for curves alone.
        queries: how many of them are shown with what is nearest to them.
        nearest: images to show for each.
    """

    def __init__(
        self,
        folder: Path,
        /,
        *,
        items: Annotated[int, Ge(0), Le(10_000)] = 500,
        queries: Annotated[int, Ge(1), Le(100)] = 16,
        nearest: Annotated[int, Ge(1), Le(50)] = 8,
    ) -> None:
        self.folder = folder
        self.items, self.queries, self.nearest = items, queries, nearest
        self._writer: SummaryWriter | None = None

    def log(self, step: int, values: Mapping[str, float], /) -> None:
        """Writes one point a curve.

        Args:
            step: of the run, from 0.
            values: by name; "val.retrieval.map_at_r" goes under "val", a name without a dot under "train".
        """
        if self._writer is None:
            # Steps are run again from a checkpoint on, and logged as they were before: the first one logged now is the
            # first that must not be there from then.
            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(tag(name), value, step)
        self._writer.flush()

    def close(self) -> None:
        """Shows the embeddings if the run is finished, which a folder with a result is."""
        if self.items > 0 and (self.folder / "result.json").is_file():
            self._show()
        if self._writer is not None:
            self._writer.close()

    def _show(self) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder / "tensorboard"))  # resumed after the last step
        best: int = json.loads((self.folder / "result.json").read_text("utf-8"))["best_step"]
        some = embed_some(self.folder, self.items)
        self._writer.add_embedding(
            some.rows.z,
            metadata=[[*texts] for texts in zip(some.classes, some.names, strict=True)],
            metadata_header=["class", "name"],
            label_img=some.pictures,
            global_step=best,
            tag="test",
        )
        self._writer.add_image("retrieval", retrieval_image(some, self.queries, self.nearest), best)


def tag(name: str) -> str:
    """What TensorBoard calls a number: it groups charts by what stands before the first slash."""
    grouped = name.replace(".", "/")
    return grouped if "/" in grouped else f"train/{grouped}"
