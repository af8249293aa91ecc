"""Check that the network can memorize a handful of samples."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components import tasks
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import Raised
from torchmill.components.doctor.verdict import Verdict

SAMPLES = 8
STEPS = 80
RATES = (2e-3, 1e-2, 2e-4)
TIMEOUT_SECONDS = 20.0


def overfit(probe: Probe) -> Iterator[Verdict]:
    """Train on a few distinct samples with Adam, without dropout: the loss must beat the best constant output.

    Tries up to three learning rates, for at most 20 s.
    """
    if not probe.trainable:
        return
    chosen = choose_distinct(probe)
    inputs, targets = probe.check_input.inputs[chosen], probe.check_input.targets[chosen]
    constant_loss = _best_constant_loss(probe, targets)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    results = []
    for rate in RATES:
        start, last, steps = _train(probe, inputs, targets, rate, deadline, 0.3 * constant_loss)
        results.append((last, start, steps, rate))
        if last < 0.5 * min(start, constant_loss) or time.monotonic() > deadline:
            break
    last, start, steps, rate = min(results)
    evidence = (
        f"{len(inputs)} samples: the loss goes from {start:.3g} to {last:.3g} in {steps} steps of Adam at {rate:g}; "
        f"a constant output reaches {constant_loss:.3g}"
    )
    remedy = "Train parts of the network on these samples until the loss is zero: the part that fails is the cause."
    if last < 0.5 * min(start, constant_loss):
        yield Verdict("overfit", "pass", "", evidence, "")
    elif time.monotonic() > deadline:
        yield Verdict("overfit", "pass", "", f"{evidence}; inconclusive, because the time ran out", "")
    elif len(probe.trainable) < len(probe.parameters):
        yield Verdict("overfit", "pass", "", f"{evidence}; inconclusive, because parameters are frozen", "")
    else:
        hopeless = not last < 0.9 * constant_loss
        yield Verdict("overfit", "fail" if hopeless else "warn", "", evidence, remedy)


def _train(
    probe: Probe, inputs: Tensor, targets: Tensor, rate: float, deadline: float, goal: float
) -> tuple[float, float, int]:
    """Train until the loss reaches ``goal``; return the first loss, the mean of the last three, and the steps."""
    probe.snapshot.restore()
    parameters = list(probe.trainable.values())
    optimizer = torch.optim.Adam(parameters, rate)
    losses: list[float] = []
    for step in range(STEPS):
        trace = probe.run(inputs, training=True, gradient=True, restore=False, in_eval=(_DropoutNd,), seed=step)
        loss = probe.loss(trace.output, targets)
        for parameter, gradient in zip(parameters, probe.gradients(loss, parameters), strict=True):
            parameter.grad = gradient
        losses.append(probe.loss(trace.logits, targets).item())
        optimizer.step()
        if (losses[-1] < goal and step > 2) or time.monotonic() > deadline or losses[-1] != losses[-1]:
            break
    return losses[0], sum(losses[-3:]) / len(losses[-3:]), len(losses)


def choose_distinct(probe: Probe) -> list[int]:
    """Return the indices of a few samples that differ from each other, of as many classes as possible."""
    inputs, targets = probe.check_input.inputs, probe.check_input.targets
    distinct: list[int] = []
    for index in range(len(inputs)):
        if not any(torch.equal(inputs[index], inputs[earlier]) for earlier in distinct):
            distinct.append(index)
    if not tasks.task(probe.check_input.task).is_exclusive:
        return distinct[:SAMPLES]
    rank = {}
    counts: dict[int, int] = {}
    for index in distinct:
        label = int(targets[index])
        rank[index] = counts[label] = counts.get(label, -1) + 1
    return sorted(distinct, key=lambda index: (rank[index], index))[:SAMPLES]


def _best_constant_loss(probe: Probe, targets: Tensor) -> float:
    """Find the lowest loss of one output for all samples, by gradient descent."""
    output = torch.zeros(1, probe.check_input.num_outputs, requires_grad=True)
    optimizer = torch.optim.Adam([output], 0.1)
    with torch.enable_grad():
        for _ in range(60):
            loss = probe.loss(output.expand(len(targets), -1), targets)
            if not loss.requires_grad:
                raise Raised(ValueError("the loss has no gradient by the network's output"), "", "loss")
            (output.grad,) = torch.autograd.grad(loss, output)
            optimizer.step()
    return loss.item()
