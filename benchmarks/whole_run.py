"""Seconds of a whole `torchmill train` on the embedded data, from the command to its end, without cached results.

The baseline is `plain_script.py`: the same steps in one script, with MLflow and without orchestration. Ours is measured
beside a running `torchmill up` and without any server. A warm-up round fills the caches.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from benchmarks.measure import Claim, in_turn

ROUNDS = 3


def measure() -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder:
        with_up, alone = Path(folder) / "up", Path(folder) / "alone"
        environment = os.environ | {"TORCHMILL_DATA": f"{folder}/data", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with up(with_up, environment):
            figures = in_turn(
                {
                    "torchmill, up": lambda: seconds(torchmill(with_up), environment),
                    "plain script": lambda: seconds(
                        [sys.executable, "-m", "benchmarks.plain_script", folder], environment
                    ),
                },
                ROUNDS,
            )
        without = in_turn(
            {
                "torchmill, no server": lambda: seconds(torchmill(alone), environment, settle=4),
                "plain script": lambda: seconds([sys.executable, "-m", "benchmarks.plain_script", folder], environment),
            },
            ROUNDS,
        )
    return [
        Claim(
            *("torchmill train, `torchmill up` running", "plain script"),
            *(figures["torchmill, up"], figures["plain script"], "s", "≤ 0.8", NOTE),
        ),
        Claim(
            *("torchmill train, no server", "plain script"),
            *(without["torchmill, no server"], without["plain script"], "s", "–"),
        ),
    ]


NOTE = (
    "Beside `torchmill up`, the command is forked from a warm process that has imported everything. The script imports "
    "torch, MLflow and the exporter each time. Without the warm process, these imports are most of our time, too, and "
    "three processes do them: a training process of its own turns a crash in native code into a failed step. The "
    "script scores accuracy alone, and doesn't compare its ONNX file."
)


def torchmill(runs: Path) -> list[str]:
    return [sys.executable, "-m", "torchmill", "train", "--fresh", "--json", "--runs", str(runs)]


@contextlib.contextmanager
def up(runs: Path, environment: dict[str, str]) -> Generator[None]:
    """Run `torchmill up` within the block."""
    command = [sys.executable, "-m", "torchmill", "up", "--runs", str(runs)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    if not any(line.startswith("Ctrl-C") for line in iter(process.stdout.readline, "")):
        raise RuntimeError("torchmill up did not start")
    wait_for_prewarm(runs)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_for_prewarm(runs: Path) -> None:
    """Wait until the warm process, if there is one, has imported everything."""
    address = json.loads((runs / "work" / "up.json").read_text(encoding="utf-8")).get("prewarm")
    while address and not Path(address).exists():
        time.sleep(0.2)


def seconds(command: list[str], environment: dict[str, str], settle: float = 0, folder: Path | None = None) -> float:
    """Run a command and return its seconds.

    Args:
        settle: seconds to wait afterwards, until its background processes have ended.
        folder: working folder.
    """
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    elapsed = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr)
    if "--json" in command:
        steps = json.loads(done.stdout.splitlines()[-1])["steps"]
        assert all(step["state"] == "ran" for step in steps.values()), steps
    time.sleep(settle)
    return elapsed
