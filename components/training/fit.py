"""Train a network: a generator of epoch results over a plain loop, which goes on from where it was stopped."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.config import TrainConfig
from components.data.augment import Augmentation
from components.data.batches import Samples
from components.errors import UserError
from components.initialize import outputs_of, save_weights
from components.raw_model import RawModel, blank
from components.refs import MEASURES, DataRef, Task
from components.training.average import Average, set_buffer
from components.training.checkpoint import Checkpoints
from components.training.diagnosis import first_not_finite
from components.training.losses import Objective, make_loss, score_sum
from components.training.optimizers import clip_gradients, last_layer, make_optimizer
from components.training.precision import Arithmetic
from components.training.progress import EpochResult, StepProgress
from components.training.randomness import random_states, seed_all, set_random_states
from components.training.schedules import PlateauLR, make_schedule

logger = logging.getLogger("torchmill")

# How often the progress is told, seconds: telling it makes the processor wait for the device.
PROGRESS_SECONDS = 0.25
VALIDATION_BATCH = 256


class Stopped(Exception):
    """The training was asked to stop, and did so between two steps."""


class NotFinite(UserError):
    """A loss or the weights became infinite or undefined."""


def fit(
    network: nn.Module,
    training: Samples,
    validation: Samples,
    data: DataRef,
    config: TrainConfig,
    device: torch.device,
    seed: int,
    checkpoints: Checkpoints,
    best: Path,
    *,
    resume_from: dict[str, Any] | None = None,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult]:
    """Train ``network`` in place and yield after each epoch; at the end its best weights are in it and in ``best``.

    The best epoch is the one of the least validation loss. The order of samples and their augmentation are functions
    of seed and epoch alone, all else that decides what comes next is in the checkpoints: a training that goes on from
    one takes the very steps that it would have taken.

    Args:
        resume_from: a checkpoint, which is used up; the epochs that it has behind it are yielded first.
        should_stop: asked after each step.

    Raises:
        NotFinite: the loss is no longer a number; says from where. The last good checkpoint is kept.
        Stopped: ``should_stop`` said so; a checkpoint of that very step is there if the disk took it.
        UserError: memory does not even suffice for single samples, the disk is full at the end, or the network
            does not bear channels-last.
    """
    channels_last = wants_channels_last(network, config, device, data)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    model = RawModel.of(network, data, channels_last=channels_last, in_units=False).to(device)
    augment = Augmentation(config, data, seed)
    objective = make_loss(config, data, training).to(device)
    training, validation = training.to(device), validation.to(device)
    steps = len(batch_orders(len(training), config.batch_size, seed, epoch=1))
    state = Training(model, objective, data.task, config, device, steps * config.epochs)
    seed_all(seed)  # dropout and whatever else the network draws
    if resume_from:
        state.restore(resume_from)
        yield from state.history
    yielded = len(state.history)
    # The processor may look at each loss at once. Another device would have to be waited for at each step: there it is
    # looked at now and then, and where one was bad, the steps since the last checkpoint are taken again with care.
    careful = device.type == "cpu"
    if not (careful or resume_from):
        checkpoints.save(state.as_dict())

    while not state.is_over:
        epoch, started, told = state.epoch, time.perf_counter(), time.perf_counter()
        batches = batch_orders(len(training), config.batch_size, seed, epoch)
        model.train()
        for layer in state.resting:
            layer.eval()
        while state.batch < len(batches):
            inputs, labels = training.take(batches[state.batch])
            inputs, labels = augment(inputs, labels, epoch, state.batch)
            loss = state.step(inputs, labels)
            if careful and not math.isfinite(loss.item()):
                with state.arithmetic.computing():
                    reason = first_not_finite(model, inputs.tensor_split(state.parts(len(inputs))))
                raise _not_finite("loss", loss.item(), state.epoch, state.batch + 1, reason)
            state.update(loss, len(inputs))

            stop, due, tell = should_stop(), checkpoints.is_due(), time.perf_counter() - told > PROGRESS_SECONDS
            if not (stop or due or tell):
                continue
            if not state.is_finite():
                break
            if tell:
                on_progress(state.progress())
                told = time.perf_counter()
            if stop or due:
                state.seconds += time.perf_counter() - started
                checkpoints.try_to_save(state.as_dict())
                started = time.perf_counter()
            if stop:
                raise Stopped
        finite = state.is_finite()  # which waits for the device: the clock counts what was computed
        state.seconds += time.perf_counter() - started
        validation_loss, validation_score = state.validate(validation) if finite else (math.nan, 0.0)
        if not math.isfinite(validation_loss):
            if careful:
                raise _not_finite("validation loss or a weight", math.nan, state.epoch, state.batch, _broken(network))
            careful = True
            state.restore(_last_good(checkpoints))
            continue

        result = state.end_epoch(validation_loss, validation_score)
        stop = should_stop()
        if state.is_over:
            checkpoints.save(state.as_dict())
        elif stop or checkpoints.is_due(at_end_of_epoch=True):
            checkpoints.try_to_save(state.as_dict())
        if result.epoch > yielded:  # not again, where the steps since a checkpoint were taken twice
            yielded = result.epoch
            yield result
        if stop and not state.is_over:
            raise Stopped
    state.give_best(network)
    save_weights(network, best)


class Training:
    """Everything that decides what comes next in a training."""

    def __init__(
        self, model: RawModel, objective: Objective, task: Task, config: TrainConfig, device: torch.device, steps: int
    ):
        self.model, self.objective, self.task = model, objective, task
        self.config, self.device = config, device
        self.optimizer = make_optimizer(model.network, config, device)
        self.arithmetic = Arithmetic(config.precision, device)
        self.clip, _, limit = config.clip.partition(":")
        self.clip_limit = float(limit or 0)
        self.last_layer = last_layer(model.network)
        self.resting = resting(model.network)
        self.schedule = make_schedule(self.optimizer, config, steps)
        self.ema = Average(model, config.ema) if config.ema else None
        self.epoch, self.batch = 1, 0
        """The step that comes next: the epoch counted from 1, its batch from 0."""
        self.history: list[EpochResult] = []
        self.best: dict[str, Any] = {}
        self.best_loss, self.best_epoch = math.inf, 0
        self.micro_batch: int | None = None
        self.validation_batch = VALIDATION_BATCH
        self.lr = 0.0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.total_loss = torch.zeros((), device=self.device)
        whole = self.task == "classification"  # samples are counted, other scores added up
        self.total_score = torch.zeros((), device=self.device, dtype=torch.int64 if whole else torch.float32)
        self.seen, self.seconds = 0, 0.0

    @property
    def judged(self) -> RawModel:
        """What is validated and kept: the network, or its moving average."""
        return self.ema.model if self.ema else self.model

    @property
    def is_over(self) -> bool:
        return bool(self.history) and self.history[-1].is_last

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute the gradient of a batch; gives its mean loss.

        Where the memory does not suffice, the batch goes through in halves, and in halves of these, whose gradients
        add up to the batch's.
        """
        while True:
            try:
                return self._accumulate(inputs, labels)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                before = min(self.micro_batch or len(labels), len(labels))
                if before < 2:
                    raise _too_little_memory() from error
            except ValueError as error:
                if self.micro_batch and "more than 1 value" in str(error):  # of batch norm, in torch's words
                    raise _too_little_memory() from error
                raise
            self.micro_batch = (before + 1) // 2
            logger.warning(
                "The memory does not take %d samples at once: from now on %d, and gradients are accumulated "
                "over the same batch of %d.",
                *(before, self.micro_batch, len(labels)),
            )
            self._free_memory()

    def _accumulate(self, inputs: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        parts = self.parts(len(labels))
        if parts == 1:
            loss, score = self._pass(inputs, labels)
        else:
            shares = [
                self._pass(some_inputs, some_labels, len(some_labels) / len(labels))
                for some_inputs, some_labels in zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True)
            ]
            loss, score = (torch.stack(values).sum() for values in zip(*shares, strict=True))
        self.total_score += score  # only once the whole batch has gone through
        return loss

    def _pass(self, inputs: Tensor, labels: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Go forth and back; gives the mean loss times its share of the batch, and the sum of scores."""
        with self.arithmetic.computing():
            output = self.model(inputs)
            loss = self.objective(output, labels)
        if share < 1:
            loss = loss * share
        self.arithmetic.backward(loss)
        return loss.detach(), score_sum(self.task, outputs_of(output)[0].detach(), labels)

    def parts(self, samples: int) -> int:
        """In how many parts a batch goes through."""
        return -(-samples // self.micro_batch) if self.micro_batch else 1

    def validate(self, split: Samples) -> tuple[float, float]:
        """Give mean loss and score of what is kept, in parts that the memory takes."""
        while True:
            try:
                with self.arithmetic.computing():
                    return validate(self.judged, self.objective, self.task, split, self.validation_batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.validation_batch < 2:
                    raise _too_little_memory() from error
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
            raise _too_little_memory() if is_out_of_memory(error) else error from error
        self.lr = max(group["lr"] for group in self.optimizer.param_groups)
        self.arithmetic.advance(self.schedule)
        if self.ema:
            self.ema.update(self.model)
        self.batch += 1
        self.seen += samples
        self.total_loss.add_(loss, alpha=samples)

    def progress(self) -> StepProgress:
        return StepProgress(
            self.epoch, self.seen, self.total_loss.item() / self.seen, self.total_score.item() / self.seen
        )

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Tell whether loss and weights are numbers; waits for the device."""
        weights = [weight for weight in self.model.parameters() if weight.is_floating_point()]
        sums = torch.stack([self.total_loss, *(weight.sum(dtype=torch.float32) for weight in weights)])
        return bool(torch.isfinite(sums).all())

    def end_epoch(self, validation_loss: float, validation_score: float) -> EpochResult:
        """Take the epoch that is over to the history, and begin the next."""
        is_best = validation_loss < self.best_loss
        if is_best:
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = {name: value.clone() for name, value in self.judged.network.state_dict().items()}
        patience = self.config.patience
        out_of_patience = patience is not None and self.epoch - self.best_epoch >= patience
        result = EpochResult(
            epoch=self.epoch,
            measure=MEASURES[self.task],
            train_loss=self.total_loss.item() / self.seen,
            train_score=self.total_score.item() / self.seen,
            validation_loss=validation_loss,
            validation_score=validation_score,
            lr=self.lr,
            samples_per_second=self.seen / self.seconds,
            is_best=is_best,
            is_last=out_of_patience or self.epoch == self.config.epochs,
            micro_batch=self.micro_batch,
        )
        self.history.append(result)
        if isinstance(self.schedule, PlateauLR):
            self.schedule.judge(validation_loss)
        self.epoch, self.batch = self.epoch + 1, 0
        self._begin_epoch()
        return result

    def give_best(self, network: nn.Module) -> None:
        """Put the best weights into the network."""
        network.load_state_dict(self.best)

    PLAIN = (
        *("epoch", "batch", "total_loss", "total_score", "seen", "seconds", "best", "best_loss", "best_epoch"),
        *("micro_batch", "validation_batch", "lr"),
    )

    def as_dict(self) -> dict[str, Any]:
        """Give the state as tensors and plain values."""
        network = self.model.network
        return {
            **{name: getattr(self, name) for name in self.PLAIN},
            "history": [dataclasses.asdict(result) for result in self.history],
            "network": network.state_dict(),
            # All of them: those that it does not want saved with its weights may still decide the next step.
            "buffers": dict(network.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.arithmetic.scaler.state_dict(),
            "ema": self.ema.as_dict() if self.ema else None,
            "random": random_states(self.device),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go back, or on, to a state that ``as_dict`` gave."""
        for name in self.PLAIN:
            value = state[name]
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
        set_random_states(state["random"], self.device)


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


def batch_orders(samples: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Indices of each batch of an epoch.

    A last batch of one sample is left out (another one each epoch): batch norm cannot train on it.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    batches = torch.randperm(samples, generator=rng).split(batch_size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


@torch.no_grad()
def validate(
    model: nn.Module, objective: Objective, task: Task, split: Samples, batch_size: int = VALIDATION_BATCH
) -> tuple[float, float]:
    """Give mean loss and score in evaluation mode."""
    model.eval()
    loss, score = 0.0, 0.0
    for inputs, labels in split.batches(batch_size):
        output = model(inputs)
        loss += objective(output, labels).item() * len(labels)
        score += score_sum(task, output, labels).item()
    return loss / len(split), score / len(split)


@torch.no_grad()
def wants_channels_last(network: nn.Module, config: TrainConfig, device: torch.device, data: DataRef) -> bool:
    """Decide the memory format, and look whether the network, on the CPU, bears it.

    Channels-last is what convolution kernels of CPUs and of CUDA's tensor cores work in. ``auto`` takes it for
    networks with 2-d convolutions that bear it: a ``view`` behind a convolution, for one, fails on it.

    Raises:
        UserError: it is to be on, and the network does not bear it.
    """
    convolves = len(data.shape) == 3 and any(isinstance(layer, nn.Conv2d) for layer in network.modules())
    if config.channels_last == "off" or (config.channels_last == "auto" and not convolves):
        return False
    if config.channels_last == "auto" and device.type not in ("cpu", "cuda"):
        return False
    modes = {layer: layer.training for layer in network.modules()}
    network.eval().to(memory_format=torch.channels_last)
    try:
        with torch.random.fork_rng(devices=[]):
            network(blank(data).to(memory_format=torch.channels_last))
    except RuntimeError as error:
        if config.channels_last == "on":
            raise UserError(
                f"The network fails on channels-last images: {' '.join(str(error).split())}",
                "Leave --train.channels_last at auto, or write reshape for view.",
            ) from error
        return False
    finally:
        network.to(memory_format=torch.contiguous_format)
        for layer, mode in modes.items():
            layer.training = mode
    return True


def _too_little_memory() -> UserError:
    return UserError(
        "The memory does not suffice for a single sample, or for what the optimizer keeps.",
        "Take a smaller network, an optimizer that keeps less, or another device.",
    )


def _last_good(checkpoints: Checkpoints) -> dict[str, Any]:
    state = checkpoints.newest()
    if state is None:
        raise NotFinite("The loss is no longer a number, and the checkpoints are gone.", "Try a smaller --train.lr.")
    return state


def _broken(network: nn.Module) -> str:
    broken = [name for name, weight in network.named_parameters() if not torch.isfinite(weight).all()]
    if not broken:
        return "all weights are finite: the network itself gives it in evaluation mode"
    return f"the update left {broken[0]}{f' and {len(broken) - 1} more' if broken[1:] else ''} not finite"


def _not_finite(which: str, value: float, epoch: int, step: int, reason: str) -> NotFinite:
    return NotFinite(
        f"The {which} became {value} in epoch {epoch}, step {step}: {reason}.",
        "Try a smaller --train.lr, or look there for a division, a logarithm or a root.",
    )
