"""The group of processes that train one network, each on its share of every batch."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place in its group, and the group's collective operations.

    All processes call the same operations in the same order, because each operation waits for all of them.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine."""
    control: Any = None
    """Group for CPU values: gloo, beside NCCL for the device. None is torch's default group."""

    @property
    def is_main(self) -> bool:
        """True in the process that alone writes files and reports progress."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """Return this process's share of a batch or a split; shares differ by one sample at most."""
        return indices.tensor_split(self.world_size)[self.rank]

    def parallel(self, model: nn.Module) -> nn.Module:
        """Wrap a model so that gradients are averaged over the group; copies the main process's weights to all."""
        if self.world_size == 1:
            return model
        device = next(model.parameters()).device
        return nn.parallel.DistributedDataParallel(
            model, device_ids=None if device.type == "cpu" else [device], gradient_as_bucket_view=True
        )

    def broadcast(self, buffers: Iterable[Tensor]) -> None:
        """Copy the main process's buffers, for example batch norm's statistics, to all processes."""
        for buffer in buffers:
            if buffer.numel():
                distributed.broadcast(buffer, 0)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sum each value over the group."""
        if self.world_size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(totals, group=self.control)
        return totals.tolist()

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is True in any process."""
        if self.world_size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=self.control)
        return raised.bool().tolist()

    @property
    def agreement_interval(self) -> int:
        """Steps between agreements: a collective at each of a thousand steps a second would be slow."""
        return 1 if self.world_size == 1 else 8

    def agree(self, stop: bool, *flags: bool) -> list[bool]:
        """Return the same flags in all processes: ``stop`` if any wants to stop, the others from the main process."""
        return self.any_of([stop, *(self.is_main and flag for flag in flags)])

    def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the states of all ranks, of tensors and plain values, to the main process; to others, nothing."""
        if self.world_size == 1:
            return [state]
        buffer = io.BytesIO()
        torch.save(state, buffer)
        contents: list[Any] | None = [None] * self.world_size if self.is_main else None
        distributed.gather_object(buffer.getvalue(), contents, group=self.control)
        return [torch.load(io.BytesIO(content), weights_only=True) for content in contents or []]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            distributed.barrier(group=self.control)


SINGLE_PROCESS = ProcessGroup()
