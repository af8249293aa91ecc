"""Examination of a network before training, and the report that it leaves in the run's folder."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from torch import nn

from torchmill.components.config import RunConfig
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.data.samples import Samples, training_sizes
from torchmill.components.doctor.check_input import CheckInput
from torchmill.components.doctor.config import Level
from torchmill.components.doctor.examine import examine
from torchmill.components.doctor.field_check import check_fields
from torchmill.components.doctor.verdict import Report, Verdict
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.files import temporary_folder, write_text
from torchmill.components.initialization.standardized_model import standardized
from torchmill.components.refs import CheckRef, DataRef, FileRef
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.losses import loss_name, make_loss
from torchmill.components.training.optimizers import parameter_groups

SAMPLES = ((2_000_000, 64), (20_000_000, 16), (float("inf"), 4))
"""Upper limits of the number of parameters, and the number of samples to examine such a network with."""


class Unsound(UserError):
    """The network fails a check."""


def subject_of(config: RunConfig) -> dict[str, str]:
    """Return the network, the data and the origin of the weights, since other weights may get other verdicts."""
    initialization = config.initialize.resolved(config.model)
    scheme, bias = initialization.name, initialization.bias
    biases = "" if bias is None else f", biases {bias:g}"
    weights = "as the constructor made them" if scheme == "none" else f"by {scheme}{biases}"
    rules = " and rules" if initialization.rules else ""
    pretrained = f", then {config.model.weights}" if config.model.weights else ""
    return {"network": config.model.name, "data": config.data.name, "weights": f"{weights}{rules}{pretrained}"}


def check_network(
    network: nn.Module, sample: Samples | FieldSamples, data: DataRef, config: TrainConfig, level: Level
) -> Report:
    """Examine a network with some samples and a training's loss and optimizer, and leave the network unchanged."""
    if isinstance(sample, FieldSamples):
        return check_fields(network, sample, data, level, partial(_export_fields, sample, data))

    # The checks run the network some thirty times, so a large one gets fewer samples.
    parameters = sum(weight.numel() for _, weight in network.named_parameters())
    sample = sample.first(next(count for limit, count in SAMPLES if parameters < limit))

    def export(candidate: nn.Module) -> None:
        with temporary_folder() as folder:
            to_onnx(candidate, data, {}, folder / "model.onnx")

    check_input = CheckInput(
        network=network,
        inputs=standardized(sample, data),
        targets=sample.labels,
        loss=make_loss(config, data, sample),
        loss_name=loss_name(config, data),
        task=data.task,
        num_outputs=len(data.classes),
        padding_index=data.field.padding,
        # Only the groups: the first optimizer of a process imports torch's compiler, which takes seconds.
        make_optimizer=lambda candidate: SimpleNamespace(param_groups=parameter_groups(candidate, config)),
        export=export,
    )
    return examine(check_input, "full" if level == "full" else "quick", training_sizes(data)[0] * config.epochs)


def _export_fields(sample: FieldSamples, data: DataRef, candidate: nn.Module) -> None:
    from torchmill.components.export.field_export import write_compared  # which imports scipy

    with temporary_folder() as folder:
        write_compared(candidate, data, sample, ExportConfig(batch_sizes=(2,)), {}, folder)


def conclude(report: Report, reference: str, folder: Path) -> CheckRef:
    """Write ``check.json`` and ``check.txt`` into ``folder``; the JSON of the same network is always the same.

    Raises:
        Unsound: the network fails a check; the message names each failure, its layer and the remedy.
    """
    values = {name: value for name, value in report.as_json().items() if name != "seconds"}
    write_text(folder / "check.json", json.dumps(values, indent=1))
    write_text(folder / "check.txt", "\n".join(report.lines()) + "\n")
    failures = [verdict for verdict in report.verdicts if verdict.verdict == "fail"]
    if failures:
        raise Unsound(
            f"{reference} fails {len(failures)} of {len(report.verdicts)} checks:"
            f"{''.join(map(_failure_line, failures))}\n"
            "Fix these failures, or train the network unchecked with --check.level off."
        )
    passed, warned = (sum(verdict.verdict == grade for verdict in report.verdicts) for grade in ("pass", "warn"))
    return CheckRef(report=FileRef.of(folder / "check.json"), passed=passed, warned=warned, seconds=report.seconds)


def _failure_line(verdict: Verdict) -> str:
    place = f" in {verdict.layer}" if verdict.layer else ""
    return f"\n  {verdict.check}{place}: {verdict.evidence.rstrip('.')}. {verdict.remedy}"
