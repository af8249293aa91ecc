"""Checks of the outputs of a forward: their shape, their values and the loss that they start with."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components import tasks
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import Call, Raised, Trace, tensors
from torchmill.components.doctor.verdict import Verdict

# Ratios of the first loss to the loss by chance from which it is far off or absurd, and the least absurd loss: with
# few classes the loss by chance is small, but the outputs of sound networks are no smaller. A regression's loss is
# quadratic, and first outputs usually have a variance of 2 to 3.
FAR, FAR_FROM_TARGETS, ABSURD, LEAST_ABSURD = 2.5, 5.0, 10.0, 20.0


def outputs(probe: Probe) -> Iterator[Verdict]:
    """Check that the network runs in both modes and gives one output per target."""
    verdicts = list(_outputs(probe))
    if verdicts and len(probe.inputs) < len(probe.check_input.inputs):
        # The network may work at the full batch size alone: the batch_size check reports that.
        samples = len(probe.inputs)
        probe.use_samples(len(probe.check_input.inputs))
        if not (with_all := list(_outputs(probe))):
            return
        verdicts = with_all
        probe.use_samples(samples)
    yield from verdicts


def _outputs(probe: Probe) -> Iterator[Verdict]:
    try:
        traces = {"evaluation": probe.eval_trace, "training": probe.train_trace}
    except Raised as raised:
        yield _explain(probe, raised)
        return
    expected = (len(probe.inputs), probe.check_input.num_outputs)
    for mode, trace in traces.items():
        output = trace.output if mode == "evaluation" else trace.logits
        if not isinstance(output, Tensor):
            yield Verdict(
                "forward",
                "fail",
                "",
                f"in {mode} mode it returns a {type(output).__name__}, expected one tensor of shape {expected}",
                "Return the logits; in training mode, auxiliary logits may follow them.",
            )
        elif tuple(output.shape) != expected:
            yield Verdict(
                "forward",
                "fail",
                _last_layer(trace),
                f"in {mode} mode its output has shape {tuple(output.shape)}, expected {expected}: one row per sample, "
                f"one column per {tasks.task(probe.check_input.task).singular}",
                f"Make the output {expected[1]} wide, and keep the batch dimension first.",
            )
        elif not output.is_floating_point():
            yield Verdict(
                "forward",
                "fail",
                _last_layer(trace),
                f"in {mode} mode its output of shape {tuple(output.shape)} is {output.dtype}, which has no gradient",
                "Return logits, not the index of the largest.",
            )


def _explain(probe: Probe, raised: Raised) -> Verdict:
    """Return the verdict on a forward that raises."""
    module = next((m for m in probe.network.modules() if probe.names.get(id(m)) == raised.layer), None)
    if probe.is_tokens and isinstance(module, nn.Embedding) and isinstance(raised.error, IndexError):
        low, high = probe.check_input.inputs.min().item(), probe.check_input.inputs.max().item()
        return Verdict(
            "forward",
            "fail",
            raised.layer,
            f"the embedding has {module.num_embeddings} rows, but token ids go from {low} to {high}",
            f"Use nn.Embedding({high + 1}, ...), with one row per id including padding.",
        )
    summary = raised.summary
    inputs = f"inputs of shape {tuple(probe.inputs.shape)} and {probe.inputs.dtype}"
    remedy = f"Make the network accept {inputs}."
    if ".cuda" in summary or "CUDA" in summary or "NVIDIA" in summary:
        remedy = "Leave the device to the caller: make tensors with device=x.device."
    elif "size of tensor" in summary or "mat1 and mat2" in summary or "shape" in summary:
        remedy = f"Check the sizes of this layer for a network with {inputs}."
    return Verdict(
        "forward",
        "fail",
        raised.layer,
        f"{raised.action} raises for a batch of {len(probe.inputs)}: {summary}",
        remedy,
    )


def _last_layer(trace: Trace) -> str:
    """Return the layer whose output is the network's."""
    outputs = {id(output) for output in tensors(trace.output)}
    return next((c.name for c in reversed(trace.calls) if c.name and {id(t) for t in tensors(c.output)} & outputs), "")


def finite(probe: Probe) -> Iterator[Verdict]:
    """Check that finite inputs give no nan and no infinity, in both modes."""
    for training, trace in ((False, probe.eval_trace), (True, probe.train_trace)):
        if all(torch.isfinite(output).all() for output in tensors(trace.output) if output.is_floating_point()):
            continue
        bad = int((~torch.isfinite(trace.logits)).sum())
        layer, kind = _first_not_finite(probe, training)
        yield Verdict(
            "finite",
            "fail",
            layer,
            f"{bad} of {trace.logits.numel()} outputs are nan or infinite in {'training' if training else 'evaluation'}"
            f" mode; {kind} is the first layer to give such values",
            "Look for a division by zero, a logarithm or root of 0, or weights that are too large.",
        )
        return


def _first_not_finite(probe: Probe, training: bool) -> tuple[str, str]:
    layers: list[tuple[str, str]] = []

    def record(call: Call, entering: bool) -> None:
        values = [v for v in tensors(call.inputs if entering else call.output) if v.is_floating_point()]
        if not layers and values and not all(torch.isfinite(v).all() for v in values):
            if entering:  # it came from operations between two layers
                parent = call.parent or call
                layers.append((parent.name, f"{type(parent.module).__name__}.forward"))
            else:
                layers.append((call.name, type(call.module).__name__))

    probe.run(training=training, observer=record)
    return layers[0] if layers else ("", type(probe.network).__name__)


def loss_at_start(probe: Probe) -> Iterator[Verdict]:
    """Check that the first loss is about that of chance."""
    if probe.check_input.num_outputs == 1 and probe.loss_kind == "softmax":
        yield Verdict(
            "loss_at_start",
            "fail",
            "",
            "1 output before a softmax: its only probability is 1, so the loss is always 0",
            "Use two outputs, or one output with the loss bce.",
        )
        return
    targets = probe.check_input.targets
    # Training mode, as in the first step: without batch statistics the signals of deep networks grow or vanish, and
    # spectral norms are not estimated yet. Dropout is off because it only adds noise.
    trace = probe.run(probe.check_input.inputs, training=True, in_eval=(_DropoutNd,))
    loss, chance = probe.loss(trace.logits, targets).item(), probe.chance_loss(targets)
    evidence = f"the first loss is {loss:.3g}, chance gives {chance:.3g}"
    layer, remedy = _last_layer(trace), _smaller_outputs(trace)
    is_classification = probe.loss_kind in ("softmax", "sigmoid")
    far = FAR if is_classification else FAR_FROM_TARGETS
    least_absurd = LEAST_ABSURD if is_classification else chance + 1
    if not loss < float("inf") or loss > max(ABSURD * chance, least_absurd):
        yield Verdict("loss_at_start", "fail", layer, evidence, remedy)
    elif loss > max(far * chance, chance + 0.5):
        yield Verdict("loss_at_start", "warn", layer, evidence, remedy)
    elif chance > 0 and loss < 0.2 * chance:
        yield Verdict(
            "loss_at_start",
            "warn",
            "",
            evidence,
            "Keep it if the weights are already trained; otherwise the loss or the inputs leak the targets.",
        )
    else:
        yield Verdict("loss_at_start", "pass", "", evidence, "")


def _smaller_outputs(trace: Trace) -> str:
    """Return the remedy for outputs that are too large, by their mean (a bias) or by their spread."""
    logits = trace.logits.detach()
    offset, spread = logits.mean(0).abs().max().item(), logits.std(0).max().item()
    if offset > 3 * spread:
        return (
            f"Check the last layer's bias: the outputs start {offset:.2g} off zero for any input. "
            "Keep it if it is deliberate, as for rare labels."
        )
    return (
        "Reduce the first outputs: use a usual initialization, a smaller one for the last layer, and standardized "
        "inputs."
    )


def constant_output(probe: Probe) -> Iterator[Verdict]:
    """Check that different inputs get different outputs."""
    spread = 0.0
    for training in (False, True):
        probe.snapshot.restore()
        nudge_zeros(probe.network)
        trace = probe.run(training=training, in_eval=(_DropoutNd,), restore=False)
        logits = trace.logits.double()
        spread = max(spread, ((logits.amax(0) - logits.amin(0)) / logits.abs().max().clamp(min=1e-30)).max().item())
    evidence = f"outputs of {len(probe.inputs)} samples differ by {spread:.2g} of the largest"
    if not torch.equal(probe.inputs[:1].expand_as(probe.inputs), probe.inputs) and spread < 1e-7:
        yield Verdict(
            "constant_output",
            "fail",
            "",
            evidence,
            "Look for a place that loses the input: a factor of 0, overwritten values, a mean over everything. "
            "Very small first weights make signals vanish too.",
        )
    else:
        yield Verdict("constant_output", "pass", "", evidence, "")


def nudge_zeros(network: nn.Module) -> None:
    """Replace all-zero weights by small ones, so that signals and gradients pass deliberate zeros."""
    with torch.no_grad():
        for _, parameter in network.named_parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
