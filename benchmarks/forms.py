"""Microseconds of the complete form of an ONNX model, beside the bare form and beside Pillow with the bare form.

- at its own size: the complete form takes raw inputs and also gives probabilities and labels; the bare form takes
  inputs that were prepared before the clock started, and gives logits.
- large pictures: the complete form takes all pixels; on the other side Pillow's ``ImageOps.fit`` and numpy prepare them
  for the bare form.

Networks are those of the digits and names examples, with first weights. onnxruntime has a thread per processor.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.measure import Claim, in_turn
from tests.toy import made, toy_data, toy_numbers, toy_tokens
from torchmill.components.data.samples import read_test
from torchmill.components.export.to_onnx import export_core, write_bare, write_complete
from torchmill.components.onnx_model.bare import prepared_inputs, standardized
from torchmill.components.onnx_model.run import as_taken
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef

ROUNDS, SECONDS = 25, 0.15
MAKERS: dict[str, tuple[str, Callable[[Path], DataRef]]] = {
    "SimpleCNN": ("simple_cnn", toy_data),
    "Transformer": ("transformer", toy_tokens),
    "MLP": ("mlp", toy_numbers),
}
GOALS = {1: "≤ 1.3", 64: "≤ 1.05"}
SIZES = ((480, 640), (1080, 1920))


def measure() -> list[Claim]:
    claims = []
    with tempfile.TemporaryDirectory() as place:
        for name, (network, make) in MAKERS.items():
            folder = Path(place) / name
            folder.mkdir()
            data = make(folder)
            core = export_core(made(network, data), data)
            write_bare(core, data, {}, folder / "bare.onnx")
            write_complete(core, data, {}, folder / "complete.onnx")
            claims += [own_size(name, folder, data, batch) for batch in GOALS]
            if data.field.is_picture:
                claims += [large(name, folder, data, size) for size in SIZES]
    return claims


def own_size(name: str, folder: Path, data: DataRef, batch: int) -> Claim:
    complete, bare = open_session(folder / "complete.onnx"), open_session(folder / "bare.onnx")
    raw = as_taken(read_test(data).inputs[:batch])
    prepared = prepared_inputs(raw, bare.get_modelmeta().custom_metadata_map)
    figures = in_turn(
        {
            "complete": lambda: microseconds(lambda: complete.run(None, {data.field.onnx_input: raw})),
            "bare": lambda: microseconds(lambda: bare.run(None, {data.field.bare_input: prepared})),
        },
        ROUNDS,
    )
    return Claim(
        "complete ONNX form",
        f"bare form, {name}, batch of {batch}",
        figures["complete"],
        figures["bare"],
        "µs",
        GOALS[batch],
    )


def large(name: str, folder: Path, data: DataRef, size: tuple[int, int]) -> Claim:
    complete, bare = open_session(folder / "complete.onnx"), open_session(folder / "bare.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    metadata = bare.get_modelmeta().custom_metadata_map
    _, height, width = data.shape

    def by_pillow() -> None:
        image = ImageOps.fit(Image.fromarray(pixels).convert("L"), (width, height), Image.Resampling.BILINEAR)
        bare.run(None, {data.field.bare_input: standardized(np.asarray(image)[None, None], metadata)})

    figures = in_turn(
        {
            "complete": lambda: microseconds(lambda: complete.run(None, {data.field.onnx_input: pixels[None]})),
            "Pillow and bare": lambda: microseconds(by_pillow),
        },
        ROUNDS,
    )
    beside = f"Pillow, then the bare form, {size[1]}×{size[0]}"
    return Claim("complete ONNX form", beside, figures["complete"], figures["Pillow and bare"], "µs", "≤ 1")


def microseconds(call: Callable[[], object]) -> float:
    """Return the mean duration of a call, repeated for ``SECONDS``."""
    call()
    started, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS:
        call()
        count += 1
    return 1e6 * seconds / count
