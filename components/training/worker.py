"""One of the processes that train together: `python -m components.training.worker JOB`, started by torch's launcher.

The leader writes what it has to tell, a JSON object a line, into the pipe beside the job; whoever fails by a user's
mistake writes it into a file there.
"""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from components.device import processors, resolve
from components.errors import UserError
from components.files import locked, write_text
from components.training.fit import Stopped
from components.training.job import Job, train
from components.training.team import Team

logger = logging.getLogger("torchmill")

JOB, PIPE, MISTAKE, STOP, PARENT = "job.json", "messages", "mistake.json", "stop", "parent.lock"
"""Files in the folder of a job: what is to be done, what is told, what the user is to mend, that it is to stop, and a
lock that is held as long as anybody waits for the result."""


def main(folder: Path) -> int:
    threading.Thread(target=_leave_with_the_parent, args=(folder / PARENT,), daemon=True).start()
    if (folder / MISTAKE).exists():  # started again after it: no second attempt would end otherwise
        return 0
    job = Job.model_validate_json((folder / JOB).read_bytes())
    try:
        with joined(job) as team, telling(folder, team) as tell:
            found = job.kept().newest()
            team.wait()  # before anybody writes another one
            epochs = train(
                *(job, found),
                on_progress=lambda progress: tell("progress", dataclasses.asdict(progress)),
                should_stop=(folder / STOP).exists,
                team=team,
            )
            try:
                for epoch in epochs:
                    tell("epoch", dataclasses.asdict(epoch))
            except Stopped:
                tell("stopped", {})
            team.wait()
    except UserError as error:
        write_text(folder / MISTAKE, json.dumps([error.message, error.remedy]))
        return 1
    return 0


@contextlib.contextmanager
def joined(job: Job) -> Generator[Team]:
    """Meet the other processes, as torch's launcher has told them in the environment."""
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    torch.set_num_threads(max(1, processors() // int(os.environ["LOCAL_WORLD_SIZE"])))
    device = resolve(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = distributed.new_group(backend="gloo") if device.type == "cuda" else None
    try:
        yield Team(rank, size, local, control)
    finally:
        distributed.destroy_process_group()


class _Told(logging.Handler):
    """Sends log records to whoever waits for the result."""

    def __init__(self, tell: Any):
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell("log", {"level": record.levelno, "text": record.getMessage()})


@contextlib.contextmanager
def telling(folder: Path, team: Team) -> Generator[Any]:
    """Give what tells the parent something; it does so for the leader alone."""
    if not team.leads:
        yield lambda kind, content: None
        return
    with (folder / PIPE).open("w", encoding="utf-8") as pipe:

        def tell(kind: str, content: dict[str, Any]) -> None:
            pipe.write(json.dumps({"kind": kind, **content}) + "\n")
            pipe.flush()

        handler = _Told(tell)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield tell
        finally:
            logger.removeHandler(handler)


def _leave_with_the_parent(lock: Path) -> None:
    """End this process, and the launcher, as soon as nobody holds the lock: whoever asked for the job has died."""
    launcher = os.getppid()
    with locked(lock):
        if launcher == os.getppid() != 1:
            os.kill(launcher, signal.SIGKILL)  # it would start this process again
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
