"""The prewarmed process as ``torchmill up`` starts, restarts and ends it."""

import contextlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchmill.components.files import append_to, temporary_folder
from torchmill.components.processes import start_python
from torchmill.components.runs.folders import Runs
from torchmill.flows.services.processes import dies_with_parent

MOST_FAILURES = 3


@dataclass
class PrewarmedProcess:
    """A running ``python -m torchmill.flows.services.prewarm``."""

    address: Path
    """Path of its socket, in a folder that no other user may enter."""
    runs: Runs
    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes]"
    exits: contextlib.ExitStack
    """Removes the folder."""
    failures: int = 0

    @staticmethod
    def is_possible() -> bool:
        """Return False on other systems than Linux, and with NVIDIA's drivers, which don't survive a fork."""
        return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()

    @classmethod
    def start(cls, runs: Runs, environment: Mapping[str, str]) -> "PrewarmedProcess":
        """Start it.

        Args:
            environment: variables that commands have as well; without what `up` sets for itself.
        """
        exits = contextlib.ExitStack()
        address = exits.enter_context(temporary_folder()) / "prewarm"
        return cls(address, runs, environment, _start(address, runs, environment), exits)

    def keep(self) -> None:
        """Restart it if it has ended, as it does when source or libraries have changed."""
        if self.process.poll() is not None and self.failures < MOST_FAILURES:
            self.failures += self.process.returncode != 0
            self.process = _start(self.address, self.runs, self.environment)

    def end(self) -> None:
        """End it; commands that it has become go on."""
        self.process.terminate()
        self.process.wait()
        self.exits.close()


def _start(address: Path, runs: Runs, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    address.unlink(missing_ok=True)
    with append_to(runs.work / "prewarm.log") as log:
        return start_python(
            *("-m", "torchmill.flows.services.prewarm", str(address), str(runs.work / "prewarm.modules")),
            environment=environment,
            inherit_safe_path=False,  # commands haven't got it either
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=dies_with_parent,
        )
