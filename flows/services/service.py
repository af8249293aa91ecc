"""A server process that ``torchmill up`` starts, watches and ends."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.files import append_to
from torchmill.flows.services.processes import answers, dies_with_parent, end, last_line

HEALTHY_SECONDS = 120.0


@dataclass
class Service:
    """A running server."""

    name: str
    address: str
    """Address with the server's key, so that another server that was faster to take the port is not taken for it."""
    health: str
    """Path that answers once it is ready."""
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        name: str,
        address: str,
        health: str,
        log: Path,
        command: list[str],
        environment: dict[str, str],
        folder: Path | None,
    ) -> "Service":
        with append_to(log) as file:
            process = subprocess.Popen(
                command,
                env=environment | {"PYTHONSAFEPATH": "1"},  # for the processes that it starts
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for us: services are ended in order
                preexec_fn=dies_with_parent,
            )
        return cls(name, address, health, log, process)

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not answers(self.address + self.health):
            self.check()
            if time.monotonic() > deadline:
                raise UserError(f"{self.name} did not answer within {HEALTHY_SECONDS:.0f} s.", f"See {self.log}.")
            time.sleep(0.1)

    def check(self) -> None:
        """Check that the process runs.

        Raises:
            UserError: it has ended.
        """
        if self.process.poll() is not None:
            code = self.process.returncode
            raise UserError(f"{self.name} ended with exit code {code}: {last_line(self.log)}", f"See {self.log}.")

    def end(self) -> None:
        end(self.process)
        with contextlib.suppress(ProcessLookupError):  # children that it has left behind
            os.killpg(self.process.pid, signal.SIGKILL)
