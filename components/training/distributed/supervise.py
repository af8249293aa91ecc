"""Train in processes of their own: alone, or several by torch's elastic launcher, one on each card or sharing the
processor, on this machine or on several.

A crash in native code, and the system's want of memory, end such a process and not whoever waits for it.
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
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.distributed.job import Job
from torchmill.components.training.distributed.launch import (
    JOB,
    LOG,
    MESSAGES,
    MISTAKE,
    RESTARTS,
    STOP,
    WORKER,
    Launched,
    launched,
    one_process,
)
from torchmill.components.training.fit import Stopped, known_batch_size
from torchmill.components.training.progress import EpochResult, StepProgress

logger = logging.getLogger("torchmill")

LISTEN_SECONDS = 0.05


def processes_for(config: TrainConfig, device: torch.device) -> int:
    """How many processes train, on each machine.

    Raises:
        UserError: there are fewer cards, or batches are too small to be shared.
    """
    cards = getattr(torch, device.type).device_count() if device.type in ("cuda", "xpu") else None
    wanted = int(config.processes) if config.processes != "auto" else cards if cards and device.index is None else 1
    if wanted > 1 and cards is not None and wanted > cards:
        raise UserError(f"--train.processes {wanted}: this machine has {cards} {device.type} devices.")
    world_size = wanted * config.machines
    if world_size > 1 and known_batch_size(config) < 2 * world_size:
        raise UserError(
            f"--train.batch_size {known_batch_size(config)} leaves less than 2 samples for each of "
            f"{world_size} processes.",
            "Take a larger batch or fewer processes.",
        )
    if world_size > 1 and config.profile:
        raise UserError("--profile looks at one process.", "Leave --train.processes out, or set it to 1.")
    return wanted


def train_in_subprocess(
    job: Job,
    processes: int = 1,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    on_resume: Callable[[int, int], None] = lambda _epoch, _step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult]:
    """Do a job in other processes; as ``fit``, for each batch is still that of all of them.

    Of several, one that dies, as by the system's want of memory, costs the steps since the newest checkpoint: all are
    started again from it. One alone is not, for it would die again.

    Args:
        processes: on each machine.
        on_resume: given the epoch and the step that an earlier process got to.

    Raises:
        Stopped: ``should_stop`` said so.
        UserError: the user's, of one of them; or it died, or of several one did again and again.
        RuntimeError: the network's own, with where it came from.
    """
    world_size = processes * job.config.machines
    threads = torch.get_num_threads() if world_size == 1 else max(1, processors() // processes)
    told = at = 0
    with _started(job, processes) as working:
        write_text(working.folder / JOB, job.model_copy(update={"threads": threads}).model_dump_json())
        if job.config.machines > 1:
            logger.info("fit  on each of the other machines: torchmill join %s", working.folder)
        for message in _messages(working, should_stop):
            match message.pop("kind"):
                case "epoch":
                    epoch = EpochResult(**message)
                    if epoch.epoch > told:  # those before a restart are told again
                        told = at = epoch.epoch
                        yield epoch
                case "progress":
                    at = message["epoch"]
                    on_progress(StepProgress(**message))
                case "resumed" if message["again"]:
                    logger.warning(
                        "A training process died; all go on at epoch %d, step %d.", message["epoch"], message["step"]
                    )
                case "resumed":
                    on_resume(message["epoch"], message["step"])
                case "log":
                    logger.log(message["level"], "%s", message["text"])
                case "stopped":
                    raise Stopped
        _raise_what_went_wrong(working, world_size, at)


def _started(job: Job, processes: int) -> AbstractContextManager[Launched]:
    config = job.config
    if processes * config.machines == 1:
        return one_process()
    place = job.checkpoints.parent if config.machines > 1 else None  # all machines see it
    return launched([*team_arguments(processes, config), *WORKER], _team_environment(config), place, quietly=True)


def team_arguments(processes: int, config: TrainConfig) -> list[str]:
    """What Python is to do for torch's launcher to have the processes of one machine run."""
    where = (
        ["--standalone"]
        if config.machines == 1
        else [
            *(f"--nnodes={config.machines}", "--rdzv-backend=c10d", f"--rdzv-endpoint={config.rendezvous}"),
            f"--rdzv-id=torchmill-{config.rendezvous}",
        ]
    )
    restarts = [f"--max-restarts={RESTARTS}", "--monitor-interval=0.1"]
    return ["-m", "torch.distributed.run", *where, f"--nproc-per-node={processes}", *restarts]


def _team_environment(config: TrainConfig) -> dict[str, str]:
    # The launcher's own store, shared by default, still knows the dead: those that are started again wait for them.
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    if config.machines == 1:
        own["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return own


def join(folder: Path) -> None:
    """Have this machine take part in a training of several that another one has begun.

    Args:
        folder: which that one told; both see it under this name.

    Raises:
        UserError: nobody waits there for other machines, or processes died here again and again.
    """
    try:
        job = Job.model_validate_json((folder / JOB).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no training that waits for machines.",
            "Copy the line that the first machine printed; the folder must be seen from here under the same name.",
        ) from error
    processes = processes_for(job.config, torch.device(job.device))
    with launched(
        [*team_arguments(processes, job.config), *WORKER, str(folder)], _team_environment(job.config), quietly=True
    ) as working:
        if working.process.wait():
            raise UserError(_died(working.folder / LOG, processes))


def _messages(working: Launched, should_stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Give what the leader tells, until all processes have ended."""
    place, stop = working.folder / MESSAGES, working.folder / STOP
    place.touch()
    with place.open("rb") as file:
        held = b""
        while True:
            ended = working.process.poll() is not None  # before it is read: nothing comes after that
            if should_stop() and not stop.exists():
                stop.touch()
            new = file.read()
            *lines, held = (held + new).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # half a line, of a leader that was killed
                    yield json.loads(line)
            if ended:
                return
            if not new:
                time.sleep(LISTEN_SECONDS)


def _raise_what_went_wrong(working: Launched, world_size: int, epoch: int) -> None:
    code = working.process.wait()
    if (working.folder / MISTAKE).exists():
        mistake = json.loads((working.folder / MISTAKE).read_text(encoding="utf-8"))
        if "remedy" in mistake:
            raise UserError(mistake["message"], mistake["remedy"])
        error = RuntimeError(mistake["message"])
        error.add_note(f"\nIn the training's own process:\n{mistake['traceback']}")
        raise error
    if code and world_size > 1:
        raise UserError(_died(working.folder / LOG, world_size), "Does the memory suffice for all of them?")
    if code:
        raise UserError(
            f"The training's process was ended by {_ended_by(code)}{f' in epoch {epoch}' * bool(epoch)}.",
            "The same command goes on from the last checkpoint.",
        )


def _ended_by(code: int) -> str:
    """What an exit code means, in words."""
    if code == -signal.SIGKILL:
        return "SIGKILL, as the system does where the memory does not suffice"
    if code < 0:
        return f"{signal.Signals(-code).name}, a crash in native code"
    return f"itself, with exit code {code}"


def _died(log: Path, processes: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.strip() for line in lines if "exitcode" in line or "Error" in line][-3:]
    return f"Of {processes} training processes one died, {RESTARTS + 1} times: {'; '.join(told) or 'no word why'}."
