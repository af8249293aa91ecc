"""Check that training and evaluation mode differ because of dropout and batch normalization only."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.checks.side_effects import are_equal
from torchmill.components.doctor.probe import SAME, Probe, relative_difference, shape_of
from torchmill.components.doctor.recorder import DROPOUTS
from torchmill.components.doctor.trace import Raised
from torchmill.components.doctor.verdict import Verdict

# Largest change of the mean output by a custom noise, relative to the largest output.
BIASED = 0.3


def modes(probe: Probe) -> Iterator[Verdict]:
    """Check that dropout and batch normalization follow the mode, and that nothing else does."""
    acting = [
        (name, module)
        for name, module in probe.network.named_modules()
        if isinstance(module, _BatchNorm) or (isinstance(module, _DropoutNd) and module.p > 0)
    ]
    trace = probe.train_trace
    called = trace.called()
    probe.snapshot.restore()
    probe.set_mode(True)
    for name, module in acting:
        kind = type(module).__name__
        if not module.training:
            yield _stuck_in_eval(name, module, kind)
        elif id(module) not in called and isinstance(module, _DropoutNd):
            yield Verdict("modes", "warn", name, f"forward calls {kind} 0 times", "Call it, or delete it.")
    for operation in trace.operations:
        module = operation.module
        if (
            operation.name in DROPOUTS
            and operation.arguments["p"]
            and not operation.arguments["training"]
            and module is not None
            and module.training
        ):
            yield Verdict(
                "modes",
                "warn",
                operation.layer,
                f"{operation.name} of {operation.arguments['p']:g} drops 0 values in training mode",
                "Use F.dropout(x, p, training=self.training).",
            )
    if not acting and not any(o.name in DROPOUTS or o.name == "batch_norm" for o in trace.operations):
        yield from _unexplained(probe)


def _stuck_in_eval(name: str, module: nn.Module, kind: str) -> Verdict:
    """Return the verdict on a layer that stays in evaluation mode during training."""
    remedy = "Call super().train(mode) in your own train(), and do not undo it with eval()."
    parameters = list(module.parameters())
    evidence = f"{kind} stays in evaluation mode during training"
    if not isinstance(module, _BatchNorm):
        return Verdict("modes", "warn", name, f"{evidence}: it drops 0 values", remedy)
    batches = int(module.num_batches_tracked) if module.num_batches_tracked is not None else 0
    deliberate = batches > 0 or (parameters and not any(p.requires_grad for p in parameters))
    evidence = f"{evidence}, with the statistics of {batches} batches"
    return Verdict("modes", "pass" if deliberate else "fail", name, evidence, "" if deliberate else remedy)


def _unexplained(probe: Probe) -> Iterator[Verdict]:
    """Compare the modes of a network without dropout and batch normalization."""
    evaluated = probe.run(seed=1)
    trained, reseeded = probe.run(training=True, seed=1), probe.run(training=True, seed=2)
    if shape_of(trained.output) != shape_of(evaluated.output):
        return
    if relative_difference(trained.logits, reseeded.logits) > SAME:
        yield from _biased(probe)
        return
    buffers = {name: value.clone() for name, value in probe.network.named_buffers()}
    probe.snapshot.restore()
    if any(not are_equal(buffers[name], value) for name, value in probe.network.named_buffers() if name in buffers):
        return  # a custom normalization with running statistics
    if (change := relative_difference(trained.logits, evaluated.logits)) > 1e-4:
        yield Verdict(
            "modes",
            "warn",
            "",
            f"outputs in training and evaluation mode differ by {change:.2g} of the "
            "largest, without dropout or batch normalization",
            "Look for 'if self.training': evaluate the same function that you train.",
        )


def _biased(probe: Probe) -> Iterator[Verdict]:
    """Check a custom noise: the mean output in training mode should equal that in evaluation mode.

    One forward of many copies of two samples measures the mean.
    """
    count = 2 * len(probe.check_input.inputs)
    copies = probe.inputs[:2].repeat_interleave(count, 0)
    try:
        evaluated = probe.run(copies).logits.double()
        trained = probe.run(copies, training=True).logits.double()
    except Raised:
        return  # the batch size may be fixed: the check batch_size reports that
    if trained.shape != evaluated.shape or trained.dim() != 2:
        return
    evaluated, trained = (output.unflatten(0, (-1, count)) for output in (evaluated, trained))
    error = trained.std(1) / count**0.5
    change = (trained.mean(1) - evaluated.mean(1)).abs()
    largest = evaluated.abs().max().clamp(min=1e-30)
    # Noise that all copies share has no spread among them, so it proves nothing.
    if bool((error > 0).any()) and ((change - 3 * error).max() / largest).item() > BIASED:
        yield Verdict(
            "modes",
            "warn",
            "",
            f"the mean output of {count} noisy forwards in training mode differs from that in evaluation mode by "
            f"{(change.max() / largest).item():.0%} of the largest output",
            "Divide the values that a custom dropout keeps by 1 - p, or use F.dropout(x, p, training=self.training).",
        )
