"""The training loop: train a network, yield each epoch's result, and resume from any checkpoint."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torchmill.components.initialization.weights import save_weights
from torchmill.components.training.batches import batch_size_of, epoch_batches
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from torchmill.components.training.nonfinite import NotFinite, nonfinite_weights
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.components.training.rng import seed_all
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import TrainingState

REPORT_SECONDS = 0.25
"""Seconds between progress reports. Each one makes the CPU wait for the device."""


class Stopped(Exception):
    """``should_stop`` returned True, and training stopped between two steps."""


def fit(
    setup: TrainingSetup,
    checkpoints: Checkpoints,
    best: Path,
    *,
    resume_from: dict[str, Any] | None = None,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Iterator[EpochResult]:
    """Train the network in place, yield each epoch's result, and leave it with the weights of its best epoch.

    The best epoch has the lowest validation loss. Sample order and augmentation depend on seed and epoch alone, and
    checkpoints hold all other state: a resumed training takes the same steps as one that was never interrupted.

    Args:
        best: file for the best epoch's weights, written at the end.
        resume_from: content of a checkpoint, modified by the training. The epochs in it are yielded first.
        on_progress: called within an epoch, every ``REPORT_SECONDS``.
        should_stop: called after each step and at the end of each epoch.
        process_group: processes that train together. Each calls this function with its own device and computes on its
            share of every batch; the main process alone writes files.

    Raises:
        NotFinite: the loss is infinite or NaN; the message names the layer. The last good checkpoint remains.
        Stopped: ``should_stop`` returned True. The newest checkpoint is of the last step, unless the disk was full.
        UserError: a single sample doesn't fit in memory, or the disk is full at the end.

    Example:
        >>> for epoch in fit(setup, Checkpoints(folder, 30), folder / "best.safetensors"):  # doctest: +SKIP
        ...     print(epoch.epoch, epoch.validation_loss)
    """
    config, device, seed = setup.config, setup.device, setup.seed
    augment = setup.augmentation()
    batch_size, smallest = batch_size_of(config), 2 * process_group.world_size
    steps_per_epoch = len(epoch_batches(len(setup.training), batch_size, seed, 1, smallest))
    state = TrainingState.begin(setup, steps_per_epoch * config.epochs, process_group)
    training, validation = setup.training.to(device), setup.validation.to(device)

    seed_all((seed + 1_000_003 * process_group.rank) % 2**32)  # for dropout: each rank draws its own
    if resume_from:
        state.restore(resume_from)
        yield from state.history
    epochs_yielded = len(state.history)

    # Reading every loss is free on a CPU but stalls a GPU, so there it is read now and then. If one is not finite, we
    # go back to the last checkpoint and repeat the steps since, reading every loss, to find the first bad one.
    read_every_loss = device.type == "cpu"
    if not (read_every_loss or resume_from):
        state.save(checkpoints, required=True)

    while not state.is_over:
        epoch, started, reported = state.epoch, time.perf_counter(), time.perf_counter()
        batches = epoch_batches(len(training), batch_size, seed, epoch, smallest, training.lengths)[state.batch :]
        shares = [process_group.share(indices_B) for indices_B in batches]  # b: this process's part of batch B
        state.train_mode()
        for indices_B, indices_b, batch_b in zip(batches, shares, training.ahead(shares), strict=True):
            draw = state.batch * process_group.world_size + process_group.rank
            batch_b = augment(batch_b, epoch, draw, indices_b)
            weight = len(indices_b) * process_group.world_size / len(indices_B)
            for phase in state.due_phases():
                loss = state.step(batch_b, weight, phase)
                if read_every_loss and not math.isfinite(loss.item()):
                    raise NotFinite.in_step("loss", loss.item(), epoch, state.batch + 1, state.find_nonfinite(batch_b))
                state.update(loss, len(indices_b))

            if state.batch % process_group.agreement_interval:
                continue
            report_due = time.perf_counter() - reported > REPORT_SECONDS
            stop, save_due, report_due = process_group.agree(should_stop(), checkpoints.is_due(), report_due)
            if (stop or save_due or report_due) and not state.is_finite():
                break  # only good states are reported and saved
            if report_due:
                on_progress(state.progress())
                reported = time.perf_counter()
            if stop or save_due:
                state.seconds += time.perf_counter() - started
                state.save(checkpoints)
                started = time.perf_counter()
            if stop:
                raise Stopped

        finite = state.is_finite()  # waits for the device, so that the clock covers all of its work
        state.seconds += time.perf_counter() - started
        validation_loss, validation_score = state.validate(validation) if finite else (math.nan, 0.0)
        if not math.isfinite(validation_loss):
            if read_every_loss:
                reason = nonfinite_weights(setup.network)
                raise NotFinite.in_step("validation loss or a weight", math.nan, epoch, state.batch, reason)
            read_every_loss = True
            process_group.barrier()  # the main process may still be writing
            state.restore_newest(checkpoints)
            continue

        result = state.end_epoch(validation_loss, validation_score)
        stop, save_due = process_group.agree(should_stop(), checkpoints.is_due(at_end_of_epoch=True))
        if state.is_over or stop or save_due:
            state.save(checkpoints, required=state.is_over)
        if result.epoch > epochs_yielded:  # repeated steps may end an epoch twice
            epochs_yielded = result.epoch
            yield result
        if stop and not state.is_over:
            raise Stopped

    state.load_best(setup.network)
    if process_group.is_main:
        save_weights(setup.network, best)
