"""Have a network examined as a run would train it, before hours are spent on it."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

from torch import nn

from torchmill.components.config import RunConfig
from torchmill.components.data.samples import Samples
from torchmill.components.doctor.check_input import CheckInput
from torchmill.components.doctor.config import Level
from torchmill.components.doctor.examine import examine
from torchmill.components.doctor.verdict import Report
from torchmill.components.errors import UserError
from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.files import write_text
from torchmill.components.initialization.standardized_model import standardized
from torchmill.components.refs import PADDING, CheckRef, DataRef, FileRef
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.losses import loss_name, make_loss
from torchmill.components.training.optimizers import parameter_groups

SAMPLES = ((2_000_000, 64), (20_000_000, 16), (float("inf"), 4))
"""Fewer parameters than that, and with how many samples a network is examined."""


class Unsound(UserError):
    """The network fails a check."""


def subject_of(config: RunConfig) -> dict[str, str]:
    """Say what is examined: other first weights, those of the constructor among them, may fare otherwise."""
    scheme, bias = config.initialize.name, config.initialize.bias
    biases = "" if bias is None else f", biases {bias:g}"
    first = "as the constructor made them" if scheme == "none" else f"by {scheme}{biases}"
    rules = " and rules" if config.initialize.rules else ""
    loaded = f", then {config.model.weights}" if config.model.weights else ""
    return {"network": config.model.name, "data": config.data.name, "weights": f"{first}{rules}{loaded}"}


def check_network(network: nn.Module, sample: Samples, data: DataRef, config: TrainConfig, level: Level) -> Report:
    """Examine a network with some samples, the loss and the optimizer of a training; it is left as it was."""

    # Some thirty passes are made: a large network is looked at with fewer samples.
    size = sum(weight.numel() for _, weight in network.named_parameters())
    sample = sample.first(next(count for most, count in SAMPLES if size < most))

    def export(candidate: nn.Module) -> None:
        with tempfile.TemporaryDirectory() as folder:
            to_onnx(candidate, data, {}, Path(folder) / "model.onnx")

    case = CheckInput(
        network=network,
        inputs=standardized(sample, data),
        targets=sample.labels,
        loss=make_loss(config, data, sample),
        loss_name=loss_name(config, data),
        task=data.task,
        num_outputs=len(data.classes),
        padding_index=PADDING if data.kind == "tokens" else None,
        # Its groups alone: the first optimizer that a process makes imports torch's compiler, seconds.
        make_optimizer=lambda candidate: SimpleNamespace(param_groups=parameter_groups(candidate, config)),
        export=export,
    )
    return examine(case, "full" if level == "full" else "quick")


def conclude(report: Report, reference: str, folder: Path) -> CheckRef:
    """Write ``check.json`` and ``check.txt`` into ``folder``; the same network gives the same JSON.

    Raises:
        Unsound: the network fails a check; says which, where and what to do.
    """
    told = {name: value for name, value in report.as_json().items() if name != "seconds"}
    write_text(folder / "check.json", json.dumps(told, indent=1))
    write_text(folder / "check.txt", "\n".join(report.lines()) + "\n")
    failed = [one for one in report.verdicts if one.verdict == "fail"]
    if failed:
        complaints = "".join(
            f"\n  {one.check}{f' in {one.layer}' if one.layer else ''}: {one.evidence.rstrip('.')}. {one.remedy}"
            for one in failed
        )
        raise Unsound(
            f"{reference} fails {len(failed)} of {len(report.verdicts)} checks:{complaints}\n"
            "Mend it, or train it as it is with --check.level off."
        )
    counts = [sum(one.verdict == grade for one in report.verdicts) for grade in ("pass", "warn")]
    return CheckRef(
        report=FileRef.of(folder / "check.json"), passed=counts[0], warned=counts[1], seconds=report.seconds
    )
