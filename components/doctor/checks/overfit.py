"""Whether the network can learn a handful of samples by heart."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components import tasks
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import Raised
from torchmill.components.doctor.verdict import Verdict

FEW = 8
STEPS = 80
RATES = (2e-3, 1e-2, 2e-4)
SECONDS = 20.0


def overfit(probe: Probe) -> Iterator[Verdict]:
    """Train on a few distinct samples by Adam, dropout off: the loss must fall far below what no input is needed for.

    At three learning rates in turn, until one works; for at most 20 s.
    """
    if not probe.trainable:
        return
    chosen = distinct(probe)
    inputs, targets = probe.case.inputs[chosen], probe.case.targets[chosen]
    prior = _loss_without_inputs(probe, targets)
    end = time.monotonic() + SECONDS
    results = []
    for rate in RATES:
        start, last, steps = _train(probe, inputs, targets, rate, end, 0.3 * prior)
        results.append((last, start, steps, rate))
        if last < 0.5 * min(start, prior) or time.monotonic() > end:
            break
    last, start, steps, rate = min(results)
    reference = min(start, prior)
    evidence = (
        f"{len(inputs)} samples: loss from {start:.3g} to {last:.3g} in {steps} steps of Adam at {rate:g}; without "
        f"looking at the inputs {prior:.3g} is possible"
    )
    remedy = "Train on these few until it is zero: smaller parts of the network one by one tell which does not learn."
    if last < 0.5 * reference:
        yield Verdict("overfit", "pass", "", evidence, "")
    elif time.monotonic() > end:
        yield Verdict("overfit", "pass", "", f"{evidence}; time was up, so nothing is concluded", "")
    elif len(probe.trainable) < len(probe.parameters):
        yield Verdict("overfit", "pass", "", f"{evidence}; parts are frozen, so nothing is concluded", "")
    else:
        hopeless = not last < 0.9 * prior
        yield Verdict("overfit", "fail" if hopeless else "warn", "", evidence, remedy)


def _train(
    probe: Probe, inputs: Tensor, targets: Tensor, rate: float, end: float, enough: float
) -> tuple[float, float, int]:
    """First loss, last loss (the mean of three) and number of steps."""
    probe.snapshot.restore()
    parameters = list(probe.trainable.values())
    optimizer = torch.optim.Adam(parameters, rate)
    losses: list[float] = []
    for step in range(STEPS):
        trace = probe.run(inputs, training=True, gradient=True, fresh=False, quiet=(_DropoutNd,), seed=step, look=None)
        loss = probe.loss(trace.output, targets)
        for parameter, gradient in zip(parameters, probe.gradients(loss, parameters), strict=True):
            parameter.grad = gradient
        losses.append(probe.loss(trace.logits, targets).item())
        optimizer.step()
        if (losses[-1] < enough and step > 2) or time.monotonic() > end or losses[-1] != losses[-1]:
            break
    return losses[0], sum(losses[-3:]) / len(losses[-3:]), len(losses)


def distinct(probe: Probe) -> list[int]:
    """Indices of a few samples that differ from each other, of as many classes as there are."""
    inputs, targets = probe.case.inputs, probe.case.targets
    seen: list[int] = []
    for index in range(len(inputs)):
        if not any(torch.equal(inputs[index], inputs[other]) for other in seen):
            seen.append(index)
    if not tasks.task(probe.case.task).is_exclusive:
        return seen[:FEW]
    rank = {}
    counts: dict[int, int] = {}
    for index in seen:
        label = int(targets[index])
        rank[index] = counts[label] = counts.get(label, -1) + 1
    return sorted(seen, key=lambda index: (rank[index], index))[:FEW]


def _loss_without_inputs(probe: Probe, targets: Tensor) -> float:
    """The least loss of one answer to all samples, found by gradient descent on it."""
    answer = torch.zeros(1, probe.case.num_outputs, requires_grad=True)
    optimizer = torch.optim.Adam([answer], 0.1)
    with torch.enable_grad():
        for _ in range(60):
            loss = probe.loss(answer.expand(len(targets), -1), targets)
            if not loss.requires_grad:
                raise Raised(ValueError("the loss has no gradient by the network's output"), "", "loss")
            (answer.grad,) = torch.autograd.grad(loss, answer)
            optimizer.step()
    return loss.item()
