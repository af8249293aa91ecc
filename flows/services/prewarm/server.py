"""A process of `torchmill up` that has imported all that commands need, and becomes them: they start at once.

A command finds it by the address that `up` has written down, and hands over its arguments, environment and streams.
The process forks, and the child is the command; the command's own process passes signals on and ends as the child
does. What a child has imported besides, its standby imports for those that come.

Where anything differs that a process has from its start (interpreter, libraries, our own source, limits, variables that
libraries read when they are imported), the command runs by itself, as if there were no standby.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from torchmill.components.files import read_state
from torchmill.components.processes import start_python
from torchmill.components.runs.folders import Runs
from torchmill.flows.services.prewarm.forked_process import ForkedProcess, end_with, fork

NOT_HANDED_OVER = ("up", "join")
"""Commands that run by themselves: one that has a standby, and one that is for hours and of another machine."""
READ_AT_IMPORT = (
    *("CUDA", "CUBLAS", "GOMP", "KMP", "LD_", "MALLOC", "MKL", "MLFLOW", "MPL", "NCCL", "NUMEXPR", "NVIDIA", "OMP"),
    *("OPENBLAS", "ORT_", "PREFECT", "PYTHON", "PYTORCH", "TORCHINDUCTOR", "TORCH_", "TRITON", "XDG", "HOME", "LANG"),
    *("LC_", "TZ", "JEMALLOC", "ARROW"),
)
"""How variables begin that libraries read when they are imported."""
ROOT = Path(__file__).parents[3]
LOOK_SECONDS = 0.02
STALE_SECONDS = 2.0
MOST_FAILURES = 3
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH)

_is_child = False
_tried: set[str] = set()
"""Modules that commands have imported besides, and that were imported here, or could not be."""


def fingerprint() -> dict[str, Any]:
    """All that two processes have to have in common for one to stand in for the other; JSON."""
    return {
        "python": [sys.executable, sys.version],
        "code": code(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(READ_AT_IMPORT)},
        "limits": {name: resource.getrlimit(number) for name, number in _limits()},
        "processors": sorted(os.sched_getaffinity(0)),
        "niceness": os.nice(0),
        "group": Path("/proc/self/cgroup").read_text(encoding="utf-8"),
        "users": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), *sorted(os.getgroups())],
        "umask": _umask(),
    }


def code() -> dict[str, int]:
    """When the folders of libraries and our own source were last changed."""
    libraries = {place: _changed(Path(place)) for place in sys.path if place.endswith("-packages")}
    ours = (file for part in ("components", "flows") for file in (ROOT / part).rglob("*.py"))
    return libraries | {str(ROOT): max(map(_changed, ours))}


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _limits() -> list[tuple[str, int]]:
    return [(name, getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]


def _umask() -> int:
    held = os.umask(0o77)
    os.umask(held)
    return held


# ------------------------------------------------------------------------------------------------ the command's side


def hand_over(command: str, arguments: Sequence[str], runs: Runs) -> int | None:
    """Have the standby run a command to its end; gives the exit code, or None where it is to be run here."""
    if _is_child or command in NOT_HANDED_OVER or sys.platform != "linux":
        return None
    address = read_state(runs.work / "up.json").get("standby")
    if not address:
        return None
    with socket.socket(socket.AF_UNIX) as standby:
        try:
            standby.connect(address)
            order = {
                "alike": fingerprint(),
                "arguments": list(arguments),
                "environment": dict(os.environ),
                "folder": str(Path.cwd()),
                "path": sys.path,
                "words": sys.argv,
                "encodings": [sys.stdout.encoding, sys.stderr.encoding],
            }
            socket.send_fds(standby, [b"\n"], [0, 1, 2])
            standby.sendall(json.dumps(order).encode() + b"\n")
            told = standby.makefile("rb")
            child = json.loads(told.readline() or b"{}").get("child")
        except OSError:  # it isn't there, is not ready yet, or has just gone
            return None
        return _ended_as(child, told) if child else None


def _ended_as(child: int, told: IO[bytes]) -> int:
    """Pass signals on until the child has ended, and end alike."""

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    def stop(_number: int, _: FrameType | None) -> None:
        pass_on(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        pass_on(signal.SIGCONT, None)

    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, pass_on)
    signal.signal(signal.SIGTSTP, stop)
    code = json.loads(told.readline() or b"{}").get("code", -signal.SIGKILL)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


# ----------------------------------------------------------------------------------------------- the standby's side


def serve(address: Path, learned: Path) -> None:
    """Import everything, then become what is asked for, until this is not what it was: source or libraries changed.

    Args:
        learned: a file with the names of modules that were imported besides.
    """
    alike = json.loads(json.dumps(fingerprint()))
    import_all()
    import_learned(learned)
    _freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        listening.settimeout(STALE_SECONDS)
        while alike["code"] == code():
            if import_learned(learned):
                _freeze()
            with contextlib.suppress(TimeoutError):
                connection, _ = listening.accept()
                with connection:
                    if fork() == 0:
                        listening.close()
                        end_with(_keep, connection, alike, learned)


def _freeze() -> None:
    """Take what is there out of the collection of garbage, which would have its pages copied in every child."""
    gc.collect()
    gc.freeze()


def import_all() -> None:
    """Import what commands need, as they would themselves."""
    from torchmill.components import tracking
    from torchmill.flows.cli import main as cli

    cli.quiet_prefect()
    tracking.silence_mlflow()
    for package in ("torchmill.components", "torchmill.flows"):
        folder = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(folder, f"{package}."):
            importlib.import_module(module.name)
    from torchmill.components.evaluation import evaluate
    from torchmill.components.export import to_onnx

    for name in (*evaluate.NEEDED, *to_onnx.NEEDED, *tracking.RECORDER_IMPORTS):
        importlib.import_module(name)
    tracking.map_tables()


def import_learned(file: Path) -> int:
    """Import what commands have imported besides; gives how many modules of it are new."""
    count = 0
    for name in file.read_text(encoding="utf-8").split() if file.exists() else ():
        if name in _tried:
            continue
        _tried.add(name)
        try:
            importlib.import_module(name)
            count += 1
        except Exception as error:  # of another version, maybe: whoever needs it imports it himself
            print(f"{name} cannot be imported: {error}", flush=True)
    return count


def learn(file: Path, known: set[str]) -> None:
    """Note the names of modules that this process has imported besides ``known``; never a user's own, which change."""
    paths = sysconfig.get_paths()
    places = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    new = [
        name
        for name, module in tuple(sys.modules.items())
        if name not in known and str(getattr(module, "__dict__", {}).get("__file__")).startswith(places)
    ]
    if new:
        with file.open("a", encoding="utf-8") as held:
            held.write(" ".join(new) + "\n")


def _keep(connection: socket.socket, alike: dict[str, Any], learned: Path) -> int:
    """Have a child be the command, tell how it ends, and end it where nobody waits for it any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # what ends `up` does not end this
    connection.settimeout(10)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    order = json.loads(connection.makefile("rb").readline() or b"{}")
    if order.get("alike") != alike or len(streams) != 3:
        return 0
    child = fork()
    if child == 0:
        connection.close()
        end_with(_become, order, streams, learned)
    for stream in streams:
        os.close(stream)
    connection.sendall(json.dumps({"child": child}).encode() + b"\n")
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if select.select([connection], [], [], LOOK_SECONDS)[0]:  # it says nothing more: it has gone
            os.kill(child, signal.SIGKILL)
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(ended[1])}).encode() + b"\n")
    return 0


def _become(order: dict[str, Any], streams: Sequence[int], learned: Path) -> NoReturn:
    """Be the command."""
    global _is_child
    _is_child = True
    from torchmill.flows.cli import main as cli
    from torchmill.flows.services.processes import dies_with_parent

    dies_with_parent(signal.SIGKILL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Not those that were here: what they know of their files, as whether one can seek there, is no longer true.
    output, errors = order["encodings"]
    for name, number, mode, encoding, how in (
        ("stdin", 0, "r", None, None),
        ("stdout", 1, "w", output, None),
        ("stderr", 2, "w", errors, "backslashreplace"),
    ):
        by_line = 1 if number == 2 or os.isatty(number) else -1
        stream = open(number, mode, by_line, encoding, how, closefd=False)  # noqa: SIM115  for as long as we live
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.path[:], sys.argv[:] = order["path"], order["words"]
    for number in (*PASSED_ON, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit.register(learn, learned, set(sys.modules))
    random.seed()  # each process begins with numbers of its own
    importlib.import_module("numpy").random.seed()
    if "train" in order["arguments"] or "reproduce" in order["arguments"]:
        _spare_processes()
    cli.main(order["arguments"])


def _spare_processes() -> None:
    """Fork those that a training starts, which would have to import everything again."""
    from torchmill.components import tracking
    from torchmill.components.training.distributed import launch, worker

    training = ForkedProcess(worker.wait_for_folder)
    launch.forked_worker = training
    tracking.adopt_recorder(ForkedProcess(tracking.run_recorder, (training,)))


@dataclass
class Standby:
    """The process, as `torchmill up` has it."""

    address: Path
    """Of its socket, in a folder of its own that nobody else may enter."""
    runs: Runs
    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes]"
    failures: int = 0

    @staticmethod
    def is_possible() -> bool:
        """Tell whether processes may be forked behind the imports: not known of where there are NVIDIA's drivers."""
        return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()

    @classmethod
    def start(cls, runs: Runs, environment: Mapping[str, str]) -> "Standby":
        address = Path(tempfile.mkdtemp(prefix="torchmill-")) / "standby"
        return cls(address, runs, environment, _started(address, runs, environment))

    def keep(self) -> None:
        """Start it anew where it has ended, as it does when something that it has imported changed."""
        if self.process.poll() is not None and self.failures < MOST_FAILURES:
            self.failures += self.process.returncode != 0
            self.process = _started(self.address, self.runs, self.environment)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.address.parent, ignore_errors=True)


def _started(address: Path, runs: Runs, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    from torchmill.flows.services.processes import dies_with_parent

    address.unlink(missing_ok=True)
    with (runs.work / "standby.log").open("ab") as file:
        return start_python(
            *("-m", "torchmill.flows.services.prewarm.server", str(address), str(runs.work / "standby.modules")),
            environment=environment,
            inherit_safe_path=False,  # commands that it becomes have not got it either
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=dies_with_parent,
        )


if __name__ == "__main__":
    from torchmill.flows.services.prewarm import server as standby

    standby.serve(*map(Path, sys.argv[1:]))
    os._exit(0)  # what is imported is not taken apart, for which there is nobody to wait
