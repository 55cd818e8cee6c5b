"""The method `distill`: a student learns how the images of a batch lie to each other in a frozen teacher's space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metriclab.api import (
    Batch,
    Loss,
    Memory,
    Network,
    Objective,
    RecipeError,
    Rows,
    TableOf,
    apply_loss,
    concatenate,
    register,
)
from metriclab_distill.relations import angle_gap, correlation, cosine_gap, distance_gap, distribution_gap
from metriclab_distill.teacher_file import read_features

Objectives = Literal["cosine", "relational", "distribution"]


class Outputs(NamedTuple):
    """What this rank's images give: a row of the student's for each image and view, and the teacher's of its image."""

    student: Rows
    teacher: Float[Tensor, "n d"]


@register("method", "distill")
class Distill(nn.Module):
    """Distillation: the student's similarities of images become those of a frozen teacher. Without labels, or with.

    The teacher's features of all training images, of their test view, are computed once before the first step, or read
    from a file, and never after: an epoch costs what the student costs. The teacher is no part of checkpoints, and is
    not needed to use the student. What is compared is how images lie to each other, among those of one view of a batch,
    so that teacher and student may have different dimensions; the loss is the mean over views. What is learned:

    - cosine: the mean over pairs of (s - t)^2, of the student's cosine s and the teacher's t;
    - relational (RKD): Huber's loss of distances, each side's over its mean distance, and of the cosines of the angles
      in triples of images. O(N^3) time;
    - distribution (CompRess): the Kullback-Leibler divergence of the softmax of an image's cosines with the others, and
      with the embeddings of earlier batches in a memory, from the teacher's. With against = "teacher" the student's
      embedding is held against the teacher's features themselves, its own image's among them (SEED): the head then has
      the teacher's dimensions.

    With a loss, that loss over the labels is added. Logged are `distillation`, its part of the loss, and `agreement`,
    the correlation of s and t over the pairs of the batch. Each rank computes the loss over the rows of all.

    Paper: Park et al., Relational Knowledge Distillation, CVPR 2019; Koohpayegani et al., CompRess: Self-Supervised
    Learning by Compressing Representations, NeurIPS 2020; Fang et al., SEED: Self-supervised Distillation for Visual
    Representation, ICLR 2021; Tung & Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, for cosines.

    Args:
        network: the student: encoder and head.
        objective: which of the three.
        teacher: table of its encoder, [method.teacher]: as [encoder] has it, weights of a run folder too.
        teacher_features: in its place a .npy or .safetensors file with a row a training image; one of `metriclab embed`
            is matched by the paths in it.
        loss: any over labels, beside the distillation.
        memory: of embeddings of earlier batches, for distribution.
        weight: factor of the distillation, which says something beside a loss.
        distance_weight: of distances in relational; the paper takes 1.
        angle_weight: of angles in relational; the paper takes 2.
        temperature: of the student's softmax; CompRess takes 0.04, SEED 0.2.
        teacher_temperature: of the teacher's softmax; CompRess takes 0.04, SEED 0.01.
        against: whose features the student's embedding is held against in distribution.

    Raises:
        RecipeError: for no teacher or two, a memory that has no use, one of learned rows, and a head that has not the
            teacher's dimensions where it must.
        DataError: for a file that has not the features of the training images.
    """

    def __init__(
        self,
        network: Network,
        /,
        *,
        objective: Objectives = "cosine",
        teacher: Annotated[dict[str, object] | None, TableOf("encoder")] = None,
        teacher_features: str | None = None,
        loss: Loss | None = None,
        memory: Memory | None = None,
        weight: Annotated[float, Gt(0)] = 1.0,
        distance_weight: Annotated[float, Ge(0)] = 1.0,
        angle_weight: Annotated[float, Ge(0)] = 2.0,
        temperature: Annotated[float, Gt(0)] = 0.04,
        teacher_temperature: Annotated[float, Gt(0)] = 0.04,
        against: Literal["student", "teacher"] = "student",
    ) -> None:
        super().__init__()
        _check(objective, teacher, teacher_features, memory, against)
        self.network, self.loss, self.memory = network, loss, memory
        self.relation, self.weight = objective, weight
        self.teacher, self.teacher_features = teacher, teacher_features
        self.distance_weight, self.angle_weight = distance_weight, angle_weight
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.against = against
        self.known: Tensor | None = None  # no state: computed anew where a run is resumed

    def prepare(self, names: Sequence[str], features: Callable[[Mapping[str, object]], Float[Tensor, "n d"]]) -> None:
        """Takes in the teacher's features of all training images."""
        if self.teacher is not None:
            self.known = features(self.teacher)
        else:
            assert self.teacher_features is not None
            device = next(self.network.parameters()).device
            self.known = read_features(Path(self.teacher_features), names).to(device)
        head: Any = self.network.head
        student, teacher = head.out_features, self.known.shape[1]
        if self.against == "teacher" and student != teacher:
            raise RecipeError(
                f"the student's embedding has {student} dimensions, and the teacher's features {teacher}",
                help=f"set head.embedding_dim = {teacher}, or method.against = 'student'",
            )

    def forward(self, batch: Batch) -> Outputs:
        views = self.network.views(batch.views)
        student = batch.rows([view.z for view in views], labels=batch.labels)
        return Outputs(student, self._teacher_of(batch.items, student.z).repeat(len(views), 1))

    def _teacher_of(self, items: Tensor, like: Tensor) -> Float[Tensor, "n d"]:
        if self.known is None:
            raise RecipeError(
                "method 'distill' has no features of its teacher yet",
                help="in a loop of your own, call method.prepare(names, features) before the first step",
            )
        return self.known[items].to(like)

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        # Of all rows, on each rank: relations are between rows of different ranks, and no sum over anchors.
        views = [world.student.views == view for view in torch.unique(world.student.views)]
        gaps = [self._gap(world.student[view], world.teacher[view]) for view in views]
        distillation = torch.stack(gaps).mean()
        loss = self.weight * distillation
        if self.loss is not None:
            loss = loss + apply_loss(self.loss, local.student, world.student)
        return Objective(loss, {"distillation": distillation.detach(), "agreement": _agreement(world)})

    def _gap(self, student: Rows, teacher: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        if self.relation == "cosine":
            return cosine_gap(student.z, teacher)
        if self.relation == "relational":
            distances = self.distance_weight * distance_gap(student.z, teacher)
            return distances + self.angle_weight * angle_gap(student.z, teacher)
        references, of_teacher = student, teacher
        if self.memory is not None:
            held = self.memory.rows()
            held = held[held.items >= 0]  # an empty slot has a negative item
            references = concatenate([student, held])
            of_teacher = torch.cat([teacher, self._teacher_of(held.items, teacher)])
        used = student.items[:, None] != references.items[None, :]
        if self.against == "teacher":
            own = torch.eye(*used.shape, dtype=torch.bool, device=used.device)
            cosines, used = student.z @ of_teacher.T, used | own
        else:
            cosines = student.z @ references.z.T
        return distribution_gap(cosines, teacher @ of_teacher.T, used, self.temperature, self.teacher_temperature)

    def after_step(self, world: Outputs, step: int) -> None:
        if self.memory is not None:
            self.memory.push(world.student)


@torch.no_grad()
def _agreement(world: Outputs) -> Float[Tensor, ""]:
    """The correlation of the cosines of student and teacher over the pairs of the first view."""
    first = world.student.views == world.student.views.min()
    student, teacher = world.student.z[first], world.teacher[first]
    pairs: Bool[Tensor, "n n"] = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    return correlation(student @ student.T, teacher @ teacher.T, pairs)


def _check(
    objective: str,
    teacher: Mapping[str, object] | None,
    teacher_features: str | None,
    memory: Memory | None,
    against: str,
) -> None:
    if (teacher is None) == (teacher_features is None):
        raise RecipeError(
            "method 'distill' has no teacher" if teacher is None else "method 'distill' has two teachers",
            help="add [method.teacher] with the table of an encoder, or teacher_features = 'file', and not both",
        )
    if objective != "distribution" and (memory is not None or against == "teacher"):
        what = "the memory has" if memory is not None else "against = 'teacher' has"
        raise RecipeError(f"{what} no use with objective = '{objective}'", help="set objective = 'distribution'")
    if isinstance(memory, nn.Module) and any(True for _ in memory.parameters()):
        raise RecipeError(
            "method 'distill' remembers embeddings of images, and this memory has learned rows of its own",
            help='set memory.name = "ring"',
        )
