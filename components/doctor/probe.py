"""Probe of the network under examination: runs it as training and evaluation do, from the same state each time."""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components import tasks
from torchmill.components.doctor.check_input import CheckInput
from torchmill.components.doctor.recorder import Recorder
from torchmill.components.doctor.snapshot import Snapshot, has_own_state
from torchmill.components.doctor.trace import Observer, Raised, Trace, Tracer, main_output
from torchmill.components.training.losses import losses_of
from torchmill.components.training.rng import seed_all

# Samples that most checks use.
SAMPLES = 16
# Largest relative difference between two outputs that count as equal.
SAME = 1e-5


class Probe:
    """The network with its batch, and the facts about it that several checks need.

    Each run starts from the state of ``snapshot``, so no check sees changes by another.
    """

    def __init__(self, check_input: CheckInput, snapshot: Snapshot):
        self.check_input = check_input
        self.network = check_input.network
        self.snapshot = snapshot
        self.use_samples(SAMPLES)
        self.unregistered = list(unregistered(self.network))
        self.names = {id(module): name for name, module in reversed(list(self.network.named_modules()))}
        for place, value in self.unregistered:
            if isinstance(value, nn.Module):
                self.names |= {id(inner): f"{place}.{name}".rstrip(".") for name, inner in value.named_modules()}

    def use_samples(self, count: int) -> None:
        """Use the first ``count`` samples from now on."""
        self.inputs = self.check_input.inputs.detach()[:count]
        self.targets = self.check_input.targets.detach()[:count]
        for cached in ("eval_trace", "train_trace"):
            vars(self).pop(cached, None)

    @property
    def is_tokens(self) -> bool:
        return not self.inputs.is_floating_point()

    @property
    def loss_kind(self) -> str:
        """Function that the loss applies to the outputs: softmax, sigmoid or identity; empty if it is unknown."""
        task = tasks.task(self.check_input.task)
        return task.activation if self.check_input.loss_name in losses_of(task.name) else ""

    def run(
        self,
        inputs: Tensor | None = None,
        *,
        training: bool = False,
        seed: int = 0,
        gradient: bool = False,
        record: bool = False,
        restore: bool = True,
        in_eval: tuple[type[nn.Module], ...] = (),
        observer: Observer | None = None,
    ) -> Trace:
        """Run the network on a batch.

        Args:
            inputs: batch to run on, or None for the probe's own; the network gets a copy.
            training: True for training mode, False for evaluation mode.
            seed: seed of all random generators.
            gradient: record an autograd graph back to the inputs.
            record: record operations too.
            restore: restore the network's original state first.
            in_eval: kinds of layers to put in evaluation mode regardless of ``training``.
            observer: function that is called at entry (True) and exit (False) of each layer.

        Raises:
            Raised: the network's own code raises.
        """
        if restore:
            self.snapshot.restore()
        self.set_mode(training, in_eval)
        leaf, batch = None, (self.inputs if inputs is None else inputs).detach().clone()
        if gradient and batch.is_floating_point():
            # Pass a copy of the leaf, since the user's code may change its input in place.
            leaf = batch.requires_grad_()
            batch = leaf.clone()
        tracer = Tracer(self.network, self.names, observer)
        tracer.trace.leaf = leaf
        recorder = Recorder(tracer, {id(t): (t, name) for name, t in plain_tensors(self.network)})
        seed_all(seed)
        try:
            with torch.set_grad_enabled(gradient), tracer.hooked():
                if record:
                    with recorder:
                        tracer.trace.output = self.network(batch)
                    recorder.record_output(main_output(tracer.trace.output))
                else:
                    tracer.trace.output = self.network(batch)
                tracer.trace.grad_mode_changed = torch.is_grad_enabled() != gradient
        except Exception as error:  # the user's code can fail in any way
            raise Raised(error, tracer.layer, "forward") from error
        return tracer.trace

    def set_mode(self, training: bool, in_eval: tuple[type[nn.Module], ...] = ()) -> None:
        """Set training or evaluation mode, with evaluation mode for the kinds of layers ``in_eval``."""
        try:
            self.network.train(training)
        except Exception as error:  # from the user's own train()
            raise Raised(error, "", "train()") from error
        for module in self.network.modules():
            if isinstance(module, in_eval):
                module.eval()

    def loss(self, output: Any, targets: Tensor | None = None) -> Tensor:
        """Compute the loss as training does.

        Raises:
            Raised: the loss does not accept the network's output.
        """
        try:
            return self.check_input.loss(output, self.targets if targets is None else targets)
        except Exception as error:  # the loss and the type of the output may be the user's own
            raise Raised(error, "", "loss") from error

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor], layer: str = "") -> list[Tensor | None]:
        """Compute dense gradients of a loss; None for parameters that the loss does not depend on.

        Raises:
            Raised: the backward raises.
        """
        if not parameters or not loss.requires_grad:
            return [None] * len(parameters)
        for parameter in parameters:
            parameter.grad = None
        try:
            # Training calls backward() too, and reentrant checkpoints refuse autograd.grad.
            loss.backward()
        except Exception as error:  # a custom backward, or values changed in place
            raise Raised(error, layer, "backward") from error
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return [grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in gradients]

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters, each once; includes those that a user's own ``parameters()`` leaves out."""
        return [parameter for _, parameter in self.network.named_parameters()]

    @functools.cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that require a gradient, by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    @functools.cached_property
    def eval_trace(self) -> Trace:
        """One forward in evaluation mode, with its graph and operations."""
        return self.run(gradient=True, record=True)

    @functools.cached_property
    def train_trace(self) -> Trace:
        """One forward in training mode, with its graph and operations."""
        return self.run(training=True, gradient=True, record=True)

    @functools.cached_property
    def kinds(self) -> set[type]:
        return {type(module) for module in self.network.modules()}

    def has(self, *kinds: type[nn.Module]) -> bool:
        """Return True if the network has a layer of one of the kinds."""
        return any(issubclass(kind, kinds) for kind in self.kinds)

    def chance_loss(self, targets: Tensor) -> float:
        """Compute the loss of all-zero outputs: ln(classes), ln 2, or the variance of the targets."""
        return self.loss(torch.zeros(len(targets), self.check_input.num_outputs), targets).item()


def unregistered(network: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Find layers and parameters in lists, tuples, sets, dicts and plain objects, which torch does not search."""
    seen = {id(module) for module in network.modules()} | {id(p) for _, p in network.named_parameters()}

    def search(place: str, value: object, depth: int) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
        if isinstance(value, (nn.Module, nn.Parameter)):
            if id(value) not in seen:
                seen.add(id(value))
                yield place, value
        elif depth < 4 and isinstance(value, dict):
            for key, inner in value.items():
                yield from search(f"{place}[{key!r}]", inner, depth + 1)
        elif depth < 4 and isinstance(value, (list, tuple, set, frozenset)):
            for index, inner in enumerate(value):
                yield from search(f"{place}[{index}]", inner, depth + 1)
        elif depth < 4 and has_own_state(value) and id(value) not in seen:
            seen.add(id(value))  # objects may refer to each other
            for attribute, inner in list(vars(value).items()):
                yield from search(f"{place}.{attribute}", inner, depth + 1)

    for name, attribute, value in own_attributes(network):
        yield from search(f"{name}.{attribute}".lstrip("."), value, 0)


def plain_tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Find tensors in plain attributes of layers, neither parameters nor buffers."""
    seen = {id(value) for module in network.modules() for value in (*module._parameters.values(),)}
    seen |= {id(value) for module in network.modules() for value in module._buffers.values()}
    plain = []

    def search(place: str, value: object, depth: int) -> None:
        if isinstance(value, Tensor):
            if id(value) not in seen and not isinstance(value, nn.Parameter):
                seen.add(id(value))
                plain.append((place, value))
        elif depth < 4 and isinstance(value, dict):
            for key, inner in value.items():
                search(f"{place}[{key!r}]", inner, depth + 1)
        elif depth < 4 and isinstance(value, (list, tuple, collections.deque)):
            for index, inner in enumerate(value):
                search(f"{place}[{index}]", inner, depth + 1)

    for name, attribute, value in own_attributes(network):
        module = network.get_submodule(name)
        # weight_norm and spectral_norm recompute such attributes before each forward.
        if not {f"{attribute}_g", f"{attribute}_orig"} & set(module._parameters):
            search(f"{name}.{attribute}".lstrip("."), value, 0)
    return plain


def own_attributes(network: nn.Module) -> Iterator[tuple[str, str, object]]:
    """Yield the attributes of all layers, without those that every ``nn.Module`` has."""
    common = vars(nn.Module()).keys()
    for name, module in network.named_modules():
        for attribute, value in list(vars(module).items()):
            if attribute not in common:
                yield name, attribute, value


def shape_of(value: object) -> str:
    """Describe an output by its shape, or by its type if it is no tensor."""
    value = main_output(value)
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def relative_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference relative to the largest value; inf if only one of the two is nan somewhere."""
    if first.shape != second.shape or bool((first.isnan() != second.isnan()).any()):
        return float("inf")
    first, second = first.nan_to_num().double(), second.nan_to_num().double()
    if not first.numel():
        return 0.0
    scale = max(first.abs().max().item(), second.abs().max().item(), 1e-30)
    return (first - second).abs().max().item() / scale
