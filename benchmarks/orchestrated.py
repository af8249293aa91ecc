"""Seconds of a whole run on the embedded data, against the same steps under other orchestrators with MLflow.

- ours: `torchmill train` beside a running `torchmill up`, timed from the command to its end, as in whole_run.py.
- Prefect, Metaflow, Kedro with kedro-mlflow, ZenML: the steps of plain_script.py, written as their documentation
  does (orchestrated/). They add a comparison of the ONNX model with the network in onnxruntime.

All have the same data, network, epochs, batches, evaluation, export and registration. The others use running servers:
Prefect's own, and an MLflow server over HTTP, which saves them from opening a database. ZenML's store is local. Each
has an environment, .venv-bench-NAME, with the versions of Torchmill's lock as far as it supports them. We skip one that
can't be installed. All are measured in turn, with all servers up, caches warm and telemetry off.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from benchmarks.measure import Claim, in_turn
from benchmarks.whole_run import seconds, torchmill, up
from torchmill.flows.services.processes import free_port
from torchmill.flows.services.up import Service

ROUNDS = 3
ROOT = Path(__file__).parent.parent
RIVALS = Path(__file__).with_suffix("")

QUIET = {
    "DO_NOT_TRACK": "1",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "ZENML_ANALYTICS_OPT_IN": "false",
}

LACKING = (
    "Our command starts with everything imported, by the warm process of `torchmill up`; each run of the others "
    "imports torch and MLflow again. In its time, ours does work that none of the others does. It looks for leaks and "
    "suspect labels, checks the network, and holds out a validation split to keep the best epoch. It writes "
    "checkpoints within the training and resumes from them. It computes intervals, draws curves and mistakes, compares "
    "the ONNX model with float64 at several batch sizes, and writes a report. After `kill -9`, runs of the others stay "
    "RUNNING in MLflow. Metaflow restarts a failed step from its beginning. Kedro resumes after nodes whose results "
    "are in files, and schedules nothing. Metaflow and ZenML need a cluster or a service to schedule."
)
"""Note on the work that only Torchmill does."""


def measure() -> list[Claim]:
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as running:
        folder = Path(place)
        environment = os.environ | QUIET | {"TORCHMILL_DATA": f"{folder}/data"}
        running.enter_context(up(folder / "up", environment))
        measures = {"torchmill": lambda: seconds(torchmill(folder / "up"), environment)}
        theirs = environment | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": running.enter_context(mlflow(folder))}
        for name, prepare in {"Prefect": prefect, "Metaflow": metaflow, "Kedro": kedro, "ZenML": zenml}.items():
            if binaries := installed(name.lower()):
                measures[name] = running.enter_context(prepare(binaries, folder, theirs))
        figures = in_turn(measures, ROUNDS)
    ours = figures.pop("torchmill")
    subject = "torchmill train, `torchmill up` running"
    return [
        Claim(subject, f"{name} + MLflow", ours, theirs, "s", "≤ 0.6", LACKING if at == 0 else "")
        for at, (name, theirs) in enumerate(figures.items())
    ]


def installed(name: str) -> Path | None:
    """Install an orchestrator into its environment and return the folder of its commands; None if that fails."""
    place, uv = ROOT / f".venv-bench-{name}", Path(sys.executable).with_name("uv")
    python = place / "bin" / "python"
    create = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place]
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    install += ["-r", RIVALS / f"{name}.txt"]
    if subprocess.run(create).returncode or subprocess.run(install).returncode:
        print(f"{name} cannot be installed: left out", flush=True)
        return None
    return python.parent


@contextlib.contextmanager
def mlflow(folder: Path) -> Generator[str]:
    """Run an MLflow server within the block, and yield its address."""
    address, port = address_and_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    storage = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    environment = os.environ | QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = Service.start("MLflow", address, "/health", folder / "mlflow.log", [*command, *storage], environment)
    with ended(server):
        yield address


@contextlib.contextmanager
def prefect(binaries: Path, folder: Path, environment: dict[str, str]) -> Generator[Callable[[], float]]:
    address, port = address_and_port()
    environment = environment | {"PREFECT_HOME": f"{folder}/prefect", "PREFECT_SERVER_API_PORT": port}
    command = [str(binaries / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", port]
    server = Service.start("Prefect", address, "/api/health", folder / "prefect.log", command, environment)
    environment = environment | {"PREFECT_API_URL": f"{address}/api"}
    with ended(server):
        flow = [str(binaries / "python"), str(RIVALS / "with_prefect.py"), f"{folder}/prefect.onnx"]
        yield lambda: seconds(flow, environment)


@contextlib.contextmanager
def metaflow(binaries: Path, folder: Path, environment: dict[str, str]) -> Generator[Callable[[], float]]:
    environment = environment | {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder), "METAFLOW_USER": "benchmark"}
    flow = [str(binaries / "python"), str(RIVALS / "with_metaflow.py"), "run", "--path", f"{folder}/metaflow.onnx"]
    yield lambda: seconds(flow, environment)


@contextlib.contextmanager
def kedro(binaries: Path, folder: Path, environment: dict[str, str]) -> Generator[Callable[[], float]]:
    project = shutil.copytree(RIVALS / "with_kedro", folder / "with_kedro")
    yield lambda: seconds([str(binaries / "kedro"), "run"], environment, folder=project)


@contextlib.contextmanager
def zenml(binaries: Path, folder: Path, environment: dict[str, str]) -> Generator[Callable[[], float]]:
    environment = environment | {"ZENML_CONFIG_PATH": f"{folder}/zenml"}
    tracker = ["experiment-tracker", "register", "mlflow", "--flavor=mlflow"]
    # ZenML insists on a token, though the server doesn't.
    server = [f"--tracking_uri={environment['MLFLOW_TRACKING_URI']}", "--tracking_token=none"]
    stack = ["stack", "register", "digits", "-a", "default", "-o", "default", "-e", "mlflow", "--set"]
    for command in ([*tracker, *server], stack):
        subprocess.run([binaries / "zenml", *command], env=environment, check=True, capture_output=True, cwd=folder)
    pipeline = [str(binaries / "python"), str(RIVALS / "with_zenml.py"), f"{folder}/zenml.onnx"]
    yield lambda: seconds(pipeline, environment, folder=folder)


def address_and_port() -> tuple[str, str]:
    port = free_port()
    return f"http://127.0.0.1:{port}", str(port)


@contextlib.contextmanager
def ended(server: Service) -> Generator[None]:
    """Wait until a server answers, and end it after the block."""
    try:
        server.wait_until_healthy()
        yield
    finally:
        server.end()
