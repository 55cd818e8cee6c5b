"""Everything that several processes do together; the one importer of torch.distributed.

In: this rank's tensors, in `Rows`, tuples, lists and dicts. Out: those of all ranks, sums and means over them.
"""

from metriclab.distributed.collectives import (
    any_rank,
    average_gradients,
    barrier,
    broadcast_module,
    broadcast_object,
    gather_objects,
    mean,
    on_every_rank,
    on_first_rank,
    total,
    total_with_gradient,
)
from metriclab.distributed.failures import act_together
from metriclab.distributed.gathering import gather, map_tensors
from metriclab.distributed.group import local_group, meeting_place, process_group, rank, rank_slice, world_size

__all__ = [
    "act_together",
    "any_rank",
    "average_gradients",
    "barrier",
    "broadcast_module",
    "broadcast_object",
    "gather",
    "gather_objects",
    "local_group",
    "map_tensors",
    "mean",
    "meeting_place",
    "on_every_rank",
    "on_first_rank",
    "process_group",
    "rank",
    "rank_slice",
    "total",
    "total_with_gradient",
    "world_size",
]
