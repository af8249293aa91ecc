"""Whether the backward of each torch.autograd.Function agrees with its forward."""

import functools
import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, Function

from torchmill.components.doctor.checks.activations import graph
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.verdict import Verdict
from torchmill.components.training.rng import seed_all

SHRUNK = 3  # samples: enough for what happens between samples
STEP, WRONG = 1e-6, 1e-3
REMEDY = (
    "Derive backward by hand for each input: the gradient of the output times the derivative, in the input's shape. "
    "torch.autograd.gradcheck in float64 tells whether it is right."
)


def custom_functions(probe: Probe) -> Iterator[Verdict]:
    """Compare analytic with numerical directional derivatives, in float64, on the arguments that forward got."""
    found: dict[type[Function], str] = {}
    for trace in (probe.evaluated, probe.trained):
        if trace.logits.grad_fn is None:
            continue
        for node in graph(trace.logits.grad_fn):
            if isinstance(node, BackwardCFunction) and not node._forward_cls.__module__.startswith("torch."):
                found.setdefault(node._forward_cls, trace.layer_of(node))
    for function, layer in found.items():
        arguments = _arguments_of(probe, function)
        if arguments is not None:
            yield _compare(function, layer, arguments, len(probe.inputs))


def _arguments_of(probe: Probe, function: type[Function]) -> tuple[Any, ...] | None:
    """What the function's forward is given; whoever calls it, by whatever name."""
    given: list[tuple[Any, ...]] = []
    with _intercepted(function, given):
        probe.run(training=True, gradient=True)
    return given[0] if given else None


@contextmanager
def _intercepted(function: type[Function], given: list[tuple[Any, ...]]) -> Generator[None]:
    original = inspect.getattr_static(function, "forward")
    call = function.forward
    with_context = function.setup_context is Function.setup_context

    @functools.wraps(call)
    def forward(*args, **kwargs):
        arguments = args[1:] if with_context else args
        given.append(tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in arguments))
        return call(*args, **kwargs)

    own = "forward" in vars(function)
    function.forward = staticmethod(forward)  # ty: ignore[invalid-assignment]
    try:
        yield
    finally:
        if own:
            function.forward = original
        else:
            del function.forward


def _compare(function: type[Function], layer: str, given: tuple[Any, ...], samples: int) -> Verdict:
    name = function.__name__
    arguments = [_small_double(value, samples) for value in given]
    places = [i for i, value in enumerate(arguments) if isinstance(value, Tensor) and value.requires_grad]
    try:
        outputs = _apply(function, arguments)
        weights = [_noise(output, seed=1) for output in outputs]
        given_back = [weight.clone() for weight in weights]  # backward may write into what it is given
        analytic = torch.autograd.grad(
            outputs, [arguments[i] for i in places], given_back, allow_unused=True, materialize_grads=True
        )
        written = sum(int((a != b).sum()) for a, b in zip(weights, given_back, strict=True))
        worst, numbers, still, moved = 0.0, (0.0, 0.0), True, ""
        for place, gradient in zip(places, analytic, strict=True):
            direction = _noise(arguments[place], seed=2)
            ahead, behind = (_apply(function, _moved(arguments, place, sign * STEP * direction)) for sign in (1, -1))
            pairs = list(zip(ahead, behind, weights, strict=True))
            numerical = sum(((a - b) * w).sum().item() for a, b, w in pairs) / (2 * STEP)
            computed = (gradient * direction).sum().item()
            size = max(abs(numerical), abs(computed), 1e-9 * gradient.norm().item(), 1e-12)
            if size > 1e-9 and abs(numerical - computed) / size >= worst:
                worst, numbers, moved = abs(numerical - computed) / size, (numerical, computed), f"argument {place}"
                # Of a piecewise constant function, hardly an output moves with its input.
                still = all((a == b).double().mean().item() > 0.9 for a, b, _ in pairs)
    except Exception as error:  # the user's own forward and backward, on arguments that we made
        return Verdict(
            "custom_function",
            "warn",
            layer,
            f"{name} could not be compared in float64 on {SHRUNK} "
            f"samples: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "Have it take any floating type and number of samples; then it can be verified.",
        )
    evidence = f"{name}: for {moved}, the derivative of forward is {numbers[0]:.5g}, backward says {numbers[1]:.5g}"
    if (not places or worst <= WRONG) and written:
        return Verdict(
            "custom_function",
            "warn",
            layer,
            f"{name}: backward changes {written} of {sum(w.numel() for w in weights)} numbers of the gradient that it "
            "is given in place: others may use it, too",
            "gradient = gradient * factor, not gradient *= factor; a clone() before values are set.",
        )
    if not places or worst <= WRONG:
        return Verdict("custom_function", "pass", layer, f"{name}: forward and backward agree to {worst:.1g}", "")
    if worst != worst:
        return Verdict("custom_function", "warn", layer, evidence, REMEDY)
    if still:
        return Verdict(
            "custom_function",
            "warn",
            layer,
            f"{evidence}: forward is piecewise constant",
            "Right if it is meant: a straight-through estimator for rounding or sign.",
        )
    if _is_identity(outputs, arguments, places):
        return Verdict(
            "custom_function",
            "warn",
            layer,
            f"{evidence}: forward is the identity",
            "Right if it is meant: a reversal or scaling of gradients.",
        )
    return Verdict(
        "custom_function", "fail", layer, f"{evidence}: its backward does not agree with its forward", REMEDY
    )


def _is_identity(outputs: list[Tensor], arguments: list[Any], places: list[int]) -> bool:
    first = arguments[places[0]]
    return len(outputs) == 1 and outputs[0].shape == first.shape and torch.equal(outputs[0], first)


def _small_double(value: Any, samples: int) -> Any:
    """A few samples of an argument, in float64, a little beside where kinks such as that of ReLU at 0 are."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() and value.shape[0] == samples:
        value = value[:SHRUNK]
    if not value.is_floating_point():
        return value.clone()
    value = value.double()
    noise = torch.rand(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = value.abs() + 0.1 * value.abs().mean()
    return (value + 1e-3 * scale * (noise + 0.5)).requires_grad_()


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def _moved(arguments: list[Any], place: int, by: Tensor) -> list[Any]:
    moved = [value.detach().clone() if isinstance(value, Tensor) else value for value in arguments]
    moved[place] = moved[place] + by.detach()
    return moved


def _apply(function: type[Function], arguments: list[Any]) -> list[Tensor]:
    """The outputs that may be differentiated; the same chance each time."""
    seed_all(0)
    # Forward may write into its arguments.
    output = function.apply(*[value.clone() if isinstance(value, Tensor) else value for value in arguments])
    outputs = output if isinstance(output, tuple) else (output,)
    found = [value for value in outputs if isinstance(value, Tensor) and value.is_floating_point()]
    return [value for value in found if value.requires_grad] or found
