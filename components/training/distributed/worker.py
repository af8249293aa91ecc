"""A process that trains, alone or as one of those of torch's launcher: `python -m` this module, and a folder.

The leader writes what it has to tell, a JSON object a line, into a file of the folder; whoever fails writes there why.
"""

import contextlib
import dataclasses
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which optimizers import when they are first used: better while there is nothing to do yet
from torch import distributed

from torchmill.components.errors import UserError
from torchmill.components.files import locked, write_text
from torchmill.components.training.device import resolve
from torchmill.components.training.distributed.job import Job, train
from torchmill.components.training.distributed.launch import JOB, MESSAGES, MISTAKE, PARENT, PATHS, STOP
from torchmill.components.training.distributed.process_group import ALONE, ProcessGroup
from torchmill.components.training.fit import Stopped
from torchmill.components.training.precision import resolve_precision
from torchmill.components.training.profiling import profiled
from torchmill.components.user_code.importing import first_hand

logger = logging.getLogger("torchmill")

Tell = Callable[[str, dict[str, Any]], None]

LOOK_SECONDS = 0.02


def main(folder: Path, *others: Path) -> int:
    """Wait for a job in ``folder``, and do it.

    Args:
        others: folders in which somebody waits for the result, too.
    """
    for place in (folder, *others):
        threading.Thread(target=_leave_with_the_parent, args=(place / PARENT,), daemon=True).start()
    faulthandler.enable()
    os.environ.pop("PYTHONSAFEPATH", None)  # was meant for this process, not for what the user's code starts
    while not (folder / JOB).exists():
        time.sleep(LOOK_SECONDS)
    if (folder / MISTAKE).exists():  # started again after it: no second attempt would end otherwise
        return 0
    paths = json.loads((others[0] if others else folder).joinpath(PATHS).read_bytes())
    sys.path += [path for path in paths if path not in sys.path]  # behind ours, which are imported by now
    job = Job.model_validate_json((folder / JOB).read_bytes())
    if job.threads:
        torch.set_num_threads(job.threads)
    if resolve_precision(job.config.precision, resolve(job.device)) != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays fp32 in a training of 16 bits
    try:
        with joined(job) as process_group, telling(folder, process_group) as tell:
            do(job, process_group, tell, should_stop=(folder / STOP).exists)
            process_group.wait()
    except UserError as error:
        write_text(folder / MISTAKE, json.dumps({"message": error.message, "remedy": error.remedy}))
        return 1
    except Exception as error:  # the network's code can fail in any way
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise  # it may be that another process has died; the launcher tries again
        told = {"message": first_hand(error), "traceback": traceback.format_exc()}
        write_text(folder / MISTAKE, json.dumps(told))
        return 1
    return 0


def wait_for_orders(orders: BufferedReader) -> int:
    """Be told the folder, in a process that was forked to train, and wait for a job there."""
    folder = orders.readline().decode().rstrip("\n")
    if not folder:
        return 0
    return main(Path(folder))


def do(job: Job, process_group: ProcessGroup, tell: Tell, should_stop: Callable[[], bool]) -> None:
    """Train, and tell how it goes."""
    found = job.kept().newest()
    if found:
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        tell("resumed", {"epoch": found["epoch"], "step": found["batch"], "again": again})
    process_group.wait()  # before anybody writes another one
    with (
        profiled(job.best.parent, resolve(job.device)) if job.config.profile else contextlib.nullcontext() as after_step
    ):
        epochs = train(
            *(job, found),
            on_progress=lambda progress: tell("progress", dataclasses.asdict(progress)),
            should_stop=should_stop,
            process_group=process_group,
            after_step=after_step,
        )
        try:
            for epoch in epochs:
                tell("epoch", dataclasses.asdict(epoch))
        except Stopped:
            tell("stopped", {})


@contextlib.contextmanager
def joined(job: Job) -> Generator[ProcessGroup]:
    """Meet the other processes, if torch's launcher has told of some in the environment."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = resolve(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = distributed.new_group(backend="gloo") if device.type == "cuda" else None
    try:
        yield ProcessGroup(rank, size, local, control)
    finally:
        distributed.destroy_process_group()


class _Told(logging.Handler):
    """Sends log records to whoever waits for the result."""

    def __init__(self, tell: Tell):
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell("log", {"level": record.levelno, "text": record.getMessage()})


@contextlib.contextmanager
def telling(folder: Path, process_group: ProcessGroup) -> Generator[Tell]:
    """Give what tells something to whoever waits for the result; it does so for the leader alone."""
    if not process_group.is_main:
        yield lambda kind, content: None
        return
    with (folder / MESSAGES).open("a", encoding="utf-8") as file:
        file.write("\n")  # one before, that was killed, may have left half a line

        def tell(kind: str, content: dict[str, Any]) -> None:
            file.write(json.dumps({"kind": kind, **content}) + "\n")
            file.flush()

        handler = _Told(tell)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield tell
        finally:
            logger.removeHandler(handler)


def _leave_with_the_parent(lock: Path) -> None:
    """End this process, and its launcher, as soon as nobody holds the lock: whoever asked for the job has died."""
    launcher = os.getppid()
    with locked(lock):
        if "TORCHELASTIC_RUN_ID" in os.environ and launcher == os.getppid() != 1:
            os.kill(launcher, signal.SIGKILL)  # it would start this process again
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
