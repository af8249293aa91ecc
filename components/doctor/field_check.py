"""Examination of a network for a task over named fields: its losses, gradients and answers on some real samples."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from torchmill.components.batches.batch import Batch
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.doctor.config import Level
from torchmill.components.doctor.verdict import Report, Verdict
from torchmill.components.errors import UserError, shortened
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.refs import DataRef
from torchmill.components.wording import count

SAME = 1e-4
"""Largest relative difference between two answers that count as equal."""
FEW = 8
OVERFIT_STEPS, OVERFIT_SHARE = 60, 0.9
"""Steps on a few samples, and the share of the first loss below which the loss must fall."""


def check_fields(
    network: nn.Module, sample: FieldSamples, data: DataRef, level: Level, export: Callable[[nn.Module], object]
) -> Report:
    """Examine a copy of a network with some samples; buffers, modes and weights stay as they are.

    Args:
        export: function that exports a network and raises if that fails; called at the full level only.
    """
    started = time.monotonic()
    task = FieldTask.open(data)
    raw = sample.take(torch.arange(min(FEW, len(sample))))

    def fresh() -> tuple[FieldsModel, Batch]:
        torch.manual_seed(0)
        model = FieldsModel.of(copy.deepcopy(network), data)
        return model, task.drawn(model.prepared(raw))

    checks: list[Callable[[], Iterator[Verdict]]] = [
        partial(check, task, fresh) for check in (_loss, _gradients, _determinism, _independence, _padding)
    ]
    if level == "full":
        checks += [partial(_overfit, task, fresh), partial(_exportable, network, export)]
    verdicts: list[Verdict] = []
    with torch.random.fork_rng(devices=[]):
        for check in checks:
            verdicts += check()
    return Report(tuple(verdicts), time.monotonic() - started)


Fresh = Callable[[], tuple[FieldsModel, Batch]]


def _loss(task: FieldTask, fresh: Fresh) -> Iterator[Verdict]:
    """Check that the loss is finite in both modes."""
    model, batch = fresh()
    values = {}
    with torch.no_grad():
        for mode in ("train", "eval"):
            getattr(model, mode)()
            for phase in task.phase_names:
                values[f"{phase or 'loss'} in {mode} mode"] = task.loss(model, batch, phase)[0].item()
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    evidence = ", ".join(f"{name} {value:.4g}" for name, value in (bad or values).items())
    if bad:
        yield Verdict("loss", "fail", "", evidence, "Look for a logarithm, a root or a division in loss or forward.")
    else:
        yield Verdict("loss", "pass", "", evidence, "")


def _gradients(task: FieldTask, fresh: Fresh) -> Iterator[Verdict]:
    """Check that each trained parameter gets a finite gradient from some loss."""
    model, batch = fresh()
    model.train()
    for phase in task.phase_names:
        task.loss(model, batch, phase)[0].backward()
    trained = {name: weight for name, weight in model.network.named_parameters() if weight.requires_grad}
    missing = [name for name, weight in trained.items() if weight.grad is None]
    broken = [name for name, weight in trained.items() if weight.grad is not None and not weight.grad.isfinite().all()]
    if broken:
        yield Verdict(
            "gradients", "fail", broken[0], f"{count(len(broken), 'parameter')} with gradients that are not finite",
            "Look for a root, a logarithm or a division by zero behind them.",
        )  # fmt: skip
    if missing:
        yield Verdict(
            "gradients", "warn", missing[0], f"{shortened(missing)} get no gradient, so they never change",
            "Use them in forward, or freeze them by --model.freeze.",
        )  # fmt: skip
    if not broken and not missing:
        yield Verdict("gradients", "pass", "", f"all {len(trained)} trained parameters get one", "")


@torch.no_grad()
def _determinism(task: FieldTask, fresh: Fresh) -> Iterator[Verdict]:
    """Check that the same inputs get the same answers in evaluation mode."""
    model, batch = fresh()
    model.eval()
    first, second = task.predict(model, batch), task.predict(model, batch)
    differing = [name for name in first if not _same(first[name], second[name])]
    if differing:
        yield Verdict(
            "determinism", "fail", "", f"the same inputs get another {shortened(differing)} the second time",
            'Leave chance out of predict, or name random inputs: noise = {"noise": (64,)} in the task.',
        )  # fmt: skip
    else:
        yield Verdict("determinism", "pass", "", "the same inputs get the same answers", "")


@torch.no_grad()
def _independence(task: FieldTask, fresh: Fresh) -> Iterator[Verdict]:
    """Check that an answer doesn't depend on the other samples of its batch, in evaluation mode."""
    model, batch = fresh()
    model.eval()
    whole = task.predict(model, batch)
    halves = [task.predict(model, part) for part in batch.split(2) if part.size]
    differing = []
    for name, values in whole.items():
        parts = [half[name] for half in halves]
        if any(part.shape[1:] != values.shape[1:] for part in parts) or not _same(torch.cat(parts), values):
            differing.append(name)
    if differing:
        yield Verdict(
            "batch independence", "fail", "", f"{shortened(differing)} of a sample changes with the rest of its batch",
            "Look for means over the batch, batch norm without running statistics, or a reshape that mixes samples.",
        )  # fmt: skip
    else:
        yield Verdict("batch independence", "pass", "", "answers don't depend on the rest of the batch", "")


@torch.no_grad()
def _padding(task: FieldTask, fresh: Fresh) -> Iterator[Verdict]:
    """Check that an answer doesn't depend on the padding of its sample, in evaluation mode."""
    model, batch = fresh()
    ragged = [field for field in model.fields.values() if field.ragged and not field.is_target]
    shared = next((field.lengths for field in ragged if field.lengths in batch), "")
    if not shared:
        return
    lengths = batch[shared]
    shorter = lengths.argsort()[: max(1, len(lengths) // 2)]
    longest, padded = int(lengths[shorter].max()), int(lengths.max())
    if longest == padded:
        return
    model.eval()
    names = {field.name for field in model.fields.values() if field.ragged and field.lengths == shared}
    raw = {name: values[shorter, :longest] if name in names else values[shorter] for name, values in batch.raw.items()}
    whole = task.predict(model, batch)
    cut = task.predict(model, model.prepared(Batch(raw, raw, len(shorter))))
    differing = [
        name
        for name, values in whole.items()
        if not _same_steps(values[shorter], cut[name], lengths[shorter], padded - longest)
    ]
    if differing:
        yield Verdict(
            "padding", "warn", "", f"the padding behind a sample changes its {shortened(differing)}",
            "Take lengths or attention_mask in forward, and leave padding out of means, maxima and attention; a "
            "backward direction must begin at a sample's end.",
        )  # fmt: skip
    else:
        yield Verdict("padding", "pass", "", "answers don't depend on the padding behind samples", "")


def _same_steps(padded: Tensor, cut: Tensor, lengths: Tensor, more: int) -> bool:
    """Return True if answers are the same with ``more`` steps of padding; answers to steps, within the lengths."""
    if padded.shape == cut.shape:
        return _same(padded, cut)
    if padded.dim() < 2 or padded.shape[1] - cut.shape[1] != more:
        return False
    inside = torch.arange(cut.shape[1], device=cut.device) < lengths[:, None]
    return _same(padded[:, : cut.shape[1]][inside], cut[inside])


def _same(first: Tensor, second: Tensor) -> bool:
    if not first.is_floating_point():
        return bool((first != second).double().mean() < 0.001)
    scale = max(1.0, float(first.abs().max()) if first.numel() else 1.0)
    return first.shape == second.shape and bool((first - second).abs().max() <= SAME * scale)


def _overfit(task: FieldTask, fresh: Fresh) -> Iterator[Verdict]:
    """Check that a few steps on a few samples lower the loss."""
    if task.phases:
        return
    model, batch = fresh()
    model.train()
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], 3e-3)
    losses = []
    for _ in range(OVERFIT_STEPS):
        optimizer.zero_grad()
        loss = task.loss(model, batch)[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first, last = losses[0], min(losses)
    evidence = f"loss {first:.4g} → {last:.4g} in {OVERFIT_STEPS} steps on {batch.size} samples"
    if last < first - (1 - OVERFIT_SHARE) * abs(first):
        yield Verdict("overfit", "pass", "", evidence, "")
    else:
        yield Verdict("overfit", "warn", "", evidence, "A sound network learns a few samples by heart: check the loss.")


def _exportable(network: nn.Module, export: Callable[[nn.Module], object]) -> Iterator[Verdict]:
    """Check that the network can be exported."""
    try:
        export(copy.deepcopy(network))
    except UserError as error:
        yield Verdict("exportable", "fail", "", error.message, error.remedy)
    else:
        yield Verdict("exportable", "pass", "", "torch exports it to ONNX", "")
