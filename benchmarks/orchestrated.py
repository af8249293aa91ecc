"""Seconds of a whole run on the embedded data, beside the same steps under other orchestrators with MLflow.

- ours: `torchmill train` beside a running `torchmill up`, as in whole_run.py: from the command to its end.
- Prefect, Metaflow, Kedro with kedro-mlflow, ZenML: the steps of plain_script.py, and a comparison of the ONNX model
  with the network in onnxruntime, as each one's documentation has it (orchestrated/): same data, network, epochs,
  batches, evaluation, export, registration. Their servers run already, for Prefect its own, and for all but ours
  an MLflow server: told over HTTP, they need not open a database each time. ZenML's store is local.

Each rival has an environment of its own, .venv-bench-NAME, with the versions of Torchmill's lock where it bears them.
Those that cannot be installed are left out. All are measured in turn, with all servers up, caches warm, telemetry off.
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

# What Torchmill does besides, in the time that it is measured in.
LACKING = (
    "Ours begins with everything imported, which is what the standby of `torchmill up` is for; of the others each run "
    "imports torch and MLflow anew. "
    "None of the others looks for leaks and doubtful labels, examines the network, holds out a validation split and "
    "keeps the best epoch, writes checkpoints within the training and goes on from them, gives intervals, draws "
    "curves and mistakes, compares at several batch sizes with float64, or writes a report. What `kill -9` ends "
    "stays RUNNING in MLflow. Metaflow takes a failed step up again from its beginning; Kedro goes on behind nodes "
    "whose results are kept in files, and schedules nothing; Metaflow and ZenML need a cluster or a service for that."
)


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
    what = "torchmill train, `torchmill up` running"
    return [
        Claim(what, f"{name} + MLflow", ours, other, "s", "≤ 0.6", LACKING if at == 0 else "")
        for at, (name, other) in enumerate(figures.items())
    ]


def installed(name: str) -> Path | None:
    """Have an environment with a rival in it; gives the folder of its commands."""
    place, uv = ROOT / f".venv-bench-{name}", Path(sys.executable).with_name("uv")
    python = place / "bin" / "python"
    making = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, place]
    installing = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    installing += ["-r", RIVALS / f"{name}.txt"]
    if subprocess.run(making).returncode or subprocess.run(installing).returncode:
        print(f"{name} cannot be installed: left out", flush=True)
        return None
    return python.parent


@contextlib.contextmanager
def mlflow(folder: Path) -> Generator[str]:
    """Have an MLflow server run; gives its address."""
    address, port = address_and_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    where = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    environment = os.environ | QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = Service.start("MLflow", address, "/health", folder / "mlflow.log", [*command, *where], environment)
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
    # It asks for a token where the server does not.
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
    """Wait until a server answers; end it behind the block."""
    try:
        server.wait_until_healthy()
        yield
    finally:
        server.end()
