"""Measure the matrix of runtimes: see ``benchmarks.runtimes``."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.runtimes.table import DOCS, MARKS, RESULTS, measured, table
from benchmarks.tables import with_table
from tests.toy import made, toy_data, toy_numbers, toy_tokens, with_different_answers
from torchmill.components.data.samples import read_test
from torchmill.components.export.to_onnx import export_core, write_bare, write_complete
from torchmill.components.onnx_model.bare import prepared_inputs
from torchmill.components.onnx_model.run import as_taken
from torchmill.components.onnx_model.session import open_session

ROOT = Path(__file__).parents[2]
PYTHON_RUNTIMES = {
    "onnxruntime 1.17.3": ("onnxruntime", ["onnxruntime==1.17.3", "numpy<2"]),
    "onnxruntime": ("onnxruntime", ["onnxruntime", "numpy"]),
    "OpenVINO 2025.1": ("openvino", ["openvino==2025.1.0", "numpy"]),
    "OpenVINO": ("openvino", ["openvino", "numpy"]),
    "OpenCV": ("opencv", ["opencv-python-headless", "numpy"]),
    "tract": ("tract", ["tract", "numpy"]),
    "onnx2tf → TFLite": ("onnx2tf", ["onnx2tf", "tensorflow-cpu", "ai-edge-litert"]),
    "pnnx → ncnn": ("ncnn", ["pnnx", "ncnn", "numpy"]),
    "onnxslim": ("onnxslim", ["onnxslim", "onnxruntime", "numpy"]),
    "onnxsim": ("onnxsim", ["onnxsim", "onnxruntime", "numpy"]),
}
NODE_RUNTIMES = {"onnxruntime-node": "node", "onnxruntime-web": "web"}
SECONDS = 300


def main() -> None:
    names = [*PYTHON_RUNTIMES, *NODE_RUNTIMES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("runtimes", nargs="*", metavar="NAME", help=f"{', '.join(names)} (default: all)")
    chosen = parser.parse_args().runtimes or names
    if unknown := set(chosen) - set(names):
        sys.exit(f"No runtime {', '.join(unknown)}; there are {', '.join(names)}.")
    results = measured() if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        models = write_models(Path(place))
        for name in chosen:
            python, version, environment = installed(name)
            results[name] = {"version": version, "models": {}}
            kind = NODE_RUNTIMES.get(name) or PYTHON_RUNTIMES[name][0]
            for model, example in models:
                key = f"{model.parent.name} {model.stem}"
                program = Path(__file__).with_name("in_runtime.py")
                with tempfile.TemporaryDirectory() as scratch:
                    copied = shutil.copy(model, scratch)  # onnx2tf changes the file that it converts
                    finding = run([python, program, kind, copied, example], environment)
                results[name]["models"][key] = finding
                print(f"{name} {version}  {key}  {finding}", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    DOCS.write_text(with_table(DOCS.read_text(encoding="utf-8"), table(results), MARKS), encoding="utf-8")


def run(command: list, environment: dict[str, str]) -> dict:
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"no answer within {SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failure": f"it ends with {done.returncode}"}
    return json.loads(lines[-1])


def installed(name: str) -> tuple[Path, str, dict[str, str]]:
    """Install a runtime apart, and return its Python, its version, and the environment to run it in."""
    environment = {**os.environ, "PYTHONPATH": ""}
    if name in NODE_RUNTIMES:
        folder = ROOT / ".venv-bench-node"
        folder.mkdir(exist_ok=True)
        packages = list(NODE_RUNTIMES)
        subprocess.run(
            ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", *packages], check=True
        )
        version = json.loads((folder / "node_modules" / name / "package.json").read_text())["version"]
        environment["TORCHMILL_NODE_MODULES"] = str(folder / "node_modules")
        return Path(sys.executable), version, environment
    _, packages = PYTHON_RUNTIMES[name]
    folder = ROOT / f".venv-bench-{re.sub(r'[^a-z0-9.]+', '-', name.lower())}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    package = packages[0].partition("=")[0]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    version = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    return python, version, environment


def write_models(place: Path) -> list[tuple[Path, Path]]:
    """Write both forms of a model of each kind and task, with inputs and outputs; return their files."""
    makers = {
        "grey": lambda folder: (toy_data(folder), "simple_cnn", {}),
        "colour": lambda folder: (toy_data(folder, channels=3, size=32), "simple_cnn", {}),
        "transformer": lambda folder: (toy_tokens(folder), "transformer", {}),
        "lstm": lambda folder: (toy_tokens(folder), "rnn", {}),
        "classes": lambda folder: (toy_numbers(folder), "mlp", {}),
        "labels": lambda folder: (toy_numbers(folder, task="multilabel"), "mlp", {}),
        "regression": lambda folder: (toy_numbers(folder, task="regression"), "mlp", {}),
    }
    files = []
    for name, maker in makers.items():
        folder = place / name
        folder.mkdir()
        data, network_name, arguments = maker(folder)
        test = read_test(data)
        network = with_different_answers(made(network_name, data, **arguments), test, data)
        core = export_core(network, data)
        complete, bare = folder / "complete.onnx", folder / "bare.onnx"
        write_bare(core, data, {}, bare)
        write_complete(core, data, {}, complete)
        x = as_taken(test.inputs[:8])
        y = open_session(complete).run(None, {data.field.onnx_input: x})[0]
        prepared = prepared_inputs(x, open_session(bare).get_modelmeta().custom_metadata_map)
        for file, inputs in ((complete, x), (bare, prepared)):
            np.savez(file.with_suffix(".npz"), x=inputs, y=y)
            files.append((file, file.with_suffix(".npz")))
    return files


if __name__ == "__main__":
    main()
