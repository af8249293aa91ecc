"""Python on a model card: a program that answers files with the ONNX model, and the preparation of the bare form."""

import json
from collections.abc import Mapping
from string import Template

from torchmill.components.encoding.columns import Columns
from torchmill.components.fields._cells import preparation_of_cells
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.bare import is_bare
from torchmill.components.refs import DataRef

STANDARD = ("csv", "datetime", "io", "json", "math", "re", "sys", "unicodedata")
"""Modules of Python that the code may use."""

PROGRAM = """\
$imports

session = onnxruntime.InferenceSession("$file", providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
labels = json.loads(metadata["labels"])


$read$answer

for name, item in $items:
    try:
        inputs = $batch
    except (KeyError, OSError, TypeError, ValueError) as error:
        print(name, f"cannot be read: {error}", sep="\\t")
        continue
$show"""

ANSWER = """\
def answer(inputs):
    return session.run(["$output"], $inputs)[0]
"""
ANSWER_BARE = """\
def answer(inputs):
    (outputs,) = session.run(["$output"], {"$input": prepare(inputs)})
    return finish(outputs)
"""
SHOW_CLASS = """\
    probabilities = answer(inputs)[0]
    print(name, labels[probabilities.argmax()], f"{probabilities.max():.4f}", sep="\\t")
"""
SHOW_EACH = """\
    for label, value in zip(labels, answer(inputs)[0]):
        print(name, label, f"{value:.6g}", sep="\\t")
"""

STANDARDIZE = """\
mean = np.array($mean, np.float32)[:, None, None]
std = np.array($std, np.float32)[:, None, None]


def prepare(pixels):  # uint8 (batch, height, width, channels), of the network's own size
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    return (images / np.float32(255) - mean) / std


"""
AS_IT_IS = """\
def prepare(inputs):
    return inputs


"""
FINISH = {
    "softmax": """\
def finish(logits):  # probabilities
    powers = np.exp((logits - logits.max(1, keepdims=True)) / $temperature)
    return powers / powers.sum(1, keepdims=True)


""",
    "sigmoid": """\
def finish(logits):  # probabilities
    return (1 + np.tanh(logits / $temperature / 2)) / 2


""",
    "identity": """\
def finish(values):  # in the targets' own units
    return values


""",
}


def program(file: str, metadata: Mapping[str, str], data: DataRef, columns: Columns | None) -> str:
    """Return a Python program that answers the files on its command line as ``predict`` does.

    It needs numpy and onnxruntime, and Pillow for images.

    Args:
        file: name of the model's file, in either form.
        columns: columns of the table that the model was trained on.
    """
    task, bare = data.task_object, is_bare(metadata)
    takes_cells = bool(columns and columns.take_gaps)
    read, items, _ = data.field.card_code(data.shape, data.rules, columns)
    entries = {
        "input": data.field.bare_input if bare else data.field.onnx_input,
        "output": names.PROBABILITIES if task.has_probabilities and not bare else task.onnx_output,
    }
    entries["inputs"] = "inputs" if takes_cells else f'{{"{entries["input"]}": inputs}}'
    answer = (around_network(metadata, data, columns) + ANSWER_BARE) if bare else ANSWER
    body = Template(PROGRAM).safe_substitute(
        file=file,
        batch="read(item)" if takes_cells else "read(item)[None]  # a batch of one",
        read=read.rstrip("\n") + "\n\n\n",
        answer=Template(answer).safe_substitute(entries),
        items=items,
        show=SHOW_CLASS if task.is_exclusive else SHOW_EACH,
    )
    return Template(body).safe_substitute(imports=_imports(body))


def around_network(metadata: Mapping[str, str], data: DataRef, columns: Columns | None = None) -> str:
    """Return Python that prepares the inputs of the bare form, and turns its outputs into answers."""
    mean, std = (json.loads(metadata.get(key, "[]")) for key in (names.MEAN, names.STD))
    prepare = Template(STANDARDIZE).substitute(mean=mean, std=std) if data.field.is_picture else AS_IT_IS
    if columns and columns.take_gaps:
        prepare = preparation_of_cells(columns) + "\n\n"
    finish = Template(FINISH[data.task_object.activation])
    return prepare + finish.substitute(temperature=metadata.get(names.TEMPERATURE, "1"))


def _imports(code: str) -> str:
    standard = [f"import {name}" for name in STANDARD if f"{name}." in code]
    paths = ["from pathlib import Path"] if "Path(" in code else []
    pillow = ["from PIL import Image, ImageOps"] if "Image." in code else []
    return "\n".join([*standard, *paths, "", "import numpy as np", "import onnxruntime", *pillow])
