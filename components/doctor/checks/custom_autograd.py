"""Check that the backward of each custom torch.autograd.Function is the derivative of its forward."""

import functools
import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, Function

from torchmill.components.doctor.graph import all_nodes
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.verdict import Grade, Verdict
from torchmill.components.training.rng import seed_all

SAMPLES = 3  # enough to see operations between samples
STEP, WRONG = 1e-6, 1e-3
REMEDY = (
    "Derive backward by hand: for each input, the output's gradient times the derivative, in the input's shape. "
    "Verify it with torch.autograd.gradcheck in float64."
)


def custom_functions(probe: Probe) -> Iterator[Verdict]:
    """Compare analytic and numerical directional derivatives in float64, at the arguments of the network's own run."""
    functions: dict[type[Function], str] = {}
    for trace in (probe.eval_trace, probe.train_trace):
        if trace.logits.grad_fn is None:
            continue
        for node in all_nodes(trace.logits.grad_fn):
            if isinstance(node, BackwardCFunction) and not node._forward_cls.__module__.startswith("torch."):
                functions.setdefault(node._forward_cls, trace.layer_of(node))
    for function, layer in functions.items():
        arguments = _arguments_of(probe, function)
        if arguments is not None:
            yield _judge(function, layer, arguments, len(probe.inputs))


def _arguments_of(probe: Probe, function: type[Function]) -> tuple[Any, ...] | None:
    """Return the arguments of the first call of the function's forward in a training forward."""
    calls: list[tuple[Any, ...]] = []
    with _intercepted(function, calls):
        probe.run(training=True, gradient=True)
    return calls[0] if calls else None


@contextmanager
def _intercepted(function: type[Function], calls: list[tuple[Any, ...]]) -> Generator[None]:
    original = inspect.getattr_static(function, "forward")
    call = function.forward
    with_context = function.setup_context is Function.setup_context

    @functools.wraps(call)
    def forward(*args, **kwargs):
        arguments = args[1:] if with_context else args
        calls.append(tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in arguments))
        return call(*args, **kwargs)

    is_own = "forward" in vars(function)
    function.forward = staticmethod(forward)  # ty: ignore[invalid-assignment]
    try:
        yield
    finally:
        if is_own:
            function.forward = original
        else:
            del function.forward


@dataclass
class _Comparison:
    """Comparison of a backward with the numerical derivative of its forward."""

    written: int
    """Numbers of the output's gradient that backward changed in place."""
    total: int
    error: float = 0.0
    """Largest relative error over all arguments."""
    argument: int = 0
    numerical: float = 0.0
    analytic: float = 0.0
    constant: bool = True
    """True if hardly an output moves with the argument, as in a piecewise constant function."""
    identity: bool = False


def _judge(function: type[Function], layer: str, arguments: tuple[Any, ...], samples: int) -> Verdict:
    name = function.__name__

    def verdict(grade: Grade, evidence: str, remedy: str) -> Verdict:
        return Verdict("custom_function", grade, layer, f"{name}{evidence}", remedy)

    try:
        result = _compare(function, [_small_double(value, samples) for value in arguments])
    except Exception as error:  # the user's forward and backward, on arguments that we made
        return verdict(
            "warn",
            f" could not be compared in float64 on {SAMPLES} samples: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "Make it accept any floating dtype and number of samples, so that it can be verified.",
        )
    if result.error <= WRONG:
        if result.written:
            return verdict(
                "warn",
                f": backward changes {result.written} of {result.total} values of its argument in place, "
                "which others may use too",
                "Write gradient = gradient * factor and not gradient *= factor; clone() it before you set values.",
            )
        return verdict("pass", f": forward and backward agree to {result.error:.1g}", "")
    evidence = (
        f": for argument {result.argument}, the derivative of forward is {result.numerical:.5g}, "
        f"but backward returns {result.analytic:.5g}"
    )
    if result.error != result.error:
        return verdict("warn", evidence, REMEDY)
    if result.constant:
        remedy = "Keep it if it is a deliberate straight-through estimator, for example for rounding or sign."
        return verdict("warn", f"{evidence}; forward is piecewise constant", remedy)
    if result.identity:
        remedy = "Keep it if it deliberately reverses or scales gradients."
        return verdict("warn", f"{evidence}; forward is the identity", remedy)
    return verdict("fail", evidence, REMEDY)


def _compare(function: type[Function], arguments: list[Any]) -> _Comparison:
    """Compare derivatives along one random direction per argument, with random weights of the outputs."""
    places = [i for i, value in enumerate(arguments) if isinstance(value, Tensor) and value.requires_grad]
    outputs = _apply(function, arguments)
    weights = [_noise(output, seed=1) for output in outputs]
    output_gradients = [weight.clone() for weight in weights]  # backward may write into its argument
    gradients = torch.autograd.grad(
        outputs, [arguments[i] for i in places], output_gradients, allow_unused=True, materialize_grads=True
    )
    result = _Comparison(
        written=sum(int((a != b).sum()) for a, b in zip(weights, output_gradients, strict=True)),
        total=sum(weight.numel() for weight in weights),
        identity=bool(places) and _is_identity(outputs, arguments[places[0]]),
    )
    for place, gradient in zip(places, gradients, strict=True):
        direction = _noise(arguments[place], seed=2)
        ahead, behind = (_apply(function, _moved(arguments, place, sign * STEP * direction)) for sign in (1, -1))
        pairs = list(zip(ahead, behind, weights, strict=True))
        numerical = sum(((a - b) * w).sum().item() for a, b, w in pairs) / (2 * STEP)
        analytic = (gradient * direction).sum().item()
        size = max(abs(numerical), abs(analytic), 1e-9 * gradient.norm().item(), 1e-12)
        if size > 1e-9 and abs(numerical - analytic) / size >= result.error:
            result.error, result.argument = abs(numerical - analytic) / size, place
            result.numerical, result.analytic = numerical, analytic
            result.constant = all((a == b).double().mean().item() > 0.9 for a, b, _ in pairs)
    return result


def _is_identity(outputs: list[Tensor], argument: Tensor) -> bool:
    return len(outputs) == 1 and outputs[0].shape == argument.shape and torch.equal(outputs[0], argument)


def _small_double(value: Any, samples: int) -> Any:
    """Return a few samples of an argument in float64, moved away from kinks such as ReLU's at 0."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() and value.shape[0] == samples:
        value = value[:SAMPLES]
    if not value.is_floating_point():
        return value.clone()
    value = value.double()
    noise = torch.rand(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = value.abs() + 0.1 * value.abs().mean()
    return (value + 1e-3 * scale * (noise + 0.5)).requires_grad_()


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def _moved(arguments: list[Any], place: int, step: Tensor) -> list[Any]:
    moved = [value.detach().clone() if isinstance(value, Tensor) else value for value in arguments]
    moved[place] = moved[place] + step.detach()
    return moved


def _apply(function: type[Function], arguments: list[Any]) -> list[Tensor]:
    """Return the differentiable outputs; random numbers are the same in each call."""
    seed_all(0)
    # Clone the arguments, since forward may write into them.
    output = function.apply(*[value.clone() if isinstance(value, Tensor) else value for value in arguments])
    outputs = output if isinstance(output, tuple) else (output,)
    floats = [value for value in outputs if isinstance(value, Tensor) and value.is_floating_point()]
    return [value for value in floats if value.requires_grad] or floats
