"""Damaged files that users hand over: an error in words and exit code 1 or 2, never a traceback or a hang."""

import io
import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from tests.faults.damage import INPUTS, damaged, replace, time_limit
from tests.onnx_files import bag_of_letters, linear
from torchmill.components.config import load
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.errors import UserError
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.model import open_model
from torchmill.components.prediction.predict import predict

CONFIG = b"""\
data: {name: digits, args: {image_size: 28}}
model: {name: simple_cnn, args: {width: 32}}
train:
  epochs: 3
  lr: 1e-3
  batch_size: 64
  optimizer: adamw
seed: 7
device: cpu
name: "my run"
"""


def encoded(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(64 * (3 if mode == "RGB" else 1), dtype=np.uint8).reshape(8, 8, *([3] * (mode == "RGB")))
    Image.fromarray(pixels, mode if mode == "RGB" else None).save(buffer, kind)
    return buffer.getvalue()


def table_file() -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"age": [1.5, 2.5, None], "size": [3, 4, 5], "color": ["a", "b", "c"]}), buffer)
    return buffer.getvalue()


MODES = {"png": "RGB", "tiff": "L", "bmp": "L", "gif": "L", "webp": "RGB"}

FILES: dict[str, tuple[str, bytes]] = {
    **{
        f"picture.{kind}": ("pictures", encoded(kind, mode))
        for kind, mode in (("png", "RGB"), ("tiff", "L"), ("bmp", "L"))
    },
    **{f"picture.{kind}": ("pictures", encoded(kind, mode)) for kind, mode in (("gif", "L"), ("webp", "RGB"))},
    "picture.jpg": ("pictures", encoded("jpeg", "RGB")),
    "picture.pgm": ("pictures", b"P5\n8 8\n255\n" + bytes(range(64))),
    "table.csv": ("numbers", b"age,size,color\n1.5,3,a\n2,4,b\n,5,\n"),
    "table.tsv": ("numbers", b"age\tsize\tcolor\n1,5\t3\ta\n2\t4\tb\n"),
    "table.parquet": ("numbers", table_file()),
    "texts.txt": ("texts", "abba\nbaab\n\näb\n".encode()),
    "texts.csv": ("texts", b'text,label\n"ab, ""b""",x\nba,y\n'),
}
"""Inputs of a prediction: the model that takes them, and their bytes."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    columns = Columns((Column("age"), Column("size"), Column("color", ("a", "b"))))
    statistics = json.dumps({"mean": [0.1], "std": [0.5]})
    return {
        "pictures": linear(
            folder / "pictures.onnx",
            np.eye(64, 2),
            sizes=(1, 8, 8),
            **{names.INPUT_STATISTICS: statistics, names.KIND: "images", names.SHAPE: "1×8×8"},
        ),
        "numbers": linear(
            folder / "numbers.onnx", np.eye(4, 2), takes="features", sizes=(4,), **{names.COLUMNS: columns.as_json()}
        ),
        "texts": bag_of_letters(folder / "texts.onnx", "ab", np.eye(2), ["a", "b"]),
    }


def attempt(title: str, content: bytes, work: Callable[[], object]) -> None:
    try:
        with time_limit():
            work()
    except UserError as error:
        assert str(error) and error.exit_code in (1, 2)
    except BaseException as error:
        raise AssertionError(f"{title}: {content[:400]!r}") from error


@pytest.mark.filterwarnings("ignore")  # Pillow's, of odd files that it can read
@pytest.mark.parametrize("name", FILES)
def test_damaged_inputs_of_a_prediction_are_told(name: str, models: dict[str, Path], tmp_path: Path, caplog):
    caplog.set_level(logging.CRITICAL)
    model, content = FILES[name]
    file, output = tmp_path / name, tmp_path / "out.csv"
    for seed in range(max(10, INPUTS // 60)):
        draw = random.Random(f"{name} {seed}")
        file.write_bytes(harmed := damaged(content, draw))
        attempt(f"{name}, seed {seed}", harmed, lambda: predict(models[model], [file], output))
        shutil.rmtree(tmp_path / ".out.csv.parts", ignore_errors=True)


@pytest.mark.parametrize(
    "seeds", [range(20), pytest.param(range(20, max(60, INPUTS // 30)), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_damaged_configuration_is_told(tmp_path: Path, seeds: range):
    file = tmp_path / "config.yaml"
    for seed in seeds:
        draw = random.Random(seed)
        content = damaged(CONFIG, draw) if seed % 3 else wrong_value(draw)
        file.write_bytes(content)
        attempt(f"seed {seed}", content, lambda: load(file))


VALUES = (
    *("null", "[]", "{}", "-1", "1e400", ".nan", ".inf", "yes", "'0.3'", "[1, 2]", "{a: {b: [c]}}", "!!binary aGk="),
    *("2001-12-14", "2001-12-14t21:59:43.10-05:00", "0o14", "0x1F", "1_000", "~", "*x", "&x 1", "!!set {a}"),
    *("!!python/object:os.system x", "9" * 5000, "[" * 90 + "]" * 90, "{<<: {a: 1}}", "? {a: 1}\n: 2", "='x'"),
)
KEYS = ("data.args", "train", "x.y", "1", "null", "[a]", "train.lr", "data", "model.args.width", "é")


def wrong_value(draw: random.Random) -> bytes:
    """Return a configuration with values of other kinds."""
    lines = CONFIG.decode().splitlines()
    at = draw.randrange(len(lines))
    key, _, _ = lines[at].partition(":")
    lines[at] = f"{key}: {draw.choice(VALUES)}"
    if draw.random() < 0.3:
        lines.insert(at, f"{draw.choice(KEYS)}: {draw.choice(VALUES)}")
    return "\n".join(lines).encode()


METADATA = ("labels", names.KIND, names.TASK, names.SHAPE, names.COLUMNS, names.VOCABULARY, names.INPUT_STATISTICS)


@pytest.mark.parametrize("kind", ["pictures", "numbers", "texts"])
def test_damaged_metadata_of_a_model_is_told(kind: str, models: dict[str, Path], tmp_path: Path, caplog):
    caplog.set_level(logging.CRITICAL)
    inputs = {"pictures": "picture.png", "numbers": "table.csv", "texts": "texts.txt"}[kind]
    (tmp_path / inputs).write_bytes(FILES[inputs][1])
    good = onnx.load(str(models[kind]))
    file, output = tmp_path / "model.onnx", tmp_path / "out.csv"
    for seed in range(max(20, INPUTS // 60)):
        draw = random.Random(f"{kind} {seed}")
        model = onnx.ModelProto()
        model.CopyFrom(good)
        values = {entry.key: entry.value for entry in model.metadata_props}
        key = draw.choice(METADATA)
        values[key] = damaged(values.get(key, "[1, 8, 8]").encode(), draw).decode("utf-8", "replace")
        del model.metadata_props[:]
        for name, value in values.items():
            model.metadata_props.add(key=name, value=value)
        file.write_bytes(model.SerializeToString())
        attempt(f"{key}, seed {seed}", values[key].encode(), lambda: predict(file, [tmp_path / inputs], output))
        shutil.rmtree(tmp_path / ".out.csv.parts", ignore_errors=True)


@pytest.mark.parametrize("kind", ["pictures", "numbers", "texts"])
def test_a_damaged_model_file_is_told(kind: str, models: dict[str, Path], tmp_path: Path):
    file = tmp_path / "model.onnx"
    for seed in range(max(20, INPUTS // 60)):
        draw = random.Random(f"{kind} {seed}")
        content = damaged(models[kind].read_bytes(), draw)
        file.write_bytes(content)
        attempt(f"{kind}, seed {seed}", content, lambda: open_model(file))


def test_a_damaged_part_of_a_prediction_is_answered_anew(models: dict[str, Path], tmp_path: Path, caplog):
    caplog.set_level(logging.CRITICAL)
    name, content = "table.csv", FILES["table.csv"][1]
    (tmp_path / name).write_bytes(content)
    output, parts = tmp_path / "out.csv", tmp_path / ".out.csv.parts"
    predict(models["numbers"], [tmp_path / name], output)
    expected = output.read_bytes()
    part = part_of(models["numbers"], tmp_path / name, output)
    for seed in range(max(20, INPUTS // 60)):
        draw = random.Random(seed)
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        replace(parts / part[0], harmed := damaged(part[1], draw), draw)
        attempt(f"seed {seed}", harmed, lambda: predict(models["numbers"], [tmp_path / name], output))
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    (parts / part[0]).write_bytes(b"[" * 5000)
    with pytest.raises(UserError, match="damaged"):
        predict(models["numbers"], [tmp_path / name], output)
    predict(models["numbers"], [tmp_path / name], output)
    assert output.read_bytes() == expected


def part_of(model: Path, table: Path, output: Path) -> tuple[str, bytes]:
    """Return the name and the bytes of the one part file of a prediction."""
    from torchmill.components.prediction.inputs import gather
    from torchmill.components.prediction.predict import _answer

    parts = output.with_name("parts")
    parts.mkdir()
    opened = open_model(model)
    _answer(opened, gather(opened, [table]), parts)
    (file,) = parts.glob("*.json")
    return file.name, file.read_bytes()
