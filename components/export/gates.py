"""Checks of an ONNX file before it is published, in addition to the comparison of its outputs."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from torchmill.components.data.samples import Samples
from torchmill.components.encoding.columns import CATEGORICAL, NUMERIC, Columns
from torchmill.components.export.other_runtime import BATCHES, Unable, by_openvino, by_reference, has_openvino
from torchmill.components.export.parity import Judgement, predict_double, scale
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.bare import is_bare
from torchmill.components.onnx_model.feed import fed, takes_cells
from torchmill.components.onnx_model.proto import metadata_of, open_changed, read_without_weights
from torchmill.components.onnx_model.run import answers, as_taken
from torchmill.components.refs import DataRef
from torchmill.components.wording import percent

if TYPE_CHECKING:
    import onnxruntime

SAMPLE = 64
"""Number of test samples for gates that don't need all of them."""
SIZES = ((1.0, 1.0), (1.5, 1.5), (0.8, 0.8), (1.3, 2.1), (2.4, 1.2))
"""Picture sizes to try: height and width, relative to training's."""
LEVELS = 1
"""Largest difference of a prepared pixel from Pillow's, of 255 levels: Pillow's versions round ties differently."""
NOISE = (1e-4, 1e-3, 1e-2)
"""Relative changes of all weights. The comparison must notice the last, or a larger one if it allows more."""
REFERENCE_SAMPLES, REFERENCE_FLOPS = 2, 4e8
"""Number of samples for ONNX's reference implementation, and its limit of work per sample: it is slow."""
OTHER_ROUNDING = 1e-4
"""Largest difference of another runtime, relative to the largest output: it may sum in another order."""
MOST_NOISY = 1_500_000_000
"""Bytes of weights that get errors; a model in one piece has fewer than 2 GB."""
LEARN = "train it for longer, or look at its learning rate and its data"


AnyCandidate = TypeVar("AnyCandidate")

SMALLER_ROOM = 3.0
"""Room for differences of int8 and fp16 that the test split does not show, relative to those that it shows."""


@dataclass(frozen=True)
class Gate:
    """The finding of one check."""

    name: str
    evidence: str
    passed: bool = True


@dataclass(frozen=True)
class Candidate:
    """An ONNX model to check, with the network, data and outputs to compare it with."""

    file: Path
    model: StandardizedModel
    """The network that it was exported from, in eval mode, on the CPU."""
    data: DataRef
    test: Samples
    judge: Judgement
    """Reference outputs on the whole test split."""
    temperature: float

    @property
    def is_bare(self) -> bool:
        return is_bare(self.metadata)

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model, without weights that are in a file beside its own."""
        return read_without_weights(self.file)

    @property
    def metadata(self) -> dict[str, str]:
        return metadata_of(self.proto)

    @property
    def sizes(self) -> list[int | None]:
        """Sizes of the first input; None for free ones."""
        return next(iter(self.sizes_by_input.values()))

    @property
    def sizes_by_input(self) -> dict[str, list[int | None]]:
        """Sizes of each input."""
        dims = {entry.name: entry.type.tensor_type.shape.dim for entry in self.proto.graph.input}
        return {name: [side.dim_value or None for side in sides] for name, sides in dims.items()}

    def inputs(self, samples: int = SAMPLE) -> dict[str, np.ndarray]:
        """Return the first test inputs as the model takes them, by name."""
        samples = min(self.sizes[0] or samples, len(self.test))
        inputs, _ = self.test.first(samples).take(torch.arange(samples))
        return fed(as_taken(inputs), self.metadata, self.sizes_by_input)

    def difference(self, outputs: np.ndarray) -> float:
        """Return the largest difference of outputs for the first test inputs from the reference, in its units."""
        expected = self.judge.outputs[: len(outputs)]
        return float(np.abs(outputs[: len(expected)] / self.judge.units - expected).max())

    def session(self, proto: onnx.ModelProto | None = None) -> "onnxruntime.InferenceSession":
        return open_changed(proto or self.proto, self.file)


def gates(candidate: Candidate, without: Collection[str] = ()) -> list[Gate]:
    """Run every check that applies to a candidate, but those that are left out; a check that raises has failed."""
    return run_checks(CHECKS, candidate, without)


def run_checks(
    checks: Mapping[str, Callable[[AnyCandidate], Gate | None]], candidate: AnyCandidate, without: Collection[str]
) -> list[Gate]:
    """Return the findings of all checks that apply, but those that are left out; a check that raises has failed."""
    chosen = {name: check for name, check in checks.items() if name not in without}
    return [gate for name, check in chosen.items() if (gate := _run(name, check, candidate))]


def _run(name: str, check: Callable[[AnyCandidate], Gate | None], candidate: AnyCandidate) -> Gate | None:
    try:
        return check(candidate)
    except Exception as error:  # onnxruntime's errors share no base class
        return Gate(name, f"it fails: {' '.join(str(error).split())[:300]}", False)


def meaning(candidate: Candidate) -> Gate | None:
    """Check that labels and probabilities follow from the logits, and that the labels are those of the data."""
    data = candidate.data
    if not data.task_object.has_probabilities:
        return None
    if json.loads(candidate.metadata.get(names.CLASSES, "[]")) != list(data.classes):
        return Gate("labels", "the labels in the metadata are not those of the data, in their order", False)
    if candidate.is_bare:
        return Gate("labels", "their names in the metadata are those of the data")
    inputs = candidate.inputs()
    outputs = [data.task_object.onnx_output, names.PROBABILITIES, names.LABELS]
    logits, probabilities, labels, *index = answers(
        candidate.session(), [*outputs, *[names.INDEX] * data.task_object.is_exclusive], **inputs
    )
    # The expected probabilities come from the network itself, not from the model's logits.
    exact = predict_double(candidate.model, candidate.test.first(SAMPLE))
    expected = data.task_object.probabilities(exact, candidate.temperature)
    expected_labels = data.task_object.labels(logits, data.classes)
    worst = float(np.abs(probabilities - expected).max())
    off = max(1e-4, 2 * candidate.judge.allowed)
    if not worst <= off:
        return Gate("labels", f"probabilities differ by {worst:.3g} from those of the network's logits", False)
    if wrong := int(np.not_equal(labels, expected_labels).reshape(len(labels), -1).any(1).sum()):
        return Gate("labels", f"labels of {wrong} of {len(labels)} samples don't follow from their logits", False)
    if index and (wrong := int((index[0] != logits.argmax(1)).sum())):
        return Gate("labels", f"numbers of {wrong} of {len(labels)} labels don't follow from their logits", False)
    return Gate("labels", f"labels and probabilities follow from the logits of {len(labels)} samples ({worst:.1e})")


def pictures(candidate: Candidate) -> Gate | None:
    """Check that pictures of other sizes, in either layout, are prepared like training's."""
    data = candidate.data
    if not data.field.is_picture or candidate.is_bare:
        return None
    from PIL import Image, ImageOps

    channels, height, width = data.shape
    pixels = candidate.test.first(8).inputs.numpy()
    session = candidate.session(_with_prepared(candidate.proto))
    worst, off, seen = 0, 0, 0
    for tall, wide in SIZES:
        size = (round(height * tall), round(width * wide))
        large = np.stack([_scaled(picture, size) for picture in pixels])
        outputs, prepared = answers(session, [data.task_object.onnx_output, names.PREPARED], pixels=large)
        if channels in (1, 3):
            (turned,) = answers(
                session, [data.task_object.onnx_output], pixels=np.ascontiguousarray(large.transpose(0, 2, 3, 1))
            )
            if not np.array_equal(outputs, turned):
                return Gate("pictures", f"{size[0]}x{size[1]}: answers differ if channels are last", False)
            fitted = (ImageOps.fit(_image(p), (width, height), Image.Resampling.BILINEAR) for p in large)
            expected = np.stack([_planes(image) for image in fitted])
            difference = np.abs(prepared.astype(int) - expected)
            worst, off = max(worst, int(difference.max())), off + int((difference > 0).sum())
            seen += expected.size
            if worst > LEVELS:
                return Gate(
                    "pictures", f"{size[0]}x{size[1]}: a prepared pixel differs by {worst} of 255 from Pillow's", False
                )
        exact = predict_double(candidate.model, _as_samples(prepared.astype(np.uint8), candidate.test))
        exact /= candidate.judge.units
        apart = float(np.abs(outputs / candidate.judge.units - exact).max())
        if not apart <= candidate.judge.allowed:
            return Gate("pictures", f"{size[0]}x{size[1]}: outputs differ by {apart:.3g}", False)
    likeness = f"{percent(off / max(seen, 1))} of their pixels a level off Pillow's, " if seen else ""
    return Gate("pictures", f"{len(SIZES)} picture sizes: {likeness}the network's answers, channels first or last")


def texts(candidate: Candidate) -> Gate | None:
    """Check texts of other lengths, unknown token ids and empty texts."""
    data = candidate.data
    if not data.field.is_sequence or candidate.is_bare:
        return None
    (inputs,) = candidate.inputs().values()
    (longest,) = data.shape
    padded = np.zeros((len(inputs), longest + 5), np.int64)
    padded[:, : inputs.shape[1]] = inputs
    odd = padded.copy()
    odd[0, 0], odd[-1, 0], odd[len(odd) // 2] = -3, data.vocabulary_size + 7, 0
    clean = odd[:, :longest].copy()
    clean[0, 0] = clean[-1, 0] = clean[len(odd) // 2, 0] = 1
    session = candidate.session()
    for name, raw, prepared in (("padded", padded, padded[:, :longest]), ("unknown tokens", odd, clean)):
        outputs = answers(session, [data.task_object.onnx_output], tokens=raw)[0] / candidate.judge.units
        exact = predict_double(candidate.model, _as_samples(prepared, candidate.test)) / candidate.judge.units
        apart = float(np.abs(outputs - exact).max())
        if not apart <= candidate.judge.allowed:
            return Gate("texts", f"{name}: outputs differ by {apart:.3g}", False)
    return Gate("texts", f"texts padded beyond {longest} tokens, unknown ids and empty texts: the network's answers")


def cells(candidate: Candidate) -> Gate | None:
    """Check rows without values, in one column after the other and in all, and unknown categories."""
    if not takes_cells(candidate.sizes_by_input):
        return None
    columns = Columns.from_json(candidate.metadata[names.COLUMNS])
    session, worst, cases = candidate.session(), 0.0, _odd_cells(candidate.inputs(), columns)
    for name, raw in cases.items():
        (outputs,) = answers(session, [candidate.data.task_object.onnx_output], **raw)
        encoded = columns.encode(raw).reshape(-1, *candidate.data.shape)
        exact = predict_double(candidate.model, _as_samples(encoded, candidate.test)) / candidate.judge.units
        apart = float(np.abs(outputs / candidate.judge.units - exact).max())
        # Odd rows may have larger answers than the test split, and float32 rounds these more coarsely.
        larger = max(1.0, scale(exact) / scale(candidate.judge.outputs))
        if not apart <= candidate.judge.allowed * larger:
            return Gate("cells", f"{name}: outputs differ by {apart:.3g}", False)
        worst = max(worst, apart)
    return Gate("cells", f"{', '.join(cases)}: the network's answers ({worst:.1e})")


def _odd_cells(inputs: Mapping[str, np.ndarray], columns: Columns) -> dict[str, dict[str, np.ndarray]]:
    """Return inputs of a model that takes cells, with gaps and unknown categories, by their oddity."""
    nothing = {NUMERIC: np.nan, CATEGORICAL: ""}
    rows = np.arange(len(next(iter(inputs.values()))))
    single = {name: cells.copy() for name, cells in inputs.items()}
    for name, cells in single.items():
        cells[rows, rows % cells.shape[1]] = nothing[name]
    cases = {
        "a cell of each row without a value": single,
        "rows without any": {name: np.full_like(cells, nothing[name]) for name, cells in inputs.items()},
    }
    if CATEGORICAL in inputs:
        unknown = [[column.unknown for column in columns.of_categories]] * len(rows)
        cases["unknown categories"] = {**inputs, CATEGORICAL: np.array(unknown, object)}
    return cases


def constant(candidate: Candidate) -> Gate | None:
    """Check that the network's answers vary: the comparison of a constant proves nothing."""
    judge = candidate.judge
    if len(judge.outputs) < 2 or len(np.unique(judge.truth, axis=0)) < 2:
        return None
    spread = float((judge.outputs.max(0) - judge.outputs.min(0)).max())
    if spread <= 2 * judge.allowed:
        return Gate(
            "constant", f"the network gives all {len(judge.outputs):,} samples the same outputs; {LEARN}", False
        )
    distinct = len(np.unique(judge.answers(judge.outputs), axis=0))
    if distinct == 1 and judge.task_object.is_exclusive:
        return Gate("constant", f"the network gives all {len(judge.outputs):,} samples the same answer; {LEARN}", False)
    return Gate("constant", f"{distinct:,} different answers to {len(judge.outputs):,} samples")


def power(candidate: Candidate) -> Gate | None:
    """Check that the comparison would notice slightly wrong weights."""
    inputs = candidate.inputs()
    largest = max(NOISE[-1], 10 * candidate.judge.allowed / scale(candidate.judge.outputs))
    for noise in (*NOISE[:-1], largest):
        changed = noisy(candidate.proto, noise, candidate.file.parent)
        if changed is None:
            return None
        (outputs,) = answers(candidate.session(changed), [candidate.data.task_object.onnx_output], **inputs)
        apart = candidate.difference(outputs)
        if not apart <= candidate.judge.allowed:
            return Gate("power", f"a relative error of {noise:g} in the weights would be noticed ({apart:.1e})")
    return Gate("power", f"a relative error of {largest:g} in the weights would not be noticed", False)


def other_runtime(candidate: Candidate) -> Gate | None:
    """Check that a runtime that is independent of onnxruntime gives the same outputs."""
    # OpenVINO takes no texts, and computes float64 in float32, in which Unix times are a minute apart.
    is_fit = has_openvino() and not takes_cells(candidate.sizes_by_input)
    return _openvino(candidate) if is_fit else _reference(candidate)


def _openvino(candidate: Candidate) -> Gate:
    output, judge = candidate.data.task_object.onnx_output, candidate.judge
    fixed, *_ = candidate.sizes
    batches = (fixed,) if fixed else BATCHES
    try:
        results = by_openvino(candidate.file, candidate.inputs(max(batches)), batches)
    except Unable as unable:
        gate = _reference(candidate)
        return replace(gate, evidence=f"{gate.evidence}; OpenVINO does not run the model, {unable}")
    apart = max(candidate.difference(outputs[output]) for outputs in results)
    sizes = ", ".join(map(str, batches))
    allowed = max(judge.allowed, OTHER_ROUNDING * scale(judge.outputs))
    return Gate("runtime", f"OpenVINO differs by {apart:.1e} at batch sizes {sizes} in turn", apart <= allowed)


def _reference(candidate: Candidate) -> Gate:
    from torch.utils.flop_counter import FlopCounterMode

    few = candidate.test.first(REFERENCE_SAMPLES)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        candidate.model(few.take(torch.arange(1))[0])
    if counter.get_total_flops() > REFERENCE_FLOPS:
        return Gate("reference", f"not tried: {counter.get_total_flops():.1e} operations a sample would take minutes")
    inputs, output = candidate.inputs(REFERENCE_SAMPLES), candidate.data.task_object.onnx_output
    try:
        outputs = by_reference(candidate.file, inputs)[output][:REFERENCE_SAMPLES]
    except Unable as unable:
        return Gate("reference", f"not available, {unable}")
    apart = candidate.difference(outputs)
    evidence = f"ONNX's reference implementation differs by {apart:.1e} on {min(len(outputs), len(few))} samples"
    return Gate("reference", evidence, apart <= candidate.judge.allowed)


def _as_samples(inputs: np.ndarray, test: Samples) -> Samples:
    return Samples(torch.from_numpy(inputs), test.labels[: len(inputs)])


def _image(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _planes(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _scaled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a picture (C, H, W) to a height and width by nearest neighbour."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, pixels.shape[1:], strict=True))
    return pixels[:, rows][:, :, columns]


def _with_prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model that also outputs its network's prepared input."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.graph.output.append(next(value for value in changed.graph.value_info if value.name == names.PREPARED))
    return changed


def noisy(proto: onnx.ModelProto, noise: float, folder: Path) -> onnx.ModelProto | None:
    """Return a copy of a model with random relative errors in its weights; None if it has no weights.

    Of weights in a file beside the model, those are changed that fit into the model.
    """
    room, changed, rng, has_weights = MOST_NOISY, onnx.ModelProto(), np.random.default_rng(0), False
    changed.CopyFrom(proto)
    for weight in changed.graph.initializer:
        size = 4 * int(np.prod(weight.dims))
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) > 1 and 4 < size <= room:
            room -= size
            values = numpy_helper.to_array(weight, str(folder))
            off = values * (1 + noise * rng.standard_normal(values.shape))
            weight.CopyFrom(numpy_helper.from_array(off.astype(np.float32), weight.name))
            has_weights = True
    return changed if has_weights else None


Check = Callable[[Candidate], Gate | None]

CHECKS: dict[str, Check] = {
    "labels": meaning,
    "pictures": pictures,
    "texts": texts,
    "cells": cells,
    "constant": constant,
    "power": power,
    "runtime": other_runtime,
}
