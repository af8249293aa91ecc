"""Train a network: a generator of epoch results over a plain loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from components.config import TrainConfig
from components.data.batches import LabelledImages
from components.errors import UserError
from components.initialize import save_weights
from components.pixels import PixelClassifier
from components.refs import DataRef, FileRef
from components.training import checkpoint
from components.training.optimizers import make_optimizer, make_schedule
from components.training.progress import EpochResult, StepProgress


@dataclass(frozen=True)
class Files:
    """Where ``fit`` keeps its results: weights of the best epoch, state after the last one."""

    folder: Path

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    def best_ref(self) -> FileRef:
        return FileRef.of(self.best)

    def last_ref(self) -> FileRef:
        return FileRef.of(self.last)


# How often the progress is told, seconds: telling it makes the processor wait for the device.
PROGRESS_SECONDS = 0.25


def fit(
    network: nn.Module,
    training: LabelledImages,
    validation: LabelledImages,
    data: DataRef,
    config: TrainConfig,
    device: torch.device,
    seed: int,
    files: Files,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
) -> Iterator[EpochResult]:
    """Train ``network`` in place and yield after each epoch.

    The order of samples is a function of seed and epoch alone. The best epoch is the one of the least
    validation loss; its weights and the state after the last epoch are on disk when the epoch is yielded.

    Raises:
        UserError: the loss is no longer a number, the disk is full, or the network does not bear channels-last.
    """
    channels_last = wants_channels_last(network, config, device, data)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    model = PixelClassifier(network, data.mean, data.std, channels_last).to(device)
    training, validation = training.to(device), validation.to(device)
    steps = len(batch_orders(len(training), config.batch_size, seed, epoch=1))
    optimizer = make_optimizer(network, config, device)
    schedule = make_schedule(optimizer, config, steps * config.epochs)
    best_loss, best_epoch = math.inf, 0
    torch.manual_seed(seed)  # dropout and whatever else the network draws

    for epoch in range(1, config.epochs + 1):
        model.train()
        total_loss = torch.zeros((), device=device)
        total_right = torch.zeros((), device=device, dtype=torch.int64)
        seen, started, told = 0, time.perf_counter(), time.perf_counter()
        for batch in batch_orders(len(training), config.batch_size, seed, epoch):
            batch = batch.to(device)
            labels = training.labels[batch]
            logits = model(training.pixels[batch])
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lr = optimizer.param_groups[0]["lr"]
            schedule.step()

            seen += len(labels)
            total_loss += loss.detach() * len(labels)
            total_right += (logits.detach().argmax(1) == labels).sum()
            if time.perf_counter() - told > PROGRESS_SECONDS:
                on_progress(StepProgress(epoch, seen, _finite(total_loss, epoch) / seen, total_right.item() / seen))
                told = time.perf_counter()
        train_loss = _finite(total_loss, epoch) / seen
        seconds = time.perf_counter() - started

        validation_loss, validation_accuracy = validate(model, validation)
        if not math.isfinite(validation_loss):
            raise _not_finite("validation loss", validation_loss, epoch)
        is_best = validation_loss < best_loss
        if is_best:
            best_loss, best_epoch = validation_loss, epoch
            save_weights(network, files.best)
        out_of_patience = config.patience is not None and epoch - best_epoch >= config.patience
        checkpoint.save(
            {
                "epoch": epoch,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "best_loss": best_loss,
                "best_epoch": best_epoch,
                "random_state": torch.get_rng_state(),
            },
            files.last,
        )
        yield EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=total_right.item() / seen,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            lr=lr,
            images_per_second=seen / seconds,
            is_best=is_best,
            is_last=out_of_patience or epoch == config.epochs,
        )
        if out_of_patience:
            return


def batch_orders(samples: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Indices of each batch of an epoch.

    A last batch of one sample is left out (another one each epoch): batch norm cannot train on it.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    batches = torch.randperm(samples, generator=rng).split(batch_size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


@torch.no_grad()
def validate(model: nn.Module, split: LabelledImages, batch_size: int = 256) -> tuple[float, float]:
    """Give mean cross-entropy (nats) and accuracy in evaluation mode."""
    model.eval()
    loss, right = 0.0, 0
    for pixels, labels in split.batches(batch_size):
        logits = model(pixels)
        loss += cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
    return loss / len(split), right / len(split)


@torch.no_grad()
def wants_channels_last(network: nn.Module, config: TrainConfig, device: torch.device, data: DataRef) -> bool:
    """Decide the memory format, and look whether the network, on the CPU, bears it.

    Channels-last is what convolution kernels of CPUs and of CUDA's tensor cores work in. ``auto`` takes it for
    networks with 2-d convolutions that bear it: a ``view`` behind a convolution, for one, fails on it.

    Raises:
        UserError: it is to be on, and the network does not bear it.
    """
    convolves = any(isinstance(layer, nn.Conv2d) for layer in network.modules())
    if config.channels_last == "off" or (config.channels_last == "auto" and not convolves):
        return False
    if config.channels_last == "auto" and device.type not in ("cpu", "cuda"):
        return False
    modes = {layer: layer.training for layer in network.modules()}
    network.eval().to(memory_format=torch.channels_last)
    try:
        with torch.random.fork_rng(devices=[]):
            network(torch.zeros(2, *data.image_shape).to(memory_format=torch.channels_last))
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


def _finite(total_loss: Tensor, epoch: int) -> float:
    loss = total_loss.item()
    if not math.isfinite(loss):
        raise _not_finite("loss", loss, epoch)
    return loss


def _not_finite(which: str, loss: float, epoch: int) -> UserError:
    return UserError(
        f"The {which} became {loss} in epoch {epoch}.",
        "Try a smaller --train.lr, or look for a division or a logarithm in the network.",
    )
