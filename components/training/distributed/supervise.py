"""Train in worker processes, one or several, on this machine or on more: start them, relay messages, explain failures.

If native code crashes or the system kills for memory, that ends the worker and not the process that waits for it.
"""

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from torchmill.components.errors import UserError
from torchmill.components.files import write_text
from torchmill.components.processes import processors
from torchmill.components.training.batches import batch_size_of
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.distributed.job import Job
from torchmill.components.training.distributed.launch import (
    ERROR,
    JOB,
    LOG,
    MESSAGES,
    RESTARTS,
    STOP,
    WORKER,
    Worker,
    launched,
    one_worker,
)
from torchmill.components.training.fit import Stopped
from torchmill.components.training.progress import EpochResult, StepProgress

logger = logging.getLogger("torchmill")

POLL_SECONDS = 0.05
"""Seconds between two looks for new messages."""


def processes_for(config: TrainConfig, device: torch.device) -> int:
    """Return the number of processes on each machine.

    Raises:
        UserError: this machine has fewer cards, or a batch is too small to share.
    """
    cards = getattr(torch, device.type).device_count() if device.type in ("cuda", "xpu") else None
    processes = int(config.processes) if config.processes != "auto" else cards if cards and device.index is None else 1
    if processes > 1 and cards is not None and processes > cards:
        raise UserError(f"--train.processes {processes}: this machine has {cards} {device.type} devices.")
    world_size = processes * config.machines
    if world_size > 1 and batch_size_of(config) < 2 * world_size:
        raise UserError(
            f"--train.batch_size {batch_size_of(config)} leaves less than 2 samples for each of "
            f"{world_size} processes.",
            "Take a larger batch or fewer processes.",
        )
    if world_size > 1 and config.profile:
        raise UserError("--train.profile works with one process only.", "Leave --train.processes out, or set it to 1.")
    return processes


def train_in_subprocess(
    job: Job,
    processes: int = 1,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    on_resume: Callable[[int, int], None] = lambda _epoch, _step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult]:
    """Run a job in worker processes and yield its epochs, as ``fit`` does.

    If one of several workers dies, for example for lack of memory, all are restarted from the newest checkpoint. A
    single worker is not restarted, because it would die again.

    Args:
        processes: processes per machine.
        on_resume: called with the epoch and the step of the checkpoint that the training resumes from.

    Raises:
        Stopped: ``should_stop`` returned True.
        UserError: a worker raised it; or a single worker died, or one of several after ``RESTARTS`` restarts.
        RuntimeError: the user's code raised an error, whose traceback is in a note.

    Example:
        >>> for epoch in train_in_subprocess(job, processes=2):  # doctest: +SKIP
        ...     print(epoch.epoch, epoch.validation_loss)
    """
    world_size = processes * job.config.machines
    threads = torch.get_num_threads() if world_size == 1 else max(1, processors() // processes)
    epochs_yielded = current_epoch = 0
    with _start_workers(job, processes) as worker:
        write_text(worker.folder / JOB, job.model_copy(update={"threads": threads}).model_dump_json())
        if job.config.machines > 1:
            logger.info("fit  on each of the other machines: torchmill join %s", worker.folder)
        for message in _messages(worker, should_stop):
            match message.pop("kind"):
                case "epoch":
                    epoch = EpochResult(**message)
                    if epoch.epoch > epochs_yielded:  # a restarted worker sends earlier epochs again
                        epochs_yielded = current_epoch = epoch.epoch
                        yield epoch
                case "progress":
                    current_epoch = message["epoch"]
                    on_progress(StepProgress(**message))
                case "resumed" if message["restarted"]:
                    logger.warning(
                        "A training process died; all resume at epoch %d, step %d.", message["epoch"], message["step"]
                    )
                case "resumed":
                    on_resume(message["epoch"], message["step"])
                case "log":
                    logger.log(message["level"], "%s", message["text"])
                case "stopped":
                    raise Stopped
        _raise_failure(worker, world_size, current_epoch)


def _start_workers(job: Job, processes: int) -> AbstractContextManager[Worker]:
    config = job.config
    if processes * config.machines == 1:
        return one_worker()
    parent = job.checkpoints.parent if config.machines > 1 else None  # all machines see this folder
    return launched([*launcher_arguments(processes, config), *WORKER], _launcher_environment(config), parent, log=True)


def launcher_arguments(processes: int, config: TrainConfig) -> list[str]:
    """Return Python's arguments to run torch's elastic launcher for this machine's processes."""
    rendezvous = (
        ["--standalone"]
        if config.machines == 1
        else [
            *(f"--nnodes={config.machines}", "--rdzv-backend=c10d", f"--rdzv-endpoint={config.rendezvous}"),
            f"--rdzv-id=torchmill-{config.rendezvous}",
        ]
    )
    restarts = [f"--max-restarts={RESTARTS}", "--monitor-interval=0.1"]
    return ["-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={processes}", *restarts]


def _launcher_environment(config: TrainConfig) -> dict[str, str]:
    # Without this, restarted processes share the launcher's store, which lists dead processes, and wait for those.
    variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    if config.machines == 1:
        variables["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return variables


def join(folder: Path) -> None:
    """Join a training on several machines that another machine started; return at its end.

    Args:
        folder: folder that the first machine printed; this machine must see it under the same path.

    Raises:
        UserError: no training in the folder waits for machines, or processes on this one died repeatedly.
    """
    try:
        job = Job.model_validate_json((folder / JOB).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no training that waits for machines.",
            "Copy the line that the first machine printed; this machine must see the folder under the same path.",
        ) from error
    processes = processes_for(job.config, torch.device(job.device))
    arguments = [*launcher_arguments(processes, job.config), *WORKER, str(folder)]
    with launched(arguments, _launcher_environment(job.config), log=True) as worker:
        if worker.process.wait():
            raise UserError(_death_message(worker.folder / LOG, processes))


def _messages(worker: Worker, should_stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Yield the main worker's messages until all processes have ended."""
    messages, stop = worker.folder / MESSAGES, worker.folder / STOP
    messages.touch()
    with messages.open("rb") as file:
        incomplete = b""
        while True:
            ended = worker.process.poll() is not None  # before reading: after its end it writes no more
            if should_stop() and not stop.exists():
                stop.touch()
            new = file.read()
            *lines, incomplete = (incomplete + new).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # a killed worker leaves half a line
                    yield json.loads(line)
            if ended:
                return
            if not new:
                time.sleep(POLL_SECONDS)


def _raise_failure(worker: Worker, world_size: int, epoch: int) -> None:
    """Raise the error that ended the workers, if one did."""
    code = worker.process.wait()
    if (worker.folder / ERROR).exists():
        report = json.loads((worker.folder / ERROR).read_text(encoding="utf-8"))
        if "remedy" in report:
            raise UserError(report["message"], report["remedy"])
        error = RuntimeError(report["message"])
        error.add_note(f"\nIn the training's own process:\n{report['traceback']}")
        raise error
    if code and world_size > 1:
        raise UserError(_death_message(worker.folder / LOG, world_size), "Is there enough memory for all of them?")
    if code:
        raise UserError(
            f"The training process was ended by {_cause(code)}{f' in epoch {epoch}' * bool(epoch)}.",
            "The same command resumes from the last checkpoint.",
        )


def _cause(code: int) -> str:
    """Describe an exit code other than 0."""
    if code == -signal.SIGKILL:
        return "SIGKILL, which the system sends when memory runs out"
    if code == -signal.SIGABRT:
        return "SIGABRT, by which native code gives up, for example if it gets no memory"
    if code < 0:
        return f"{signal.Signals(-code).name}, a crash in native code"
    return f"itself, with exit code {code}"


def _death_message(log: Path, processes: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    reasons = [line.strip() for line in lines if "exitcode" in line or "Error" in line][-3:]
    return f"One of {processes} training processes died, {RESTARTS + 1} times: {'; '.join(reasons) or 'unknown cause'}."
