"""The processes that train one network together, each on a share of every batch; most trainings have one alone."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class ProcessGroup:
    """Who this process is among those that train.

    All of a group call the same methods in the same order: each waits for the others.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes on this machine."""
    control: Any = None
    """Group of processes for what is not on the device (gloo, beside NCCL); None is the usual one."""

    @property
    def is_main(self) -> bool:
        """Whether this process alone writes and tells."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """Give this process's part of a batch or a split; parts differ by one sample at most."""
        return indices.tensor_split(self.size)[self.rank]

    def parallel(self, model: nn.Module) -> nn.Module:
        """Average a model's gradients over the group as they are computed; start from the main process's weights."""
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        return nn.parallel.DistributedDataParallel(
            model, device_ids=None if device.type == "cpu" else [device], gradient_as_bucket_view=True
        )

    def broadcast(self, buffers: Iterable[Tensor]) -> None:
        """Have everybody hold what the leader does, as the statistics of batch norm."""
        for buffer in buffers:
            if buffer.numel():
                distributed.broadcast(buffer, 0)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Add numbers up over the group."""
        if self.size == 1:
            return list(values)
        added = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(added, group=self.control)
        return added.tolist()

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Tell of each flag whether it is up in any process."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=self.control)
        return raised.bool().tolist()

    @property
    def agrees_every(self) -> int:
        """After so many steps it is agreed whether to stop: to ask at each of a thousand a second would cost."""
        return 1 if self.size == 1 else 8

    def agree(self, stop: bool, *leaders: bool) -> list[bool]:
        """Decide together: to stop if anybody wants to, the rest as the leader says."""
        return self.any_of([stop, *(self.is_main and flag for flag in leaders)])

    def gathered(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Give the leader everybody's plain values and tensors; to others, nothing."""
        if self.size == 1:
            return [state]
        held = io.BytesIO()
        torch.save(state, held)
        found: list[Any] | None = [None] * self.size if self.is_main else None
        distributed.gather_object(held.getvalue(), found, group=self.control)
        return [torch.load(io.BytesIO(one), weights_only=True) for one in found or []]

    def wait(self) -> None:
        """Go on once all are here."""
        if self.size > 1:
            distributed.barrier(group=self.control)


ALONE = ProcessGroup()
