"""The export of a network: a model is published only if it is proven equal to the network."""

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.first_divergence import first_divergence
from torchmill.components.export.gates import SMALLER_ROOM, Candidate, Gate, gates
from torchmill.components.export.parity import JUDGE_BATCH, Judgement, Parity, as_json, compare, refer
from torchmill.components.export.pre_and_post import OPSET
from torchmill.components.export.quantize import Bits, LabelSubject, Smaller, Subject, quantize
from torchmill.components.export.to_onnx import export_core, offload, write_bare, write_complete
from torchmill.components.export.triton import triton_config
from torchmill.components.files import temporary_folder, write_arrays, write_text
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.bare import fixed_sizes
from torchmill.components.onnx_model.proto import read_without_weights, weights_beside
from torchmill.components.onnx_model.run import answers, as_taken, run
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef, ExportRef, FileRef

logger = logging.getLogger("torchmill")

EXAMPLES = 8  # samples in the example file
FORMS = {names.COMPLETE: "model.onnx", names.BARE: "model.bare.onnx"}
WEIGHTS = {names.COMPLETE: "model.weights", names.BARE: "model.bare.weights"}
"""Weights that are too large for an ONNX file. Both forms share the first, unless the bare one is exported anew."""
TRITON = "config.pbtxt"
WRITERS = {names.COMPLETE: write_complete, names.BARE: write_bare}
Build = Callable[[ir.Model, Path], None]
"""Function that writes a form of a model, given its bare form, which it uses up, and the new file."""
SMALLER: dict[Bits, str] = {"int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}


class ParityError(UserError):
    """The exported model does not give the network's answers."""


def export(
    network: nn.Module,
    data: DataRef,
    test: Samples,
    config: ExportConfig,
    metadata: Mapping[str, str],
    folder: Path,
    temperature: float = 1.0,
    calibration: Samples | None = None,
) -> ExportRef:
    """Write the ONNX models that ``config`` asks for, and files about them, into ``folder``.

    There are two forms: ``model.onnx``, complete with pre- and postprocessing, and ``model.bare.onnx``, the network
    alone. Beside them are the proof (``parity.json``), a few inputs with their outputs (``example.npz``) and Triton's
    ``config.pbtxt``. If a form fails the comparison or a gate, both stay as ``….rejected.onnx``, and nothing is
    published.

    Args:
        calibration: training samples for the int8 and fp16 models; None skips both.

    Raises:
        ParityError: a model fails the comparison or a gate, or a required smaller model is refused.
        UserError: the network cannot be exported.
    """
    for earlier in (*FORMS.values(), *WEIGHTS.values(), *SMALLER.values(), "parity.json", "example.npz", TRITON):
        (folder / earlier).unlink(missing_ok=True)
    files = {form: folder / name for form, name in FORMS.items() if config.form in (form, "both")}
    rejected = {form: _rejected(file) for form, file in files.items()}
    builds = {form: _build(WRITERS[form], data, metadata, temperature) for form in files}
    with _core_file(network, data, metadata, temperature, folder) as plain:
        for form, build in builds.items():
            own = form == names.BARE and (config.batch or config.opset != OPSET)
            bare = export_core(network, data, config.batch, config.opset) if own else ir.load(plain)
            if own:
                offload(bare, folder / WEIGHTS[names.BARE])
            build(bare, rejected[form])
        proofs = _proven(rejected, network, data, test, config, temperature, folder / "parity.json")
        if calibration is not None:
            # The bare form may have a fixed batch; the plain core is the same network with a free one.
            model = rejected.get(names.COMPLETE, plain)
            judge = next(iter(proofs.values())).parity.judge
            check = functools.partial(_gates_of_smaller, network, data, test, temperature, judge)
            build = next(iter(builds.values()))
            smaller = write_smaller(plain, model, build, LabelSubject(data, calibration, test), config, folder, check)
            verdicts = {bits: small.as_plain() for bits, small in smaller.items()}
            write_text(folder / "parity.json", parity_json(proofs, **({"smaller": verdicts} if verdicts else {})))
            check_required(config, smaller)
    for form, file in files.items():
        rejected[form].replace(file)
    main = next(iter(files.values()))
    _write_example(main, data, test, folder / "example.npz")
    write_text(folder / TRITON, triton_config(main))
    return _published(list(files.values()), list(proofs.values()), folder)


def _published(files: Sequence[Path], proofs: "Sequence[Proof]", folder: Path) -> ExportRef:
    """Return the reference of an export; weights that none of its files uses are removed."""
    main, *others = files
    smaller = [path for name in SMALLER.values() if (path := folder / name).exists()]
    used = set().union(*(weights_beside(read_without_weights(file)) for file in (*files, *smaller)))
    for name in set(WEIGHTS.values()) - used:
        (folder / name).unlink(missing_ok=True)
    return ExportRef(
        onnx=FileRef.of(main),
        bare=FileRef.of(others[0]) if others else None,
        report=FileRef.of(folder / "parity.json"),
        max_abs_diff=max(proof.parity.max_abs_diff for proof in proofs),
        agreement=min(proof.parity.agreement for proof in proofs),
        example=FileRef.of(folder / "example.npz"),
        triton=FileRef.of(folder / TRITON),
        smaller=tuple(map(FileRef.of, smaller)),
        weights=tuple(FileRef.of(folder / name) for name in sorted(used, reverse=True)),
    )


@contextlib.contextmanager
def _core_file(
    network: nn.Module, data: DataRef, metadata: Mapping[str, str], temperature: float, folder: Path
) -> Generator[Path]:
    """Yield a temporary file with the network alone; weights that are too large for it go into ``folder``."""
    with temporary_folder() as scratch:
        core = export_core(network, data)
        # An ONNX file lies beside its weights.
        file = (folder if offload(core, folder / WEIGHTS[names.COMPLETE]) else scratch) / "core.onnx"
        try:
            write_bare(core, data, metadata, file, temperature)
            yield file
        finally:
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Proof:
    """Findings about one form of a model."""

    parity: Parity
    gates: tuple[Gate, ...] = ()
    first_difference: str = ""
    """Layer at which model and network part, if the comparison failed."""

    @property
    def failed(self) -> list[str]:
        return [f"{gate.name}: {gate.evidence}" for gate in self.gates if not gate.passed]

    def as_plain(self) -> dict[str, Any]:
        """Return the entries for ``parity.json``."""
        more: dict[str, Any] = {"gates": [asdict(gate) for gate in self.gates]} if self.gates else {}
        if self.first_difference:
            more["first_difference"] = self.first_difference
        return self.parity.as_plain(**more, passed=self.parity.passed and not self.failed)


def _proven(
    files: Mapping[str, Path],
    network: nn.Module,
    data: DataRef,
    test: Samples,
    config: ExportConfig,
    temperature: float,
    report: Path,
) -> dict[str, Proof]:
    """Compare each form with the network, run its gates, and write ``parity.json``.

    Raises:
        ParityError: a form differs from the network, or fails a gate.
    """
    model = StandardizedModel.of(network.cpu(), data).eval()
    reference = refer(model, data, test, config.tolerance)
    proofs: dict[str, Proof] = {}
    for form, file in files.items():
        is_fixed = form == names.BARE and config.batch is not None
        sizes = (config.batch or 1,) if is_fixed else config.batch_sizes
        parity = compare(file, network, data, test, sizes, config.tolerance, reference)
        candidate = Candidate(file, model, data, test, parity.judge, temperature)
        if parity.passed:
            proof = Proof(parity, tuple(gates(candidate)))
        else:
            proof = Proof(parity, first_difference=_divergence(candidate))
        proofs[form] = proof
        write_text(report, parity_json(proofs))
        _check(form, proof, report)
    return proofs


def _check(form: str, proof: Proof, report: Path) -> None:
    """Raise ParityError if a form of a model differs from its network, or fails a gate."""
    name = "bare ONNX model" if form == names.BARE else "ONNX model"
    remedy = f"Nothing is published; see {report} and {_rejected(Path(FORMS[form])).name} beside it."
    if not proof.parity.passed:
        part = f" They part {proof.first_difference}." * bool(proof.first_difference)
        raise ParityError(f"The {name} differs from the network: {'; '.join(proof.parity.complaints)}.{part}", remedy)
    if proof.failed:
        raise ParityError(f"The {name} fails a check and is not published: {'; '.join(proof.failed)}.", remedy)


def parity_json(proofs: Mapping[str, Proof], **more: Any) -> str:
    """Return ``parity.json``: the proof of the complete form, or of the only one, and the bare one's within it."""
    main, *others = proofs.values()
    entries = main.as_plain()
    if others:
        entries["bare"] = others[0].as_plain()
    return as_json(entries | more)


def _build(
    write: Callable[[ir.Model, DataRef, Mapping[str, str], Path, float], None],
    data: DataRef,
    metadata: Mapping[str, str],
    temperature: float,
) -> Build:
    def build(bare: ir.Model, path: Path) -> None:
        write(bare, data, metadata, path, temperature)

    return build


def _rejected(file: Path) -> Path:
    return file.with_suffix(".rejected.onnx")


def write_smaller(
    core: Path,
    model: Path,
    build: Build,
    subject: Subject,
    config: ExportConfig,
    folder: Path,
    check: Callable[[Path], Sequence[Gate]],
) -> dict[Bits, Smaller]:
    """Write the int8 and fp16 models that the config asks for, in the main form, and return the verdicts."""
    switches: dict[Bits, str] = {"int8": config.int8, "fp16": config.fp16}
    verdicts: dict[Bits, Smaller] = {}
    for bits in (bits for bits, switch in switches.items() if switch != "off"):
        path = folder / SMALLER[bits]
        small = quantize(bits, core, model, build, path, subject, config.budget, check)
        logger.info("%s  %s: %s", bits, "accepted" if small.accepted else "fp32 stays", small.reason)
        verdicts[bits] = small
    return verdicts


def _gates_of_smaller(
    network: nn.Module, data: DataRef, test: Samples, temperature: float, judge: Judgement, path: Path
) -> list[Gate]:
    """Run the gates on a smaller model: they allow a multiple of its difference from the network on the test split."""
    model = StandardizedModel.of(network.cpu(), data).eval()
    candidate = Candidate(path, model, data, test, judge, temperature)
    apart = candidate.difference(run(open_session(path), test, JUDGE_BATCH)[1])
    allowed = max(judge.allowed, SMALLER_ROOM * apart)
    # Its comparison is that of accuracies, and its weights are not of the type that the power gate changes.
    return gates(replace(candidate, judge=replace(judge, allowed=allowed)), without=("power",))


def check_required(config: ExportConfig, verdicts: Mapping[Bits, Smaller]) -> None:
    """Raise ParityError if a smaller model that is "on" was not accepted."""
    for bits, small in verdicts.items():
        if getattr(config, bits) == "on" and not small.accepted:
            remedy = f"Set --export.{bits} auto to publish fp32 alone."
            raise ParityError(f"There is no {bits} model: {small.reason}.", remedy)


def _write_example(model: Path, data: DataRef, test: Samples, path: Path) -> None:
    """Write a few test inputs and the model's outputs for them."""
    session = open_session(model)
    samples = fixed_sizes(session.get_inputs()[0].shape)[0] or EXAMPLES
    (inputs, *_), _ = run(session, test.first(samples), samples)
    outputs_named = [output.name for output in session.get_outputs()]
    outputs = zip(outputs_named, answers(session, outputs_named, **inputs), strict=True)
    write_arrays(path, {name: _plain(values) for name, values in (*inputs.items(), *outputs)})


def _divergence(candidate: Candidate) -> str:
    """Return the first layer at which a model and its network differ; empty if the model doesn't run."""
    inputs, _ = candidate.test.first(2).take(torch.arange(min(2, len(candidate.test))))
    try:
        return first_divergence(candidate.file, candidate.model, as_taken(inputs), candidate.inputs(2))
    except Exception:  # onnxruntime's errors share no base class; the comparison has reported them already
        return ""


def _plain(values: np.ndarray) -> np.ndarray:
    """Convert texts to fixed width, which numpy reads without unpickling."""
    return values.astype(str) if values.dtype == object else values
