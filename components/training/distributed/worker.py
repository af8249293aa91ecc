"""A worker process that trains, alone or under torch's launcher.

The main worker writes its messages into a file of the folder; a worker that fails writes its error into another.
"""

import contextlib
import dataclasses
import faulthandler
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers import it at their first use; importing it here uses the time before the job comes
from torch import distributed

from torchmill.components.errors import UserError
from torchmill.components.files import write_text
from torchmill.components.processes import keep_freed_memory
from torchmill.components.training.device import resolve
from torchmill.components.training.distributed.job import Job, train
from torchmill.components.training.distributed.launch import ERROR, JOB, MESSAGES, PATHS, STOP
from torchmill.components.training.distributed.parent_watch import watch_parents
from torchmill.components.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from torchmill.components.training.fit import Stopped
from torchmill.components.training.precision import resolve_precision
from torchmill.components.training.profiling import profiled
from torchmill.components.user_code.importing import first_hand

logger = logging.getLogger("torchmill")

Send = Callable[[str, dict[str, Any]], None]
"""Function that sends a message of a kind to the parent."""

POLL_SECONDS = 0.02
"""Seconds between two looks for the job."""


def main(folder: Path, *parents: Path) -> int:
    """Wait for a job in ``folder``, run it, and return the exit code.

    Args:
        parents: further folders with a parent's lock: on a machine that joined, the folder of its `torchmill join`.
    """
    faulthandler.enable()
    keep_freed_memory()
    os.environ.pop("PYTHONSAFEPATH", None)  # meant for this process, not for those that the user's code starts
    while not (folder / JOB).exists():
        time.sleep(POLL_SECONDS)
    if (folder / ERROR).exists():  # the launcher restarted us, but the same error would end us again
        return 0
    paths = json.loads((parents[0] if parents else folder).joinpath(PATHS).read_bytes())
    sys.path += [path for path in paths if path not in sys.path]  # at the end: our own modules come first
    job = Job.model_validate_json((folder / JOB).read_bytes())
    if job.threads:
        torch.set_num_threads(job.threads)
    if resolve_precision(job.config.precision, resolve(job.device)) != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 for operations that autocast leaves in fp32
    try:
        with joined_group(job) as process_group, message_sender(folder, process_group) as send:
            run_job(job, process_group, send, should_stop=(folder / STOP).exists)
            process_group.barrier()
    except UserError as error:
        write_text(folder / ERROR, json.dumps({"message": error.message, "remedy": error.remedy}))
        return 1
    except Exception as error:  # the network's code can raise anything
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise  # another process may have died; the launcher restarts all
        write_text(folder / ERROR, json.dumps({"message": first_hand(error), "traceback": traceback.format_exc()}))
        return 1
    return 0


def wait_for_folder(stdin: BufferedReader) -> int:
    """Read the folder's path from stdin, in a process forked in advance, and wait for a job there."""
    folder = stdin.readline().decode().rstrip("\n")
    if not folder:
        return 0
    watch_parents(Path(folder))
    return main(Path(folder))


def run_job(job: Job, process_group: ProcessGroup, send: Send, should_stop: Callable[[], bool]) -> None:
    """Train from the newest checkpoint, and send progress and epochs."""
    checkpoint = job.open_checkpoints().newest()
    if checkpoint:
        restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        send("resumed", {"epoch": checkpoint["epoch"], "step": checkpoint["batch"], "restarted": restarted})
    process_group.barrier()  # all have read the checkpoint before the main process writes the next one
    with (
        profiled(job.best.parent, resolve(job.device)) if job.config.profile else contextlib.nullcontext() as after_step
    ):
        epochs = train(
            *(job, checkpoint),
            on_progress=lambda progress: send("progress", dataclasses.asdict(progress)),
            should_stop=should_stop,
            process_group=process_group,
            after_step=after_step,
        )
        try:
            for epoch in epochs:
                send("epoch", dataclasses.asdict(epoch))
        except Stopped:
            send("stopped", {})


@contextlib.contextmanager
def joined_group(job: Job) -> Generator[ProcessGroup]:
    """Join the process group that torch's launcher describes in the environment, if it started us."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield SINGLE_PROCESS
        return
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = resolve(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = distributed.new_group(backend="gloo") if device.type == "cuda" else None
    try:
        yield ProcessGroup(rank, world_size, local_rank, control)
    finally:
        distributed.destroy_process_group()


class _LogForwarder(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, send: Send):
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send("log", {"level": record.levelno, "text": record.getMessage()})


@contextlib.contextmanager
def message_sender(folder: Path, process_group: ProcessGroup) -> Generator[Send]:
    """Yield a function that sends messages to the parent; in all but the main worker it does nothing.

    Log records are sent, too.
    """
    if not process_group.is_main:
        yield lambda kind, content: None
        return
    with (folder / MESSAGES).open("a", encoding="utf-8") as file:
        file.write("\n")  # a killed worker before us may have left half a line

        def send(kind: str, content: dict[str, Any]) -> None:
            file.write(json.dumps({"kind": kind, **content}) + "\n")
            file.flush()

        handler = _LogForwarder(send)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield send
        finally:
            logger.removeHandler(handler)
