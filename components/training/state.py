"""Everything that decides what comes next in a training, and how a step changes it."""

import dataclasses
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components import tasks
from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import outputs_of
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.compilation import Compiled
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.distributed.process_group import ALONE, ProcessGroup
from torchmill.components.training.ema import Ema, set_buffer
from torchmill.components.training.losses import Objective
from torchmill.components.training.nonfinite import first_not_finite
from torchmill.components.training.optimizers import clip_gradients, last_layer, make_optimizer
from torchmill.components.training.precision import Arithmetic
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.components.training.rng import random_states, set_random_states
from torchmill.components.training.schedules import ByValidationLoss, make_schedule

logger = logging.getLogger("torchmill")

VALIDATION_BATCH = 256


class Training:
    """Everything that decides what comes next in a training."""

    def __init__(
        self,
        model: StandardizedModel,
        objective: Objective,
        task: str,
        config: TrainConfig,
        device: torch.device,
        steps: int,
        process_group: ProcessGroup = ALONE,
    ):
        self.model, self.objective, self.task = model, objective, tasks.task(task)
        self.config, self.device, self.process_group = config, device, process_group
        self.ema = Ema(model, config.ema) if config.ema else None
        self.parallel: Any = model if config.shard == "on" else process_group.parallel(model)
        if config.shard == "on":
            for split in (model, self.ema.model) if self.ema else (model,):
                self.sharding.shard(split, device)
        if config.compile == "on":
            self.parallel = Compiled(self.parallel, device, varying=model.takes_tokens)
        self.optimizer = make_optimizer(model.network, config, device)
        self.arithmetic = Arithmetic(config.precision, device)
        self.clip, _, limit = config.clip.partition(":")
        self.clip_limit = float(limit or 0)
        self.last_layer = last_layer(model.network)
        self.resting = resting(model.network)
        self.schedule = make_schedule(self.optimizer, config, steps)
        self.epoch, self.batch = 1, 0
        """The step that comes next: the epoch counted from 1, its batch from 0."""
        self.history: list[EpochResult] = []
        self.best: dict[str, Any] = {}
        self.best_loss, self.best_epoch = math.inf, 0
        self.micro_batch: int | None = None
        self.validation_batch = VALIDATION_BATCH
        self.lr = 0.0
        self._begin_epoch()

    @property
    def sharding(self) -> Any:
        """What splits networks among processes; imported only then, for it takes a while."""
        from torchmill.components.training.distributed import fsdp as sharding

        return sharding

    def _begin_epoch(self) -> None:
        self.total_loss = torch.zeros((), device=self.device)
        counted = torch.int64 if self.task.counts_right else torch.float32
        self.total_score = torch.zeros((), device=self.device, dtype=counted)
        self.seen, self.seconds = 0, 0.0

    @property
    def judged(self) -> StandardizedModel:
        """What is validated and kept: the network, or its moving average."""
        return self.ema.model if self.ema else self.model

    @property
    def is_over(self) -> bool:
        return bool(self.history) and self.history[-1].is_last

    def train_mode(self) -> None:
        """Have all layers train, but for the norms that rest."""
        self.model.train()
        for layer in self.resting:
            layer.eval()

    def step(self, inputs: Tensor, labels: Tensor, weight: float = 1.0) -> Tensor:
        """Compute the gradient of a batch; gives its mean loss.

        Where the memory does not suffice, the batch goes through in halves, and in halves of these, whose gradients
        add up to the batch's.

        Args:
            weight: of this process's part of the batch, beside those of others, in the mean of their gradients.
        """
        while True:
            try:
                return self._accumulate(inputs, labels, weight)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.process_group.size > 1:  # the others wait for gradients that do not come
                    raise UserError(
                        f"The memory of process {self.process_group.rank} does not take its "
                        f"{len(labels)} samples of a batch.",
                        "Take a smaller --train.batch_size, more processes, or --train.shard on, which splits the "
                        "network among them.",
                    ) from error
                before = min(self.micro_batch or len(labels), len(labels))
                if before < 2:
                    raise too_little_memory() from error
            except ValueError as error:
                if self.micro_batch and "more than 1 value" in str(error):  # of batch norm, in torch's words
                    raise too_little_memory() from error
                raise
            self.micro_batch = (before + 1) // 2
            logger.warning(
                "The memory does not take %d samples at once: from now on %d, and gradients are accumulated "
                "over the same batch of %d.",
                *(before, self.micro_batch, len(labels)),
            )
            self._free_memory()

    def _accumulate(self, inputs: Tensor, labels: Tensor, weight: float) -> Tensor:
        self.optimizer.zero_grad()
        parts = self.parts(len(labels))
        if parts == 1:
            loss, score = self._pass(inputs, labels, weight=weight)
        else:
            shares = [
                self._pass(some_inputs, some_labels, len(some_labels) / len(labels))
                for some_inputs, some_labels in zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True)
            ]
            loss, score = (torch.stack(values).sum() for values in zip(*shares, strict=True))
        self.total_score += score  # only once the whole batch has gone through
        return loss

    def _pass(self, inputs: Tensor, labels: Tensor, share: float = 1.0, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Go forth and back; gives the mean loss times its share of the batch, and the sum of scores."""
        with self.arithmetic.computing():
            output = self.parallel(inputs)
            loss = self.objective(output, labels)
        if share < 1:
            loss = loss * share
        self.arithmetic.backward(loss if weight == 1 else loss * weight)
        return loss.detach(), self.task.score_sum(outputs_of(output)[0].detach(), labels)

    def parts(self, samples: int) -> int:
        """In how many parts a batch goes through."""
        return -(-samples // self.micro_batch) if self.micro_batch else 1

    def validate(self, split: Samples) -> tuple[float, float]:
        """Give mean loss and score of what is kept; of a group, each process looks at its share."""
        if self.process_group.size == 1:
            return self._validate(split, len(split))
        self.process_group.broadcast(self.judged.network.buffers())
        if self.config.shard == "on" and len(split) < self.process_group.size:
            raise UserError(f"{len(split)} samples for validation are too few for {self.process_group.size} processes.")
        mine = split.part(self.process_group.share(torch.arange(len(split))))
        most = -(-len(split) // self.process_group.size)
        loss, score = self._validate(mine, most) if len(mine) else (0.0, 0.0)
        loss, score = (total / len(split) for total in self.process_group.sums([loss * len(mine), score * len(mine)]))
        return loss, score

    def _validate(self, split: Samples, most: int) -> tuple[float, float]:
        """Go through a split in parts that the memory takes.

        Args:
            most: samples that any process has, which decides into how many parts all of them go.
        """
        while True:
            try:
                with self.arithmetic.computing():
                    parts = -(-most // self.validation_batch)
                    return validate(self.judged, self.objective, self.task, split, parts)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.validation_batch < 2 or self.config.shard == "on":  # where the others go through the same parts
                    raise too_little_memory() from error
            self.validation_batch = (self.validation_batch + 1) // 2
            self._free_memory()

    def _free_memory(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).empty_cache()

    def update(self, loss: Tensor, samples: int) -> None:
        """Take the optimizer's step, with the gradient that ``step`` left."""
        if self.clip != "none":
            self.arithmetic.unscale(self.optimizer)
            clip_gradients(self.model.parameters(), self.clip, self.clip_limit, self.last_layer)
        try:
            self.arithmetic.step(self.optimizer)
        except (RuntimeError, MemoryError) as error:  # the first step makes the optimizer's own tensors
            raise too_little_memory() if is_out_of_memory(error) else error from error
        self.lr = max(group["lr"] for group in self.optimizer.param_groups)
        self.arithmetic.advance(self.schedule)
        if self.ema:
            self.ema.update(self.model)
        self.batch += 1
        self.seen += samples
        self.total_loss.add_(loss, alpha=samples)

    def totals(self) -> tuple[int, float, float]:
        """Samples seen in this epoch, by all of the group, their mean loss and score."""
        loss, score, seen = self.process_group.sums([self.total_loss.item(), self.total_score.item(), self.seen])
        return int(seen), loss / seen, score / seen

    def progress(self) -> StepProgress:
        return StepProgress(self.epoch, *self.totals())

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Tell whether loss and weights are numbers; waits for the device."""
        weights = [weight for weight in self.model.parameters() if weight.is_floating_point()]
        if self.config.shard == "on":
            weights = [self.sharding.local(weight) for weight in weights]
        sums = torch.stack([self.total_loss, *(weight.sum(dtype=torch.float32) for weight in weights)])
        (broken,) = self.process_group.any_of([not torch.isfinite(sums).all()])
        return not broken

    def end_epoch(self, validation_loss: float, validation_score: float) -> EpochResult:
        """Take the epoch that is over to the history, and begin the next."""
        is_best = validation_loss < self.best_loss
        if is_best:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = {name: value.clone() for name, value in self.judged.network.state_dict().items()}
        patience = self.config.patience
        seen, train_loss, train_score = self.totals()
        out_of_patience = patience is not None and self.epoch - self.best_epoch >= patience
        result = EpochResult(
            epoch=self.epoch,
            measure=self.task.main_measure,
            train_loss=train_loss,
            train_score=train_score,
            validation_loss=validation_loss,
            validation_score=validation_score,
            lr=self.lr,
            samples_per_second=seen / self.seconds,
            is_best=is_best,
            is_last=out_of_patience or self.epoch == self.config.epochs,
            micro_batch=self.micro_batch,
        )
        self.history.append(result)
        if isinstance(self.schedule, ByValidationLoss):
            self.schedule.judge(validation_loss)
        self.epoch, self.batch = self.epoch + 1, 0
        self._begin_epoch()
        return result

    def give_best(self, network: nn.Module) -> None:
        """Put the best weights into the network, which is whole again."""
        network.load_state_dict(self.best)
        if self.config.shard == "on":
            self.sharding.put_together(network)

    def reason(self, inputs: Tensor) -> str:
        """Tell where what the network gives for these inputs is no number first."""
        if self.config.shard == "on":
            return "the network is split among processes, and was not looked through"
        with self.arithmetic.computing():
            return first_not_finite(self.model, inputs.tensor_split(self.parts(len(inputs))))

    def keep(self, checkpoints: Checkpoints, at_all_costs: bool = False) -> None:
        """Have the main process write a checkpoint; it may be left out where the disk is full."""
        content = self.as_dict()
        if self.process_group.is_main:
            (checkpoints.save if at_all_costs else checkpoints.try_to_save)(content)

    PLAIN = (
        *("epoch", "batch", "seconds", "best", "best_loss", "best_epoch"),
        *("micro_batch", "validation_batch", "lr"),
    )
    OWN = ("total_loss", "total_score", "seen")
    """What each process of a group has for itself, as its chance."""

    def as_dict(self) -> dict[str, Any]:
        """Give the state as tensors and plain values."""
        network = self.model.network
        state = {
            **{name: getattr(self, name) for name in self.PLAIN},
            "history": [dataclasses.asdict(result) for result in self.history],
            "network": network.state_dict(),
            # All of them: those that it does not want saved with its weights may still decide the next step.
            "buffers": dict(network.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.arithmetic.scaler.state_dict(),
            "ema": self.ema.as_dict() if self.ema else None,
            "own": self.process_group.gathered(
                {name: getattr(self, name) for name in self.OWN} | {"random": random_states(self.device)}
            ),
        }
        return self.sharding.whole(state, keep=self.process_group.is_main) if self.config.shard == "on" else state

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go back, or on, to a state that ``as_dict`` gave."""
        if self.config.shard == "on":
            state = self.sharding.split_state(state, self.model.network, self.optimizer)
        own = state["own"][self.process_group.rank]
        for name, value in [*((name, state[name]) for name in self.PLAIN), *((name, own[name]) for name in self.OWN)]:
            setattr(self, name, value.to(self.device) if isinstance(value, Tensor) else value)
        self.history = [EpochResult(**result) for result in state["history"]]
        network = self.model.network
        for name, value in state["buffers"].items():
            set_buffer(network, name, value.to(self.device))
        network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.arithmetic.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.restore(state["ema"])
        set_random_states(own["random"], self.device)


def resting(network: nn.Module) -> list[nn.Module]:
    """Norms whose weights are frozen: they keep their statistics, too, or what stands on them would move."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        and (own := list(layer.parameters(recurse=False)))
        and not any(weight.requires_grad for weight in own)
    ]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is that the memory of a device, or of the processor, does not suffice."""
    # The processor's allocator and MPS have no class of their own for it.
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


@torch.no_grad()
def validate(
    model: nn.Module, objective: Objective, task: tasks.Task, split: Samples, parts: int = 1
) -> tuple[float, float]:
    """Give mean loss and score in evaluation mode, going through the split in so many parts."""
    model.eval()
    loss, score = 0.0, 0.0
    for inputs, labels in split.parts(parts):
        output = model(inputs)
        loss += objective(output, labels).item() * len(labels)
        score += task.score_sum(output, labels).item()
    return loss / len(split), score / len(split)


def too_little_memory() -> UserError:
    return UserError(
        "The memory does not suffice for a single sample, or for what the optimizer keeps.",
        "Take a smaller network, an optimizer that keeps less, or another device.",
    )
