"""Train a network: a generator of epoch results over a plain loop, which goes on from where it was stopped."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.data.augmentation import Augmentation
from torchmill.components.errors import UserError
from torchmill.components.initialization.standardized_model import StandardizedModel, blank
from torchmill.components.initialization.weights import save_weights
from torchmill.components.refs import DataRef
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import USUAL_BATCH_SIZE, TrainConfig
from torchmill.components.training.distributed.process_group import ALONE, ProcessGroup
from torchmill.components.training.losses import make_loss
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.components.training.rng import seed_all
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import Training

# How often the progress is told, seconds: telling it makes the processor wait for the device.
PROGRESS_SECONDS = 0.25
ALIKE = 32
"""Batches of sequences among which those of like length are put together."""


class Stopped(Exception):
    """The training was asked to stop, and did so between two steps."""


class NotFinite(UserError):
    """A loss or the weights became infinite or undefined."""


def fit(
    setup: TrainingSetup,
    checkpoints: Checkpoints,
    best: Path,
    *,
    resume_from: dict[str, Any] | None = None,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    process_group: ProcessGroup = ALONE,
) -> Iterator[EpochResult]:
    """Train ``network`` in place and yield after each epoch; at the end its best weights are in it and in ``best``.

    The best epoch is the one of the least validation loss. The order of samples and their augmentation are functions
    of seed and epoch alone, all else that decides what comes next is in the checkpoints: a training that goes on from
    one takes the very steps that it would have taken.

    Args:
        resume_from: a checkpoint, which is used up; the epochs that it has behind it are yielded first.
        should_stop: asked after each step.
        config: with nothing left open that trials settle.
        process_group: processes that train together, each calling this with its own device. A batch is that of all of
            them; the first alone writes checkpoints and weights, and tells the progress.

    Raises:
        NotFinite: the loss is no longer a number; says from where. The last good checkpoint is kept.
        Stopped: ``should_stop`` said so; a checkpoint of that very step is there if the disk took it.
        UserError: memory does not even suffice for single samples, the disk is full at the end, or the network
            does not bear channels-last.
    """
    network, data, config, device, seed = setup.network, setup.data, setup.config, setup.device, setup.seed
    model = as_trained(network, config, device, data)
    augment = Augmentation(config, data, seed)
    objective = make_loss(config, data, setup.training).to(device)
    training, validation = setup.training.to(device), setup.validation.to(device)
    least = 2 * process_group.size
    batch_size = known_batch_size(config)
    steps = len(batch_orders(len(training), batch_size, seed, epoch=1, least=least))
    state = Training(model, objective, data.task, config, device, steps * config.epochs, process_group)
    seed_all((seed + 1_000_003 * process_group.rank) % 2**32)  # dropout and whatever else the network draws
    if resume_from:
        state.restore(resume_from)
        yield from state.history
    yielded = len(state.history)
    # The processor may look at each loss at once. Another device would have to be waited for at each step: there it is
    # looked at now and then, and where one was bad, the steps since the last checkpoint are taken again with care.
    careful = device.type == "cpu"
    if not (careful or resume_from):
        state.keep(checkpoints, at_all_costs=True)

    while not state.is_over:
        epoch, started, told = state.epoch, time.perf_counter(), time.perf_counter()
        batches = batch_orders(len(training), batch_size, seed, epoch, least, training.lengths)
        state.train_mode()
        left = batches[state.batch :]
        for batch, (inputs, labels) in zip(left, training.ahead(map(process_group.share, left)), strict=True):
            inputs, labels = augment(
                inputs, labels, epoch, state.batch * process_group.size + process_group.rank, process_group.share(batch)
            )
            loss = state.step(inputs, labels, len(inputs) * process_group.size / len(batch))
            if careful and not math.isfinite(loss.item()):
                raise _not_finite("loss", loss.item(), state.epoch, state.batch + 1, state.reason(inputs))
            state.update(loss, len(inputs))

            if state.batch % process_group.agrees_every:
                continue
            due, tell = checkpoints.is_due(), time.perf_counter() - told > PROGRESS_SECONDS
            stop, due, tell = process_group.agree(should_stop(), due, tell)
            if not (stop or due or tell):
                continue
            if not state.is_finite():
                break
            if tell:
                on_progress(state.progress())
                told = time.perf_counter()
            if stop or due:
                state.seconds += time.perf_counter() - started
                state.keep(checkpoints)
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
            process_group.wait()
            state.restore(_last_good(checkpoints))
            continue

        result = state.end_epoch(validation_loss, validation_score)
        stop, due = process_group.agree(should_stop(), checkpoints.is_due(at_end_of_epoch=True))
        if state.is_over or stop or due:
            state.keep(checkpoints, at_all_costs=state.is_over)
        if result.epoch > yielded:  # not again, where the steps since a checkpoint were taken twice
            yielded = result.epoch
            yield result
        if stop and not state.is_over:
            raise Stopped
    state.give_best(network)
    if process_group.is_main:
        save_weights(network, best)


def known_batch_size(config: TrainConfig) -> int:
    """The number of samples in a batch; the usual one as long as it is to be found yet."""
    return USUAL_BATCH_SIZE if config.batch_size is None else config.batch_size


def batch_orders(
    samples: int, batch_size: int, seed: int, epoch: int, least: int = 2, lengths: Tensor | None = None
) -> Sequence[Tensor]:
    """Indices of each batch of an epoch.

    A last batch of fewer samples than ``least`` is left out (others each epoch): batch norm cannot train on one.

    Args:
        lengths: of sequences, which share batches with others of like length, since what fills up the shorter ones is
            computed for nothing: a random order is sorted within windows of ``ALIKE`` batches, whose order is random.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(samples, generator=rng)
    if lengths is not None:
        windows = order.split(ALIKE * batch_size)
        order = torch.cat([window[lengths[window].argsort(stable=True)] for window in windows])
    batches = order.split(batch_size)
    batches = batches[:-1] if len(batches) > 1 and len(batches[-1]) < least else batches
    if lengths is None:
        return batches
    # Within a batch the order is random, too: processes that share it get long and short ones alike.
    mixed = [batch[torch.randperm(len(batch), generator=rng)] for batch in batches]
    return [mixed[number] for number in torch.randperm(len(mixed), generator=rng).tolist()]


def as_trained(network: nn.Module, config: TrainConfig, device: torch.device, data: DataRef) -> StandardizedModel:
    """Put a network on its device, in its memory format, behind the standardisation of its data; itself, no copy.

    One that is to be split among processes stays on the processor: the device may not take the whole of it.
    """
    channels_last = wants_channels_last(network, config, device, data)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    model = StandardizedModel.of(network, data, channels_last=channels_last, in_units=False)
    return model if config.shard == "on" else model.to(device)


@torch.no_grad()
def wants_channels_last(network: nn.Module, config: TrainConfig, device: torch.device, data: DataRef) -> bool:
    """Decide the memory format, and look whether the network, on the CPU, bears it.

    Channels-last is what convolution kernels of CPUs and of CUDA's tensor cores work in. ``auto`` takes it for
    networks with 2-d convolutions that bear it: a ``view`` behind a convolution, for one, fails on it.

    Raises:
        UserError: it is to be on, and the network does not bear it.
    """
    convolves = len(data.shape) == 3 and any(isinstance(layer, nn.Conv2d) for layer in network.modules())
    if config.shard == "on" or config.channels_last == "off" or (config.channels_last == "auto" and not convolves):
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
