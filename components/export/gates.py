"""What an ONNX file has to stand, besides the comparison of its outputs, before it is published."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from torchmill.components.data.samples import Samples
from torchmill.components.export.parity import Judgement, predict_double
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.run import answers, as_taken
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef
from torchmill.components.wording import percent

if TYPE_CHECKING:
    import onnxruntime

SAMPLE = 64
"""Of test samples, for what needs not all of them."""
SIZES = ((1.0, 1.0), (1.5, 1.5), (0.8, 0.8), (1.3, 2.1), (2.4, 1.2))
"""Of pictures, beside those of training: height and width."""
LEVELS = 1
"""By so many of 255 a prepared pixel may differ from Pillow's, whose versions round ties and order passes otherwise."""
NOISE = (1e-4, 1e-3, 1e-2)
"""Relative changes of all weights, of which the comparison has to notice the last; a larger one if more is allowed."""
REFERENCE_SAMPLES, REFERENCE_FLOPS = 2, 4e8
"""ONNX's reference implementation is slow: what it is given, and the work for a sample beyond which it is spared it."""
DECIMALS = 1e-5
LEARN = "train it for longer, or look at its learning rate and its data"


@dataclass(frozen=True)
class Gate:
    """Something that was looked at."""

    name: str
    evidence: str
    passed: bool = True


@dataclass(frozen=True)
class Candidate:
    """An ONNX model that is to be published, and all that it is held against."""

    proto: onnx.ModelProto
    model: StandardizedModel
    """The network it came from, in evaluation mode, on the processor."""
    data: DataRef
    test: Samples
    judge: Judgement
    """On the whole test split."""
    temperature: float

    def session(self, proto: onnx.ModelProto | None = None) -> "onnxruntime.InferenceSession":
        return open_session((proto or self.proto).SerializeToString())


def gates(candidate: Candidate) -> list[Gate]:
    """Look at everything that applies to a candidate."""
    return [gate for name, look in LOOKS.items() if (gate := _looked(name, look, candidate))]


def _looked(name: str, look: "Look", candidate: Candidate) -> Gate | None:
    try:
        return look(candidate)
    except Exception as error:  # onnxruntime's errors have no base of their own
        return Gate(name, f"it fails: {' '.join(str(error).split())[:300]}", False)


def meaning(candidate: Candidate) -> Gate | None:
    """Do labels and probabilities follow from the logits, and are the labels those of the data?"""
    data = candidate.data
    if not data.task_object.has_probabilities:
        return None
    told = {entry.key: entry.value for entry in candidate.proto.metadata_props}
    if json.loads(told.get(names.CLASSES, "[]")) != list(data.classes):
        return Gate("labels", "the labels in the metadata are not those of the data, in their order", False)
    inputs, _ = _some(candidate.test)
    named = {data.field.onnx_input: inputs}
    logits, probabilities, labels = answers(
        candidate.session(), [data.task_object.onnx_output, names.PROBABILITIES, names.LABELS], **named
    )
    # From the network itself, not from the logits that came with them.
    exact = predict_double(candidate.model, candidate.test.first(SAMPLE))
    expected = data.task_object.probabilities(exact, candidate.temperature)
    expected_labels = data.task_object.labels(logits, data.classes)
    worst = float(np.abs(probabilities - expected).max())
    off = max(1e-4, 2 * candidate.judge.allowed)
    if not worst <= off:
        return Gate("labels", f"probabilities differ by {worst:.3g} from what the network's logits give", False)
    if wrong := int(np.not_equal(labels, expected_labels).reshape(len(labels), -1).any(1).sum()):
        return Gate("labels", f"labels of {wrong} of {len(labels)} samples are not what their logits say", False)
    return Gate("labels", f"labels and probabilities are what the logits of {len(labels)} samples say ({worst:.1e})")


def pictures(candidate: Candidate) -> Gate | None:
    """Are pictures of other sizes, in either layout, prepared as training's were?"""
    data = candidate.data
    if not data.field.is_picture:
        return None
    from PIL import Image, ImageOps

    channels, height, width = data.shape
    pixels = candidate.test.first(8).inputs.numpy()
    session = candidate.session(_with_prepared(candidate.proto))
    worst, off, seen = 0, 0, 0
    for tall, wide in SIZES:
        size = (round(height * tall), round(width * wide))
        large = np.stack([_scaled(one, size) for one in pixels])
        outputs, prepared = answers(session, [data.task_object.onnx_output, names.PREPARED], pixels=large)
        if channels in (1, 3):
            (turned,) = answers(
                session, [data.task_object.onnx_output], pixels=np.ascontiguousarray(large.transpose(0, 2, 3, 1))
            )
            if not np.array_equal(outputs, turned):
                return Gate("pictures", f"{size[0]}x{size[1]} answers otherwise where channels are last", False)
            wanted = np.stack(
                [_planes(ImageOps.fit(_image(one), (width, height), Image.Resampling.BILINEAR)) for one in large]
            )
            difference = np.abs(prepared.astype(int) - wanted)
            worst, off, seen = max(worst, int(difference.max())), off + int((difference > 0).sum()), seen + wanted.size
            if worst > LEVELS:
                return Gate(
                    "pictures", f"{size[0]}x{size[1]}: a prepared pixel differs by {worst} of 255 from Pillow's", False
                )
        exact = predict_double(candidate.model, _as_samples(prepared, candidate.test)) / candidate.judge.units
        apart = float(np.abs(outputs / candidate.judge.units - exact).max())
        if not apart <= candidate.judge.allowed:
            return Gate("pictures", f"{size[0]}x{size[1]}: outputs differ by {apart:.3g}", False)
    like = f"{percent(off / max(seen, 1))} of their pixels a level off Pillow's, " if seen else ""
    return Gate("pictures", f"{len(SIZES)} sizes of pictures, {like}answers as the network's, channels first or last")


def texts(candidate: Candidate) -> Gate | None:
    """Are texts of other lengths, and ids that nobody knows, taken as they should be?"""
    data = candidate.data
    if not data.field.is_sequence:
        return None
    inputs, _ = _some(candidate.test)
    (longest,) = data.shape
    padded = np.zeros((len(inputs), longest + 5), np.int64)
    padded[:, : inputs.shape[1]] = inputs
    odd = padded.copy()
    odd[0, 0], odd[-1, 0], odd[len(odd) // 2] = -3, data.vocabulary_size + 7, 0
    known = odd[:, :longest].copy()
    known[0, 0] = known[-1, 0] = known[len(odd) // 2, 0] = 1
    session = candidate.session()
    for name, given, taken in (("padded", padded, padded[:, :longest]), ("unknown tokens", odd, known)):
        outputs = answers(session, [data.task_object.onnx_output], tokens=given)[0] / candidate.judge.units
        exact = predict_double(candidate.model, _as_samples(taken, candidate.test)) / candidate.judge.units
        apart = float(np.abs(outputs - exact).max())
        if not apart <= candidate.judge.allowed:
            return Gate("texts", f"{name}: outputs differ by {apart:.3g}", False)
    return Gate("texts", f"texts padded beyond {longest} tokens, unknown ids and empty texts answer as the network's")


def constant(candidate: Candidate) -> Gate | None:
    """Does it answer anything but one thing? Whatever is compared then proves nothing."""
    judge = candidate.judge
    if len(judge.outputs) < 2 or len(np.unique(judge.truth, axis=0)) < 2:
        return None
    spread = float((judge.outputs.max(0) - judge.outputs.min(0)).max())
    if spread <= 2 * judge.allowed:
        return Gate(
            "constant", f"the network gives all {len(judge.outputs):,} samples the same outputs; {LEARN}", False
        )
    given = len(np.unique(judge.answers(judge.outputs), axis=0))
    if given == 1 and judge.task_object.is_exclusive:
        return Gate("constant", f"the network gives all {len(judge.outputs):,} samples the same answer; {LEARN}", False)
    return Gate("constant", f"{given:,} different answers to {len(judge.outputs):,} samples")


def power(candidate: Candidate) -> Gate | None:
    """Would the comparison notice weights that are a little off?"""
    inputs, _ = _some(candidate.test)
    wanted = candidate.judge.outputs[: len(inputs)]
    name = candidate.data.field.onnx_input
    largest = max(NOISE[-1], 10 * candidate.judge.allowed / max(1.0, float(np.abs(candidate.judge.outputs).max())))
    for noise in (*NOISE[:-1], largest):
        changed = _noisy(candidate.proto, noise)
        if changed is None:
            return None
        (outputs,) = answers(candidate.session(changed), [candidate.data.task_object.onnx_output], **{name: inputs})
        apart = float(np.abs(outputs / candidate.judge.units - wanted).max())
        if not apart <= candidate.judge.allowed:
            return Gate("power", f"weights that are off by {noise:g} of themselves would be noticed ({apart:.1e})")
    return Gate("power", f"weights that are off by {largest:g} of themselves would not be noticed", False)


def reference(candidate: Candidate) -> Gate | None:
    """Does another implementation of ONNX give the same, written by other people in another language?"""
    from onnx.reference import ReferenceEvaluator
    from torch.utils.flop_counter import FlopCounterMode

    few = candidate.test.first(REFERENCE_SAMPLES)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        candidate.model(few.take(torch.arange(1))[0])
    if counter.get_total_flops() > REFERENCE_FLOPS:
        return Gate("reference", f"not tried: {counter.get_total_flops():.1e} operations a sample would take minutes")
    inputs, _ = _some(few)
    output = candidate.data.task_object.onnx_output
    try:
        (given, *_) = ReferenceEvaluator(candidate.proto).run([output], {candidate.data.field.onnx_input: inputs})
    except (NotImplementedError, RuntimeError, TypeError) as error:  # an operator that it does not have
        return Gate("reference", f"not to be had: {' '.join(str(error).split())[:200]}")
    apart = float(np.abs(np.asarray(given) / candidate.judge.units - candidate.judge.outputs[: len(inputs)]).max())
    told = f"ONNX's reference implementation differs by {apart:.1e} on {len(inputs)} samples"
    return Gate("reference", told, apart <= candidate.judge.allowed)


def _some(test: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Give a few samples as the model takes them, and their labels."""
    inputs, labels = test.first(SAMPLE).take(torch.arange(min(SAMPLE, len(test))))
    return as_taken(inputs), labels.numpy()


def _as_samples(inputs: np.ndarray, test: Samples) -> Samples:
    return Samples(torch.from_numpy(inputs), test.labels[: len(inputs)])


def _image(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _planes(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _scaled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Give a picture (C, H, W) another height and width; the nearest pixel will do."""
    rows, columns = (np.arange(wanted) * given // wanted for wanted, given in zip(size, pixels.shape[1:], strict=True))
    return pixels[:, rows][:, :, columns]


def _with_prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Have a model give what its network itself gets, too."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.graph.output.append(next(value for value in changed.graph.value_info if value.name == names.PREPARED))
    return changed


def _noisy(proto: onnx.ModelProto, noise: float) -> onnx.ModelProto | None:
    """Change all weights by a random share of themselves; none where there are none."""
    changed, rng, found = onnx.ModelProto(), np.random.default_rng(0), False
    changed.CopyFrom(proto)
    for weight in changed.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) > 1 and np.prod(weight.dims) > 1:
            values = numpy_helper.to_array(weight)
            off = values * (1 + noise * rng.standard_normal(values.shape))
            weight.CopyFrom(numpy_helper.from_array(off.astype(np.float32), weight.name))
            found = True
    return changed if found else None


Look = Callable[[Candidate], Gate | None]

LOOKS: dict[str, Look] = {
    "labels": meaning,
    "pictures": pictures,
    "texts": texts,
    "constant": constant,
    "power": power,
    "reference": reference,
}
