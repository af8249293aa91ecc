"""Checks of an ONNX model of a task over named fields before it is published, in addition to the comparison."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.export.field_parity import BATCH, Answering, double_answers, limit, torch_answers
from torchmill.components.export.gates import LEARN, NOISE, OTHER_ROUNDING, SMALLER_ROOM, Gate, noisy, run_checks
from torchmill.components.export.other_runtime import BATCHES, Unable, by_openvino, has_openvino
from torchmill.components.export.parity import scale
from torchmill.components.onnx_model.field_run import Arrays, answers_of
from torchmill.components.onnx_model.proto import open_changed, read_without_weights

MOST_OTHERWISE = 0.01
"""Largest share of whole numbers that may differ in another runtime: its rounding decides some otherwise."""


@dataclass(frozen=True)
class FieldCandidate:
    """A model to check, with what its network answers to some test samples."""

    file: Path
    module: Answering
    fields: Sequence[FieldRef]
    inputs: Mapping[str, Tensor]
    exact: Arrays
    """Answers of the network in float64."""
    allowed: Mapping[str, float]
    """Largest difference of each answer that is a fraction."""
    tolerance: float
    """Largest difference relative to the largest answer, or to 1."""
    otherwise: float = MOST_OTHERWISE
    """Largest share of whole numbers that may differ."""

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model, without weights that are in a file beside its own."""
        return read_without_weights(self.file)

    def answers(self, proto: onnx.ModelProto | None = None, inputs: Mapping[str, Tensor] | None = None) -> Arrays:
        """Return the answers of the model, or of a changed one, in onnxruntime."""
        return answers_of(open_changed(proto or self.proto, self.file), inputs or self.inputs, BATCH)

    def differing(self, outputs: Arrays, exact: Arrays, allowed: Mapping[str, float]) -> str:
        """Return which answer is not the network's, in words; empty if all are."""
        for name, expected in exact.items():
            answer = outputs[name][: len(expected)]
            expected = expected[: len(answer)]
            if answer.shape != expected.shape:
                return f"{name} has the shape {answer.shape}, not {expected.shape}"
            if expected.dtype.kind == "f":
                worst = float(np.nan_to_num(np.abs(answer - expected), nan=np.inf).max(initial=0))
                if worst > allowed[name]:
                    return f"{name} differs by {worst:.2g}"
            elif (share := float((answer != expected).mean())) > self.otherwise:
                return f"{share:.1%} of {name} differ"
        return ""


def field_gates(candidate: FieldCandidate, without: Collection[str] = ()) -> list[Gate]:
    """Run every check that applies, but those that are left out; a check that raises has failed."""
    return run_checks(CHECKS, candidate, without)


def gates_of_smaller(candidate: FieldCandidate, file: Path) -> list[Gate]:
    """Run the checks on a smaller model: they allow a multiple of its difference from the network."""
    smaller = replace(candidate, file=file)
    apart = _apart(smaller.answers(), candidate.exact)
    shares = [SMALLER_ROOM * apart[name] for name, values in candidate.exact.items() if values.dtype.kind != "f"]
    allowed = {name: max(limit, SMALLER_ROOM * apart[name]) for name, limit in candidate.allowed.items()}
    smaller = replace(smaller, allowed=allowed, otherwise=max([candidate.otherwise, *shares]))
    # Its weights are not of the type that the power gate changes, and its lengths are those of the large one.
    return field_gates(smaller, without=("power", "lengths"))


def _apart(outputs: Arrays, exact: Arrays) -> dict[str, float]:
    """Return the largest difference of fractions, and the share of whole numbers that differ, by answer."""
    return {
        name: float(np.abs(outputs[name] - expected).max(initial=0))
        if expected.dtype.kind == "f"
        else float((outputs[name] != expected).mean())
        for name, expected in exact.items()
    }


def constant(candidate: FieldCandidate) -> Gate | None:
    """Check that some answer varies: the comparison of constants proves nothing."""
    samples = len(next(iter(candidate.exact.values())))
    inputs_vary = any(len(values.unique(dim=0)) > 1 for values in candidate.inputs.values())
    if samples < 2 or not inputs_vary:
        return None
    for name, values in candidate.exact.items():
        spread = float(np.ptp(values.astype(np.float64), axis=0).max(initial=0))
        if spread > 2 * candidate.allowed.get(name, 0.0):
            return Gate("constant", f"{name} varies over {samples:,} samples")
    return Gate("constant", f"the network gives all {samples:,} samples the same answers; {LEARN}", False)


def lengths(candidate: FieldCandidate) -> Gate | None:
    """Check ragged fields that are padded to other lengths than the longest of the training data."""
    ragged = [field.name for field in candidate.fields if field.ragged]
    if not ragged:
        return None
    counts = {field.name for field in candidate.fields if field.kind == "lengths"}
    longest = candidate.inputs[ragged[0]].shape[1]
    of_tokens = all(field.kind == "ids" for field in candidate.fields if field.ragged)
    # Convolutions over signals need a few steps: samples are cut to none that the data could not have.
    shortest = min((int(candidate.inputs[name].min()) for name in counts), default=longest // 2)
    tried = sorted(
        ({1, 2, max(1, longest // 2)} if of_tokens else {shortest, (shortest + longest) // 2}) - {0, longest}
    )
    for length in tried:
        inputs = {
            name: values[:, :length] if name in ragged else values.clamp(max=length) if name in counts else values
            for name, values in candidate.inputs.items()
        }
        exact, single = double_answers(candidate.module, inputs), torch_answers(candidate.module, inputs)
        allowed = {name: limit(exact[name], single[name], candidate.tolerance) for name in exact}
        if wrong := candidate.differing(candidate.answers(inputs=inputs), exact, allowed):
            return Gate("lengths", f"samples cut to {length}: {wrong}", False)
    return Gate("lengths", f"samples cut to {', '.join(map(str, tried))} of {longest}: the network's answers")


def power(candidate: FieldCandidate) -> Gate:
    """Check that the comparison would notice slightly wrong weights."""
    for noise in NOISE:
        changed = noisy(candidate.proto, noise, candidate.file.parent)
        if changed and (noticed := candidate.differing(candidate.answers(changed), candidate.exact, candidate.allowed)):
            return Gate("power", f"a relative error of {noise:g} in the weights would be noticed: {noticed}")
    evidence = f"a relative error of {NOISE[-1]:g} in the weights would not be noticed"
    return Gate("power", f"{evidence}: the answers hardly depend on the network", False)


def other_runtime(candidate: FieldCandidate) -> Gate | None:
    """Check that a runtime that is independent of onnxruntime gives the same answers."""
    if not has_openvino():
        return None
    inputs = {name: values[: max(BATCHES)].numpy() for name, values in candidate.inputs.items()}
    try:
        results = by_openvino(candidate.file, inputs, BATCHES)
    except Unable as unable:
        return Gate("runtime", f"OpenVINO does not run the model, {unable}")
    allowed = {
        name: max(candidate.allowed[name], OTHER_ROUNDING * scale(values)) if values.dtype.kind == "f" else 0.0
        for name, values in candidate.exact.items()
    }
    sizes = ", ".join(map(str, BATCHES))
    for outputs in results:
        if wrong := candidate.differing(outputs, candidate.exact, allowed):
            return Gate("runtime", f"OpenVINO at batch size {len(next(iter(outputs.values())))}: {wrong}", False)
    return Gate("runtime", f"OpenVINO gives the same answers at batch sizes {sizes} in turn")


CHECKS: dict[str, Callable[[FieldCandidate], Gate | None]] = {
    "constant": constant,
    "lengths": lengths,
    "power": power,
    "runtime": other_runtime,
}
