"""State of a training: all that decides its next steps, and how a step changes it."""

import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from torchmill.components.data.reading import AnySamples
from torchmill.components.errors import UserError
from torchmill.components.initialization.pretrained import frozen_norms
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.compilation import Compiled
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from torchmill.components.training.ema import Ema, set_buffer
from torchmill.components.training.learning import AnyBatch, Learning, Model, make_learning
from torchmill.components.training.memory import free_cached_memory, is_out_of_memory, too_little_memory
from torchmill.components.training.memory_format import prepare_model
from torchmill.components.training.nonfinite import NotFinite
from torchmill.components.training.optimizers import clip_gradients, last_layer
from torchmill.components.training.phases import TrainedPhase, make_phases
from torchmill.components.training.precision import MixedPrecision
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.components.training.rng import rng_states, set_rng_states
from torchmill.components.training.schedules import ByValidationLoss
from torchmill.components.training.setup import TrainingSetup

logger = logging.getLogger("torchmill")

VALIDATION_BATCH = 256


class TrainingState:
    """Network, optimizer, schedule and counters of a training, with the operations of its loop.

    With several processes, all of them call the same methods in the same order.
    """

    def __init__(
        self,
        model: Model,
        learning: Learning,
        config: TrainConfig,
        device: torch.device,
        steps: int,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ):
        self.model, self.learning = model, learning
        self.config, self.device, self.process_group = config, device, process_group
        self.ema = Ema(model, config.ema) if config.ema else None
        self.parallel: Any = model if config.shard == "on" else process_group.parallel(model)
        if config.shard == "on":
            for sharded in (model, self.ema.model) if self.ema else (model,):
                self.fsdp.shard(sharded, device)
        if config.compile == "on":
            self.parallel = Compiled(self.parallel, device, varying=model.takes_tokens)
        self.precision = MixedPrecision(config.precision, device)
        self.clip, _, limit = config.clip.partition(":")
        self.clip_limit = float(limit or 0)
        self.last_layer = last_layer(model.network)
        self.frozen_norms = frozen_norms(model.network)
        self.phases = make_phases(model.network, learning.phases, config, device, steps)
        self.phase = self.phases[0]
        """Phase of the last gradient."""
        self.epoch, self.batch = 1, 0
        """Next step: its epoch, counted from 1, and its batch, counted from 0."""
        self.history: list[EpochResult] = []
        self.best: dict[str, Any] = {}
        self.best_loss, self.best_epoch = math.inf, 0
        self.micro_batch: int | None = None
        self.validation_batch = VALIDATION_BATCH
        self.lr = 0.0
        self._begin_epoch()

    @classmethod
    def begin(cls, setup: TrainingSetup, steps: int, process_group: ProcessGroup = SINGLE_PROCESS) -> "TrainingState":
        """Return the state before the first step. It trains the setup's network itself, not a copy.

        Args:
            steps: steps of the whole training, which the schedule spans.
        """
        model = prepare_model(setup.network, setup.config, setup.device, setup.data)
        return cls(model, make_learning(setup), setup.config, setup.device, steps, process_group)

    @property
    def fsdp(self) -> Any:
        """Module that shards networks; imported only if needed, because the import is slow."""
        from torchmill.components.training.distributed import fsdp

        return fsdp

    def _begin_epoch(self) -> None:
        self.total_loss = torch.zeros((), device=self.device)
        dtype = torch.int64 if self.learning.counts_right else torch.float32
        self.total_parts: dict[str, Tensor] = {}
        """Sums of the parts of the loss over the samples of the epoch."""
        self.total_score = torch.zeros((), device=self.device, dtype=dtype)
        self.seen, self.seconds = 0, 0.0

    @property
    def optimizer(self) -> Optimizer:
        """Optimizer of the first phase, which most trainings have alone."""
        return self.phases[0].optimizer

    @property
    def validated_model(self) -> Model:
        """The model that is validated and saved as the best: the EMA, if there is one."""
        return self.ema.model if self.ema else self.model

    @property
    def is_over(self) -> bool:
        return bool(self.history) and self.history[-1].is_last

    def train_mode(self) -> None:
        """Set train mode; frozen norms stay in eval mode."""
        self.model.train()
        for layer in self.frozen_norms:
            layer.eval()

    def due_phases(self) -> list[TrainedPhase]:
        """Return the phases of the next batch."""
        return [phase for phase in self.phases if self.batch % phase.every == 0]

    def step(self, batch: AnyBatch, weight: float = 1.0, phase: TrainedPhase | None = None) -> Tensor:
        """Compute the gradient of a batch and return its mean loss.

        If the batch doesn't fit in memory, it is halved until its parts fit, and their gradients are accumulated.

        Args:
            weight: weight of this process's gradient in the mean over all processes: 1 if their shares are equal.
            phase: phase of the step; the first by default.
        """
        self.phase, samples = phase or self.phases[0], self.learning.size(batch)
        while True:
            try:
                with self.phase.alone():
                    return self._accumulate(batch, samples, weight)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.process_group.world_size > 1:  # the others already wait for this process's gradient
                    raise UserError(
                        f"Process {self.process_group.rank} has too little memory for its {samples} samples of a "
                        "batch.",
                        "Take a smaller --train.batch_size, more processes, or --train.shard on, which shards the "
                        "network across them.",
                    ) from error
                before = min(self.micro_batch or samples, samples)
                if before < 2:
                    raise too_little_memory() from error
            except ValueError as error:
                if self.micro_batch and "more than 1 value" in str(error):  # torch's message if batch norm gets one
                    raise too_little_memory() from error
                if samples == 1 and "more than 1 value" in str(error):
                    raise UserError(
                        "Batch normalization can't train on a single sample, and each process gets batches of one.",
                        f"Set --train.batch_size to {2 * self.process_group.world_size} or more, or take nn.LayerNorm "
                        "or nn.GroupNorm in its place.",
                    ) from error
                raise
            self.micro_batch = (before + 1) // 2
            logger.warning(
                "%d samples at once don't fit in memory: from now on %d, and gradients are accumulated over the same "
                "batch of %d.",
                *(before, self.micro_batch, samples),
            )
            free_cached_memory(self.device)

    def _accumulate(self, batch: AnyBatch, samples: int, weight: float) -> Tensor:
        self.phase.optimizer.zero_grad()
        parts = self.parts(samples)
        if parts == 1:
            loss, score, named = self._pass(batch, weight=weight)
        else:
            results = [
                self._pass(part, self.learning.size(part) / samples) for part in self.learning.split(batch, parts)
            ]
            loss, score = (torch.stack(values).sum() for values in list(zip(*results, strict=True))[:2])
            named = {name: torch.stack([part[name] for _, _, part in results]).sum() for name in results[0][2]}
        self.total_score += score  # not before all parts have passed: a failed batch is repeated
        for name, value in named.items():
            self.total_parts[name] = self.total_parts.get(name, 0) + value * samples
        return loss

    def _pass(
        self, batch: AnyBatch, share: float = 1.0, weight: float = 1.0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Run forward and backward; return the mean loss and its parts times ``share``, and the sum of scores.

        Args:
            share: share of these samples in the process's part of the batch.
        """
        with self.precision.autocast():
            loss, score, parts = self.learning.forward(self.parallel, batch, self.phase.name)
        if share < 1:
            loss, parts = loss * share, {name: value * share for name, value in parts.items()}
        self.precision.backward(loss if weight == 1 else loss * weight)
        return loss.detach(), score, dict(parts)

    def parts(self, samples: int) -> int:
        """Return in how many parts a batch is passed."""
        return -(-samples // self.micro_batch) if self.micro_batch else 1

    def validate(self, split: AnySamples) -> tuple[float, float]:
        """Return mean loss and score of a split; each process computes its share of it."""
        if self.process_group.world_size == 1:
            return self._validate(split, len(split))
        self.process_group.broadcast(self.validated_model.network.buffers())
        if self.config.shard == "on" and len(split) < self.process_group.world_size:
            raise UserError(
                f"{len(split)} samples for validation are too few for {self.process_group.world_size} processes."
            )
        share = split.part(self.process_group.share(torch.arange(len(split))))
        largest_share = -(-len(split) // self.process_group.world_size)
        loss, score = self._validate(share, largest_share) if len(share) else (0.0, 0.0)
        total_loss, total_score = self.process_group.sums([loss * len(share), score * len(share)])
        return total_loss / len(split), total_score / len(split)

    def _validate(self, split: AnySamples, largest_share: int) -> tuple[float, float]:
        """Return mean loss and score of a split, passed in parts that fit in memory.

        Args:
            largest_share: samples of the process with the most. All processes pass that many parts.
        """
        while True:
            try:
                with self.precision.autocast():
                    parts = -(-largest_share // self.validation_batch)
                    return self.learning.validate(self.validated_model, split, parts)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.validation_batch < 2 or self.config.shard == "on":  # sharded, all must pass the same parts
                    raise too_little_memory() from error
            self.validation_batch = (self.validation_batch + 1) // 2
            free_cached_memory(self.device)

    def update(self, loss: Tensor, samples: int) -> None:
        """Update the weights by the gradient that ``step`` computed, and count the step.

        Args:
            loss: mean loss over this process's samples of the batch.
            samples: number of these samples.
        """
        phase = self.phase
        if self.clip != "none":
            self.precision.unscale(phase.optimizer)
            clip_gradients(phase.parameters, self.clip, self.clip_limit, self.last_layer)
        try:
            self.precision.step(phase.optimizer)
        except (RuntimeError, MemoryError) as error:  # the first step allocates the optimizer's state
            raise too_little_memory() if is_out_of_memory(error) else error from error
        self.lr = max(group["lr"] for group in phase.optimizer.param_groups)
        self.precision.step_schedule(phase.schedule)
        self.total_loss.add_(loss, alpha=samples)
        if phase is not self.due_phases()[-1]:
            return
        if self.ema:
            self.ema.update(self.model)
        self.batch += 1
        self.seen += samples

    def totals(self) -> tuple[int, float, float | None]:
        """Return the samples that all processes have seen in this epoch, and their mean loss and score."""
        loss, score, seen = self.process_group.sums([self.total_loss.item(), self.total_score.item(), self.seen])
        return int(seen), loss / seen, score / seen if self.learning.scores_training else None

    def progress(self) -> StepProgress:
        return StepProgress(self.epoch, *self.totals())

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Return True if loss and weights are finite in all processes."""
        weights = [weight for weight in self.model.parameters() if weight.is_floating_point()]
        if self.config.shard == "on":
            weights = [self.fsdp.local_shard(weight) for weight in weights]
        sums = torch.stack([self.total_loss, *(weight.sum(dtype=torch.float32) for weight in weights)])
        (is_bad,) = self.process_group.any_of([not torch.isfinite(sums).all()])
        return not is_bad

    def end_epoch(self, validation_loss: float, validation_score: float) -> EpochResult:
        """Add the finished epoch to the history, and begin the next one."""
        is_best = validation_loss < self.best_loss or self.learning.keeps_last
        if is_best:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = {name: value.clone() for name, value in self.validated_model.network.state_dict().items()}
        patience = self.config.patience
        seen, train_loss, train_score = self.totals()
        sums = self.process_group.sums([value.item() for value in self.total_parts.values()])
        out_of_patience = patience is not None and self.epoch - self.best_epoch >= patience
        result = EpochResult(
            epoch=self.epoch,
            measure=self.learning.measure,
            train_loss=train_loss,
            train_score=train_score,
            parts={name: total / seen for name, total in zip(self.total_parts, sums, strict=True)},
            validation_loss=validation_loss,
            validation_score=validation_score,
            lr=self.lr,
            samples_per_second=seen / self.seconds,
            is_best=is_best,
            is_last=out_of_patience or self.epoch == self.config.epochs,
            micro_batch=self.micro_batch,
        )
        self.history.append(result)
        for phase in self.phases:
            if isinstance(phase.schedule, ByValidationLoss):
                phase.schedule.judge(validation_loss)
        self.epoch, self.batch = self.epoch + 1, 0
        self._begin_epoch()
        return result

    def load_best(self, network: nn.Module) -> None:
        """Load the best weights into the network and, if it is sharded, unshard it."""
        network.load_state_dict(self.best)
        if self.config.shard == "on":
            self.fsdp.unshard(network)

    def find_nonfinite(self, batch: AnyBatch) -> str:
        """Describe the first value that is infinite or NaN when the network gets this batch."""
        if self.config.shard == "on":
            return "the network is sharded, so its layers were not searched"
        with self.precision.autocast():
            parts = self.learning.split(batch, self.parts(self.learning.size(batch)))
            return self.learning.find_nonfinite(self.model, parts)

    def save(self, checkpoints: Checkpoints, required: bool = False) -> None:
        """Write a checkpoint from the main process.

        Args:
            required: raise an error if the disk is full, instead of a warning.
        """
        content = self.as_dict()
        if self.process_group.is_main:
            (checkpoints.save if required else checkpoints.try_to_save)(content)

    SHARED = ("epoch", "batch", "seconds", "best", "best_loss", "best_epoch", "micro_batch", "validation_batch", "lr")
    """Attributes in a checkpoint that are the same in all processes."""
    PER_RANK = ("total_loss", "total_score", "total_parts", "seen")
    """Attributes in a checkpoint that each process has for its share of the batches."""

    def as_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values; only the main process gets all of it."""
        network = self.model.network
        state = {
            **{name: getattr(self, name) for name in self.SHARED},
            "history": [dataclasses.asdict(result) for result in self.history],
            "network": network.state_dict(),
            # All buffers: those that are not persistent may decide the next step, too.
            "buffers": dict(network.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.phases[0].schedule.state_dict(),
            "phases": [phase.as_dict() for phase in self.phases[1:]],
            "scaler": self.precision.scaler.state_dict(),
            "ema": self.ema.as_dict() if self.ema else None,
            "own": self.process_group.gather(
                {name: getattr(self, name) for name in self.PER_RANK} | {"random": rng_states(self.device)}
            ),
        }
        return self.fsdp.gather_full(state, keep=self.process_group.is_main) if self.config.shard == "on" else state

    def restore_newest(self, checkpoints: Checkpoints) -> None:
        """Go back to the newest checkpoint.

        Raises:
            NotFinite: no checkpoint is intact.
        """
        state = checkpoints.newest()
        if state is None:
            raise NotFinite("The loss is no longer finite, and no checkpoint is left.", "Try a smaller --train.lr.")
        self.restore(state)

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Load a state that ``as_dict`` returned."""
        if self.config.shard == "on":
            state = self.fsdp.shard_state(state, self.model.network, self.optimizer)
        per_rank = state["own"][self.process_group.rank]
        values = {name: state[name] for name in self.SHARED}
        values |= {name: per_rank[name] for name in self.PER_RANK if name in per_rank}  # not all are in old checkpoints
        for name, value in values.items():
            setattr(self, name, tree_map_only(Tensor, lambda tensor: tensor.to(self.device), value))
        self.history = [EpochResult(**result) for result in state["history"]]
        network = self.model.network
        for name, value in state["buffers"].items():
            set_buffer(network, name, value.to(self.device))
        network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.phases[0].schedule.load_state_dict(state["schedule"])
        for phase, saved in zip(self.phases[1:], state.get("phases", ()), strict=True):
            phase.restore(saved)
        self.precision.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.restore(state["ema"])
        set_rng_states(per_rank["random"], self.device)
