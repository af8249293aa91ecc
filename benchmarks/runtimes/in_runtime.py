"""Run one model in one runtime and print the outputs' largest difference; it runs without Torchmill.

    python in_runtime.py RUNTIME MODEL EXAMPLE

EXAMPLE is an .npz file with the input ``x`` (samples, …) and the expected first output ``y``.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BATCHES = (1, 2, 3, 5, 8, 1)
"""Batch sizes in turn."""
Outputs = Iterator[tuple[slice, np.ndarray]]
"""Rows of the input, and the outputs for them."""


def by_onnxruntime(model: Path, x: np.ndarray) -> Outputs:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return ((slice(size), session.run(None, {name: x[:size]})[0]) for size in BATCHES)


def by_openvino(model: Path, x: np.ndarray) -> Outputs:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(model)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    port = next(port for port in compiled.outputs if {"logits", "values"} & set(port.get_names()))
    return ((slice(size), compiled(x[:size])[port]) for size in BATCHES)


def by_opencv(model: Path, x: np.ndarray) -> Outputs:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(model))
    output = "values" if "values" in network.getUnconnectedOutLayersNames() else "logits"
    for size in BATCHES:
        network.setInput(x[:size])
        yield slice(size), network.forward(output)


def by_tract(model: Path, x: np.ndarray) -> Outputs:
    import tract

    runnable = tract.onnx().load(str(model)).into_model().into_runnable()
    return ((slice(size), np.array(runnable.run([np.ascontiguousarray(x[:size])])[0].to_numpy())) for size in BATCHES)


def by_onnx2tf(model: Path, x: np.ndarray) -> Outputs:
    """Convert to TFLite with a batch of one, and run that."""
    with tempfile.TemporaryDirectory() as folder:
        shape = ",".join(map(str, (1, *x.shape[1:])))
        name = {"f": "images" if x.ndim == 4 else "features", "u": "pixels", "i": "tokens"}[x.dtype.kind]
        command = ["onnx2tf", "-i", str(model), "-o", folder, "-ois", f"{name}:{shape}", "-n", "-coion", "-v", "error"]
        call(str(Path(sys.executable).parent / command[0]), *command[1:])
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(next(Path(folder).glob("*_float32.tflite"))))
        interpreter.allocate_tensors()
        (takes,), gives = interpreter.get_input_details(), interpreter.get_output_details()
        named = [port for port in gives if {"logits", "values"} & set(port["name"].split(":"))]
        if not named and len(gives) > 1:
            raise RuntimeError(f"the outputs have lost their names: {', '.join(port['name'] for port in gives)}")
        (port,) = named or gives
        channels_last = x.ndim == 4 and tuple(takes["shape"]) == (1, *x.shape[2:], x.shape[1])
        for row, sample in enumerate(x[: max(BATCHES)]):
            value = sample.transpose(1, 2, 0) if channels_last else sample
            if tuple(takes["shape"]) != (1, *value.shape):  # a free length, which it takes for 1
                interpreter.resize_tensor_input(takes["index"], (1, *value.shape))
                interpreter.allocate_tensors()
            interpreter.set_tensor(takes["index"], value[None].astype(takes["dtype"]))
            interpreter.invoke()
            yield slice(row, row + 1), interpreter.get_tensor(port["index"])


def by_ncnn(model: Path, x: np.ndarray) -> Outputs:
    """Convert with pnnx, and run in ncnn."""
    import ncnn

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(model.read_bytes())
        kinds = {"f": "f32", "u": "u8", "i": "i64"}
        shape = ",".join(map(str, (1, *x.shape[1:])))
        call(str(Path(sys.executable).parent / "pnnx"), str(file), f"inputshape=[{shape}]{kinds[x.dtype.kind]}")
        network = ncnn.Net()
        if network.load_param(str(file.with_suffix(".ncnn.param"))) or network.load_model(
            str(file.with_suffix(".ncnn.bin"))
        ):
            raise RuntimeError("ncnn lacks an operator of the model")
        for row, sample in enumerate(x[: max(BATCHES)]):
            extractor = network.create_extractor()
            value = sample.astype(np.int32) if x.dtype.kind == "i" else sample
            extractor.input("in0", ncnn.Mat(np.ascontiguousarray(value)).clone())
            status, output = extractor.extract("out0")
            if status:
                raise RuntimeError("ncnn cannot run the model")
            yield slice(row, row + 1), np.array(output)[None]


def by_simplified(simplify: Callable[[object], object]) -> Callable[[Path, np.ndarray], Outputs]:
    def run(model: Path, x: np.ndarray) -> Outputs:
        import onnx
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        changed = simplify(onnx.load(str(model)))
        session = onnxruntime.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])  # ty: ignore
        name = session.get_inputs()[0].name
        return ((slice(size), session.run(None, {name: x[:size]})[0]) for size in BATCHES)

    return run


def slim(proto: object) -> object:
    import onnxslim

    return onnxslim.slim(proto)


def simplified(proto: object) -> object:
    import onnxsim

    return onnxsim.simplify(proto)[0]


def by_node(package: str) -> Callable[[Path, np.ndarray], Outputs]:
    def run(model: Path, x: np.ndarray) -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            data, out = Path(folder) / "x.bin", Path(folder) / "y.json"
            data.write_bytes(np.ascontiguousarray(x).tobytes())
            kind = {"f": "float32", "u": "uint8", "i": "int64"}[x.dtype.kind]
            options = json.dumps({"package": package, "kind": kind, "shape": x.shape, "batches": BATCHES})
            call("node", str(Path(__file__).with_name("in_node.cjs")), str(model), str(data), str(out), options)
            answers = json.loads(out.read_text())
        return ((slice(shape[0]), np.array(values).reshape(shape)) for shape, values in answers)

    return run


def call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise RuntimeError(next((line for line in reversed(lines) if "rror" in line), (lines or ["it failed"])[-1]))


RUNTIMES: dict[str, Callable[[Path, np.ndarray], Outputs]] = {
    "onnxruntime": by_onnxruntime,
    "openvino": by_openvino,
    "opencv": by_opencv,
    "tract": by_tract,
    "onnx2tf": by_onnx2tf,
    "ncnn": by_ncnn,
    "onnxslim": by_simplified(slim),
    "onnxsim": by_simplified(simplified),
    "node": by_node("onnxruntime-node"),
    "web": by_node("onnxruntime-web"),
}


def main() -> None:
    runtime, model, example = sys.argv[1:]
    with np.load(example) as arrays:
        x, y = arrays["x"], arrays["y"]
    try:
        pairs = [(output, y[rows]) for rows, output in RUNTIMES[runtime](Path(model), x)]
        worst = max(float(np.abs(output.reshape(expected.shape) - expected).max()) for output, expected in pairs)
        print(json.dumps({"difference": worst}))
    except BaseException as error:  # whatever a runtime raises is its finding
        print(json.dumps({"failure": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}))


if __name__ == "__main__":
    main()
