"""What a forward leaves behind, and how far chance and the mode decide what comes out."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.checks.batch_independence import changed_others
from torchmill.components.doctor.probe import SAME, Probe, difference, shape_of
from torchmill.components.doctor.trace import DROPOUTS, Call, Raised, tensors
from torchmill.components.doctor.verdict import Verdict

# Of the largest output: so far off its own place noise may move it on average.
BIASED = 0.3


def side_effects(probe: Probe) -> Iterator[Verdict]:
    """The batch, the weights, the modes and torch's settings are the same after a forward."""
    for training in (False, True):
        found = list(_changes(probe, training))
        yield from found
        if found:
            return
    yield from _weights_written(probe)


def _changes(probe: Probe, training: bool) -> Iterator[Verdict]:
    network, mode = probe.network, "training" if training else "evaluation"
    probe.snapshot.restore()
    probe.mode(training)
    modes = {name: module.training for name, module in network.named_modules()}
    wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    values = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    dtype = torch.get_default_dtype()
    layer, changed, switched = _changed_inputs(probe, training)
    now = dict(network.named_parameters())
    if changed:
        yield Verdict(
            "side_effects",
            "fail",
            layer,
            f"{changed:,} of {probe.inputs.numel():,} numbers of the batch given to it were changed in place in "
            f"{mode} mode",
            "No operation in place on the input: inplace=False, x = x + 1 and not x += 1.",
        )
    if other := [name for name, module in network.named_modules() if modes.get(name) != module.training]:
        yield Verdict(
            "side_effects",
            "fail",
            other[0],
            f"forward in {mode} mode leaves {len(other)} of {len(modes)} layers in the other mode",
            "No train() and no eval() in forward.",
        )
    if thawed := [name for name, parameter in now.items() if wanted.get(name) != parameter.requires_grad]:
        yield Verdict(
            "side_effects",
            "fail",
            thawed[0].rpartition(".")[0],
            f"forward changes requires_grad of {len(thawed)} parameters, {thawed[0]} first",
            "Set it once, in the constructor.",
        )
    if new := [name for name in now if name in values and not _same(values[name], now[name])]:
        yield Verdict(
            "side_effects",
            "warn" if training else "fail",
            new[0].rpartition(".")[0],
            f"forward in {mode} mode changes {len(new)} of {len(values)} parameters, {new[0]} first",
            "Leave weights to the optimizer; constrain them by torch.nn.utils.parametrize.",
        )
    if switched or torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
        yield Verdict(
            "side_effects",
            "fail",
            "",
            f"1 forward in {mode} mode leaves torch's {'gradient mode' if switched else 'default type'} other than it "
            "was",
            "with torch.no_grad(): ends by itself; set_grad_enabled() does not.",
        )


def _changed_inputs(probe: Probe, training: bool) -> tuple[str, int, bool]:
    """The layer that first changes the batch, how many of its numbers, and whether the gradient mode is switched."""
    given: list[Tensor] = []
    where: list[str] = []

    def look(call: Call, entering: bool) -> None:
        if entering and call.parent is None and tensors(call.inputs):
            given.append(tensors(call.inputs)[0])
        if given and not where and not torch.equal(given[0], probe.inputs):
            where.append(call.parent.name if entering and call.parent else call.name)

    trace = probe.run(training=training, gradient=True, fresh=False, look=look)
    changed = int((given[0] != probe.inputs).sum()) if given else 0
    return (where[0] if where else ""), changed, trace.switched


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.detach().nan_to_num())


def seeds(probe: Probe) -> Iterator[Verdict]:
    """Forward leaves the seed of the random numbers to whoever trains."""
    ends = []
    for seed in (1, 2):
        probe.run(training=True, seed=seed)
        numpy = np.random.get_state(legacy=False)["state"]
        ends.append((torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy["key"].tobytes()))
    same = [kind for kind, one, other in zip(("torch", "Python", "NumPy"), *ends, strict=True) if one == other]
    if same:
        yield Verdict(
            "seeds",
            "fail",
            "",
            f"{same[0]}: after forwards from 2 different seeds the random numbers that follow are "
            "the same: each step would draw the same dropout and the same order",
            "No seeding in forward.",
        )


def determined(probe: Probe) -> Iterator[Verdict]:
    """In evaluation mode, the same batch gets the same answer."""
    first = probe.run(seed=1)
    awake = {name: module for name, module in probe.network.named_modules() if module.training}
    again = probe.run(seed=1, fresh=False)
    seeded = probe.run(seed=2)
    if (apart := difference(first.logits, seeded.logits)) > SAME:
        if awake:
            yield Verdict(
                "determined",
                "fail",
                next((name for name, one in awake.items() if isinstance(one, (_BatchNorm, _DropoutNd))), ""),
                f"{len(awake)} of {len(list(probe.network.modules()))} layers stay in training mode after eval(): "
                f"two forwards of the same batch differ by {apart:.2g} of the largest output",
                "Have train() and eval() of your own call super().train(mode), which goes through all layers.",
            )
            return
        layer, what = _random_in_evaluation(probe)
        yield Verdict(
            "determined",
            "fail",
            layer,
            f"two forwards of the same batch in evaluation mode differ by {apart:.2g} of the largest output{what}",
            "F.dropout(x, p, training=self.training), or an nn.Dropout; random numbers in training mode only.",
        )
        return
    other = next(iter(changed_others(probe).values()))
    probe.run(other, seed=1)
    behind = probe.run(seed=1, fresh=False)
    for which, trace, before in (("a second", again, None), ("behind one of another batch, a", behind, other)):
        if (apart := difference(first.logits, trace.logits)) > SAME:
            yield Verdict(
                "determined",
                "fail",
                _first_difference(probe, before=before),
                f"{which} forward of the same batch with the same seed differs by {apart:.2g} of the largest output: "
                "something is kept from one to the next",
                "Begin each forward anew: no hidden state, counter or cache that decides the output.",
            )
            return


def _random_in_evaluation(probe: Probe) -> tuple[str, str]:
    for operation in probe.evaluated.operations:
        if operation.name in DROPOUTS and operation.arguments["training"] and operation.arguments["p"]:
            return operation.layer, f"; {operation.name} drops {operation.arguments['p']:g} of the values there"
    return _first_difference(probe, seed=2), ""


def _first_difference(probe: Probe, seed: int = 1, before: Tensor | None = None) -> str:
    """The first layer whose output differs between two forwards; its parent where its input does already.

    With another batch ``before`` the second one.
    """
    seen: list[tuple[str, str, list[Tensor]]] = []

    def look(call: Call, entering: bool) -> None:
        name = call.parent.name if entering and call.parent else call.name
        values = tensors(call.inputs if entering else call.output)
        seen.append((name, call.name, [value.detach().clone() for value in values if value.is_floating_point()]))

    probe.run(seed=1, look=look)
    first = list(seen)
    if before is not None:
        probe.run(before, seed=1)
    seen.clear()
    probe.run(seed=seed, fresh=seed != 1, look=look)
    for (name, _, one), (_, _, other) in zip(first, seen, strict=False):
        if len(one) != len(other) or any(difference(a, b) > SAME for a, b in zip(one, other, strict=True)):
            return name
    return ""


def modes(probe: Probe) -> Iterator[Verdict]:
    """Training and evaluation differ where dropout or batch normalisation is, and nowhere else."""
    acting = [
        (name, module)
        for name, module in probe.network.named_modules()
        if isinstance(module, _BatchNorm) or (isinstance(module, _DropoutNd) and module.p > 0)
    ]
    trained = probe.trained
    called = trained.called()
    probe.snapshot.restore()
    probe.mode(True)
    for name, module in acting:
        kind = type(module).__name__
        if not module.training:
            yield from _stuck(name, module, kind)
        elif id(module) not in called and isinstance(module, _DropoutNd):
            yield Verdict("modes", "warn", name, f"{kind} is called 0 times in forward", "Call it, or delete it.")
    for operation in trained.operations:
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
                "F.dropout(x, p, training=self.training).",
            )
    if not acting and not any(o.name in DROPOUTS or o.name == "batch_norm" for o in trained.operations):
        yield from _unexplained(probe)


def _stuck(name: str, module: nn.Module, kind: str) -> Iterator[Verdict]:
    remedy = "Have train() of your own call super().train(mode), and no eval() that stays."
    parameters = list(module.parameters())
    if isinstance(module, _BatchNorm):
        seen = int(module.num_batches_tracked) if module.num_batches_tracked is not None else 0
        deliberate = seen > 0 or (parameters and not any(p.requires_grad for p in parameters))
        evidence = f"{kind} stays in evaluation mode when the network trains, with statistics of {seen} batches"
        yield Verdict("modes", "pass" if deliberate else "fail", name, evidence, "" if deliberate else remedy)
    else:
        yield Verdict(
            "modes", "warn", name, f"{kind} stays in evaluation mode when the network trains: it drops 0 values", remedy
        )


def _unexplained(probe: Probe) -> Iterator[Verdict]:
    evaluated = probe.run(seed=1)
    trained, again = probe.run(training=True, seed=1), probe.run(training=True, seed=2)
    if shape_of(trained.output) != shape_of(evaluated.output):
        return
    if difference(trained.logits, again.logits) > SAME:
        yield from _biased(probe)
        return
    buffers = {name: value.clone() for name, value in probe.network.named_buffers()}
    probe.snapshot.restore()
    if any(not _same(buffers[name], value) for name, value in probe.network.named_buffers() if name in buffers):
        return  # a normalisation of its own, which gathers statistics
    if (apart := difference(trained.logits, evaluated.logits)) > 1e-4:
        yield Verdict(
            "modes",
            "warn",
            "",
            f"outputs in training and evaluation mode differ by {apart:.2g} of the "
            "largest, though there is no dropout and no batch normalisation",
            "Look for 'if self.training': what is evaluated should be what is trained.",
        )


def _biased(probe: Probe) -> Iterator[Verdict]:
    """Noise of its own in training: on average the outputs should be those of evaluation.

    Two samples, each in many copies, tell it in one forward.
    """
    count = 2 * len(probe.case.inputs)
    copies = probe.inputs[:2].repeat_interleave(count, 0)
    try:
        evaluated = probe.run(copies).logits.double()
        trained = probe.run(copies, training=True).logits.double()
    except Raised:
        return  # a batch's size may be written into it, which another check tells
    if trained.shape != evaluated.shape or trained.dim() != 2:
        return
    one, other = (output.unflatten(0, (-1, count)) for output in (evaluated, trained))
    error = other.std(1) / count**0.5
    apart = (other.mean(1) - one.mean(1)).abs()
    largest = one.abs().max().clamp(min=1e-30)
    # Noise that all copies share has no spread among them, and tells nothing.
    if bool((error > 0).any()) and ((apart - 3 * error).max() / largest).item() > BIASED:
        yield Verdict(
            "modes",
            "warn",
            "",
            f"the mean output of {count} noisy forwards in training mode is {(apart.max() / largest).item():.0%} of "
            "the largest off that of evaluation mode",
            "A dropout of your own divides what it keeps by 1 - p; or F.dropout(x, p, training=self.training).",
        )


def _weights_written(probe: Probe) -> Iterator[Verdict]:
    """Weights that forward keeps in bounds: those of a network that has run are in them already, moved ones are not."""
    probe.snapshot.restore()
    parameters = dict(probe.network.named_parameters())
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.is_floating_point() and parameter.numel() > 1:
                noise = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
                parameter.data.mul_(10).add_(noise * parameter.data.abs().mean() / 10)
    moved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        probe.run(fresh=False)
    except Raised:
        return  # what such weights do is nobody's fault
    if new := [name for name, parameter in parameters.items() if not _same(moved[name], parameter)]:
        yield Verdict(
            "side_effects",
            "warn",
            new[0].rpartition(".")[0],
            f"forward changes {len(new)} of {len(moved)} parameters once they have moved, {new[0]} first",
            "Leave weights to the optimizer; constrain them by torch.nn.utils.parametrize.",
        )
