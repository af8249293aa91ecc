"""Train in processes of their own, by torch's elastic launcher: one on each card, or sharing the processor."""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from components.config import TrainConfig
from components.device import processors
from components.errors import UserError
from components.files import locked, write_text
from components.training.fit import Stopped
from components.training.job import Job
from components.training.progress import EpochResult, StepProgress
from components.training.worker import JOB, MISTAKE, PARENT, PIPE, STOP

logger = logging.getLogger("torchmill")

ROOT = Path(__file__).parents[2]
RESTARTS = 3
"""Of all processes, where one has died; they go on from the newest checkpoint."""
LISTEN_SECONDS = 0.1
LEAVE_SECONDS = 30.0


def processes_for(config: TrainConfig, device: torch.device) -> int:
    """How many processes train.

    Raises:
        UserError: there are fewer cards, or batches are too small to be shared.
    """
    cards = getattr(torch, device.type).device_count() if device.type in ("cuda", "xpu") else None
    if config.processes == "auto":
        return 1 if cards is None or device.index is not None else cards
    wanted = int(config.processes)
    if wanted > 1 and cards is not None and wanted > cards:
        raise UserError(f"--train.processes {wanted}: this machine has {cards} {device.type} devices.")
    if wanted > 1 and config.batch_size < 2 * wanted:
        raise UserError(
            f"--train.batch_size {config.batch_size} leaves less than 2 samples for each of {wanted} processes.",
            "Take a larger batch or fewer processes.",
        )
    if wanted > 1 and config.profile:
        raise UserError("--profile looks at one process.", "Leave --train.processes out.")
    return wanted


def train_together(
    job: Job,
    processes: int,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult]:
    """Do a job in several processes; as ``fit``, for each batch is still that of all of them.

    A process that dies, as by the system's want of memory, costs the steps since the newest checkpoint: all are
    started again from it.

    Raises:
        Stopped: ``should_stop`` said so.
        UserError: the user's, of one of them; or processes died again and again.
    """
    with tempfile.TemporaryDirectory(prefix="torchmill-") as place:
        folder = Path(place)
        write_text(folder / JOB, job.model_dump_json())
        os.mkfifo(folder / PIPE)
        with locked(folder / PARENT), (folder / "log").open("wb") as log:
            with _launched(folder, processes, log) as launcher:
                told = 0
                for message in _messages(folder, launcher, should_stop):
                    match message.pop("kind"):
                        case "epoch":
                            epoch = EpochResult(**message)
                            if epoch.epoch > told:  # those before a restart are told again
                                told = epoch.epoch
                                yield epoch
                        case "progress":
                            on_progress(StepProgress(**message))
                        case "log":
                            logger.log(message["level"], "%s", message["text"])
                        case "stopped":
                            raise Stopped
            if (folder / MISTAKE).exists():
                raise UserError(*json.loads((folder / MISTAKE).read_text(encoding="utf-8")))
            if launcher.returncode:
                raise UserError(_died(folder / "log", processes), "Does the memory suffice for all of them?")


@contextlib.contextmanager
def _launched(folder: Path, processes: int, log: Any) -> Generator[subprocess.Popen[bytes]]:
    """Have the processes run; they are ended when the block is left before they are done."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
        *(f"--max-restarts={RESTARTS}", "--monitor-interval=0.1"),
        *("-m", "components.training.worker", str(folder)),
    ]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(max(1, processors() // processes)),
        # The launcher's own, shared by default, still knows the dead: those that are started again wait for them.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),  # all of them are on this machine
    }
    launcher = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield launcher
        launcher.wait()
    finally:
        if launcher.poll() is None:
            launcher.terminate()  # which it passes on
            try:
                launcher.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()


def _messages(
    folder: Path, launcher: subprocess.Popen[bytes], should_stop: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Give what the leader tells, until all processes have ended."""
    # Open for writing, too, so that it never ends: after a restart another process writes into it.
    pipe = os.open(folder / PIPE, os.O_RDWR | os.O_NONBLOCK)
    try:
        held = b""
        while True:
            ended = launcher.poll() is not None  # before it is read: nothing comes after that
            if should_stop() and not (folder / STOP).exists():
                (folder / STOP).touch()
            ready, _, _ = select.select([pipe], [], [], 0 if ended else LISTEN_SECONDS)
            if ready:
                held += os.read(pipe, 1 << 16)
                *lines, held = held.split(b"\n")
                yield from map(json.loads, lines)
            elif ended:
                return
    finally:
        os.close(pipe)


def _died(log: Path, processes: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.strip() for line in lines if "exitcode" in line or "Error" in line][-3:]
    return f"Of {processes} training processes one died, {RESTARTS + 1} times: {'; '.join(told) or 'no word why'}."
