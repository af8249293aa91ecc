"""Check that the same batch always gets the same output in evaluation mode."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.checks.batch_independence import change_all_but_one
from torchmill.components.doctor.probe import SAME, Probe, relative_difference
from torchmill.components.doctor.recorder import DROPOUTS
from torchmill.components.doctor.trace import Call, tensors
from torchmill.components.doctor.verdict import Verdict


def deterministic(probe: Probe) -> Iterator[Verdict]:
    """Check that neither random numbers nor earlier batches change the output in evaluation mode."""
    first = probe.run(seed=1)
    in_training = {name: module for name, module in probe.network.named_modules() if module.training}
    again = probe.run(seed=1, restore=False)
    reseeded = probe.run(seed=2)
    if (change := relative_difference(first.logits, reseeded.logits)) > SAME:
        if in_training:
            total = len(list(probe.network.modules()))
            yield Verdict(
                "deterministic",
                "fail",
                next(
                    (name for name, module in in_training.items() if isinstance(module, (_BatchNorm, _DropoutNd))), ""
                ),
                f"{len(in_training)} of {total} layers stay in training mode after eval(): "
                f"two forwards of the same batch differ by {change:.2g} of the largest output",
                "Call super().train(mode) in your own train() and eval(): it sets the mode of all layers.",
            )
            return
        layer, cause = _source_of_randomness(probe)
        yield Verdict(
            "deterministic",
            "fail",
            layer,
            f"two forwards of the same batch in evaluation mode differ by {change:.2g} of the largest output{cause}",
            "Use F.dropout(x, p, training=self.training) or nn.Dropout, and random numbers in training mode only.",
        )
        return
    other_batch = next(iter(change_all_but_one(probe).values()))
    probe.run(other_batch, seed=1)
    after_other = probe.run(seed=1, restore=False)
    for which, trace, between in (
        ("a second forward", again, None),
        ("a forward after another batch", after_other, other_batch),
    ):
        if (change := relative_difference(first.logits, trace.logits)) > SAME:
            yield Verdict(
                "deterministic",
                "fail",
                _first_difference(probe, between=between),
                f"{which}, with the same batch and seed, differs by {change:.2g} of the largest output: "
                "the network keeps a state between forwards",
                "Start each forward without hidden states, counters or caches that change the output.",
            )
            return


def _source_of_randomness(probe: Probe) -> tuple[str, str]:
    for operation in probe.eval_trace.operations:
        if operation.name in DROPOUTS and operation.arguments["training"] and operation.arguments["p"]:
            return operation.layer, f"; {operation.name} drops {operation.arguments['p']:g} of the values there"
    return _first_difference(probe, seed=2), ""


def _first_difference(probe: Probe, seed: int = 1, between: Tensor | None = None) -> str:
    """Return the first layer whose output differs between two forwards, or its parent if its input differs already.

    Args:
        seed: seed of the second forward; the first one has 1.
        between: batch to run between the two forwards.
    """
    values: list[tuple[str, list[Tensor]]] = []

    def record(call: Call, entering: bool) -> None:
        name = call.parent.name if entering and call.parent else call.name
        floats = [v for v in tensors(call.inputs if entering else call.output) if v.is_floating_point()]
        values.append((name, [value.detach().clone() for value in floats]))

    probe.run(seed=1, observer=record)
    first = list(values)
    if between is not None:
        probe.run(between, seed=1)
    values.clear()
    probe.run(seed=seed, restore=seed != 1, observer=record)
    for (name, before), (_, after) in zip(first, values, strict=False):
        pairs = zip(before, after, strict=False)
        if len(before) != len(after) or any(relative_difference(a, b) > SAME for a, b in pairs):
            return name
    return ""
