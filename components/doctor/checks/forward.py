"""What comes out of a forward: its shape, its values, and whether it is the same each time."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components import tasks
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import Call, Raised, Trace, tensors
from torchmill.components.doctor.verdict import Verdict

# A loss at initialisation beyond these times that of chance is far off, or absurd. Few classes have little loss by
# chance, and sound networks' outputs are as large with two classes as with many: hence the least that is absurd.
# A regression's loss is of the second power: outputs of variance 2 to 3 are usual first ones.
FAR, FAR_OF_TARGETS, ABSURD, LEAST = 2.5, 5.0, 10.0, 20.0


def outputs(probe: Probe) -> Iterator[Verdict]:
    """Token ids are in the tables' range; the network runs in both modes and gives one output per target."""
    found = list(_outputs(probe))
    if found and len(probe.inputs) < len(probe.case.inputs):
        # The batch's size may be written into it: then another check says so.
        fewer = len(probe.inputs)
        probe.take(len(probe.case.inputs))
        if not (with_all := list(_outputs(probe))):
            return
        found = with_all
        probe.take(fewer)
    yield from found


def _outputs(probe: Probe) -> Iterator[Verdict]:
    try:
        evaluated, trained = probe.evaluated, probe.trained
    except Raised as raised:
        yield _why(probe, raised)
        return
    expected = (len(probe.inputs), probe.case.num_outputs)
    for mode, trace in (("evaluation", evaluated), ("training", trained)):
        output = trace.output if mode == "evaluation" else trace.logits
        if not isinstance(output, Tensor):
            yield Verdict(
                "forward",
                "fail",
                "",
                f"in {mode} mode it returns a {type(output).__name__}, expected one tensor of shape {expected}",
                "Return the logits; auxiliary ones behind them, in training mode only.",
            )
        elif tuple(output.shape) != expected:
            yield Verdict(
                "forward",
                "fail",
                _last_layer(trace),
                f"in {mode} mode it gives shape {tuple(output.shape)}, expected {expected}: one row per sample, one "
                f"column per {tasks.task(probe.case.task).singular}",
                f"Give the last layer {probe.case.num_outputs} outputs and keep the batch first.",
            )
        elif not output.is_floating_point():
            yield Verdict(
                "forward",
                "fail",
                _last_layer(trace),
                f"in {mode} mode it gives {output.dtype} numbers in "
                f"shape {tuple(output.shape)}, which have no gradient",
                "Return logits, not the index of the largest.",
            )


def _why(probe: Probe, raised: Raised) -> Verdict:
    module = next((m for m in probe.network.modules() if probe.names.get(id(m)) == raised.layer), None)
    if probe.is_tokens and isinstance(module, nn.Embedding) and isinstance(raised.error, IndexError):
        low, high = probe.case.inputs.min().item(), probe.case.inputs.max().item()
        return Verdict(
            "forward",
            "fail",
            raised.layer,
            f"the table has {module.num_embeddings} rows, the tokens' ids go from {low} to {high}",
            f"nn.Embedding({high + 1}, ...): one row for each id, padding included.",
        )
    remedy = f"It is given {tuple(probe.inputs.shape)} {probe.inputs.dtype}."
    if ".cuda" in raised.words or "CUDA" in raised.words or "NVIDIA" in raised.words:
        remedy = "Leave devices to whoever runs the network: make tensors with device=x.device."
    elif "size of tensor" in raised.words or "mat1 and mat2" in raised.words or "shape" in raised.words:
        remedy += " Compare it with the sizes that the layer was made for."
    return Verdict(
        "forward",
        "fail",
        raised.layer,
        f"{raised.doing} raises for a batch of {len(probe.inputs)}: {raised.words}",
        remedy,
    )


def _last_layer(trace: Trace) -> str:
    """The layer whose output is the network's."""
    found = {id(output) for output in tensors(trace.output)}
    return next((c.name for c in reversed(trace.calls) if c.name and {id(t) for t in tensors(c.output)} & found), "")


def finite(probe: Probe) -> Iterator[Verdict]:
    """No nan and no infinity from finite inputs, in both modes."""
    for training, trace in ((False, probe.evaluated), (True, probe.trained)):
        if all(torch.isfinite(output).all() for output in tensors(trace.output) if output.is_floating_point()):
            continue
        bad = int((~torch.isfinite(trace.logits)).sum())
        layer, kind = _first_not_finite(probe, training)
        yield Verdict(
            "finite",
            "fail",
            layer,
            f"{bad} of {trace.logits.numel()} outputs are nan or infinite in {'training' if training else 'evaluation'}"
            f" mode; {kind} is the first to give such numbers",
            "Look for a division by zero, a logarithm or root of what may be 0, or weights that are too large.",
        )
        return


def _first_not_finite(probe: Probe, training: bool) -> tuple[str, str]:
    found: list[tuple[str, str]] = []

    def look(call: Call, entering: bool) -> None:
        values = [v for v in tensors(call.inputs if entering else call.output) if v.is_floating_point()]
        # A mask of -inf is meant; nan never is.
        if not found and values and not all(torch.isfinite(v).all() for v in values):
            if entering:  # it came from the operations between two layers
                parent = call.parent or call
                found.append((parent.name, f"{type(parent.module).__name__}.forward"))
            else:
                found.append((call.name, type(call.module).__name__))

    probe.run(training=training, look=look)
    return found[0] if found else ("", type(probe.network).__name__)


def loss_at_start(probe: Probe) -> Iterator[Verdict]:
    """The loss of untrained weights is about that of chance."""
    if probe.case.num_outputs == 1 and probe.kind_of_loss == "softmax":
        yield Verdict(
            "loss_at_start",
            "fail",
            "",
            "1 output with a softmax in the loss: its only probability is 1, so the loss is always 0",
            "Two outputs, or the loss bce with one.",
        )
        return
    targets = probe.case.targets
    # In training mode, as the first step will find it: without batch statistics, signals of deep networks grow or
    # vanish, and a spectral norm is not yet known. Dropout off: it is not what is asked for.
    trace = probe.run(probe.case.inputs, training=True, quiet=(_DropoutNd,))
    loss, chance = probe.loss(trace.logits, targets).item(), probe.chance_loss(targets)
    evidence = f"loss {loss:.3g} with first weights, chance gives {chance:.3g}"
    layer, remedy = _last_layer(trace), _smaller_outputs(trace)
    far = FAR if probe.kind_of_loss in ("softmax", "sigmoid") else FAR_OF_TARGETS
    least = LEAST if probe.kind_of_loss in ("softmax", "sigmoid") else chance + 1
    if not loss < float("inf") or loss > max(ABSURD * chance, least):
        yield Verdict("loss_at_start", "fail", layer, evidence, remedy)
    elif loss > max(far * chance, chance + 0.5):
        yield Verdict("loss_at_start", "warn", layer, evidence, remedy)
    elif chance > 0 and loss < 0.2 * chance:
        yield Verdict(
            "loss_at_start",
            "warn",
            "",
            evidence,
            "Right for weights that are trained already; else the loss or the inputs tell the answer.",
        )
    else:
        yield Verdict("loss_at_start", "pass", "", evidence, "")


def _smaller_outputs(trace: Trace) -> str:
    """What to do about outputs that are too large: of their mean, which is a bias, or of their spread."""
    logits = trace.logits.detach()
    offset, spread = logits.mean(0).abs().max().item(), logits.std(0).max().item()
    if offset > 3 * spread:
        return (
            f"Its outputs begin {offset:.2g} off zero, whatever the input: look at the last layer's bias. Right if it "
            "is meant, for labels that are rare."
        )
    return (
        "Its outputs are too large to begin with: use a usual initialisation, a smaller one for the last layer, "
        "and standardised inputs."
    )


def constant_output(probe: Probe) -> Iterator[Verdict]:
    """Different inputs get different outputs."""
    spread = 0.0
    for training in (False, True):
        probe.snapshot.restore()
        nudge_zeros(probe.network)
        trace = probe.run(training=training, quiet=(_DropoutNd,), fresh=False)
        logits = trace.logits.double()
        # To the last layer's first input: a large bias hides small differences.
        spread = max(spread, ((logits.amax(0) - logits.amin(0)) / logits.abs().max().clamp(min=1e-30)).max().item())
    evidence = f"outputs of {len(probe.inputs)} samples differ by {spread:.2g} of the largest"
    if not torch.equal(probe.inputs[:1].expand_as(probe.inputs), probe.inputs) and spread < 1e-7:
        yield Verdict(
            "constant_output",
            "fail",
            "",
            evidence,
            "Look for a layer whose input does not arrive at the output: a branch times 0, values overwritten, a mean "
            "over everything; or for first weights so small that signals vanish on their way.",
        )
    else:
        yield Verdict("constant_output", "pass", "", evidence, "")


def nudge_zeros(network: nn.Module) -> None:
    """Replace zero weights by small ones: what begins at zero by intent then lets signals and gradients pass."""
    with torch.no_grad():
        for _, parameter in network.named_parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
