"""The network under examination: runs it as training and evaluation would, from the same state each time."""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components import tasks
from torchmill.components.doctor.check_input import CheckInput
from torchmill.components.doctor.snapshot import Snapshot, has_own_state
from torchmill.components.doctor.trace import Look, Raised, Recorder, Trace, Tracer, main_output
from torchmill.components.training.losses import losses_of
from torchmill.components.training.rng import seed_all

# As many samples as most checks look at.
SAMPLES = 16
# Two outputs are the same if they differ by no more, relative to the largest.
SAME = 1e-5


class Probe:
    """A case, with what several checks need to know of it.

    A run starts from the state of ``snapshot``, so no check sees what another one did.
    """

    def __init__(self, case: CheckInput, snapshot: Snapshot):
        self.case = case
        self.network = case.network
        self.snapshot = snapshot
        self.take(SAMPLES)
        self.unregistered = list(unregistered(case.network))
        self.names = {id(module): name for name, module in reversed(list(case.network.named_modules()))}
        for place, value in self.unregistered:
            if isinstance(value, nn.Module):
                self.names |= {id(inner): f"{place}.{name}".rstrip(".") for name, inner in value.named_modules()}

    def take(self, samples: int) -> None:
        """Look at so many of the samples from now on."""
        self.inputs = self.case.inputs.detach()[:samples]
        self.targets = self.case.targets.detach()[:samples]
        for cached in ("evaluated", "trained"):
            vars(self).pop(cached, None)

    @property
    def is_tokens(self) -> bool:
        return not self.inputs.is_floating_point()

    @property
    def kind_of_loss(self) -> str:
        """Function that the loss applies to the outputs: softmax, sigmoid or identity; empty if nobody knows."""
        task = tasks.task(self.case.task)
        return task.activation if self.case.loss_name in losses_of(task.name) else ""

    def run(
        self,
        inputs: Tensor | None = None,
        *,
        training: bool = False,
        seed: int = 0,
        gradient: bool = False,
        record: bool = False,
        fresh: bool = True,
        quiet: tuple[type[nn.Module], ...] = (),
        look: Look | None = None,
    ) -> Trace:
        """Give a batch to the network.

        Args:
            inputs: the case's own if None; the network gets a copy.
            training: in which mode.
            seed: of all sources of chance.
            gradient: whether a graph is recorded, back to the inputs.
            record: whether operations are written down, too.
            fresh: whether the network is first put into its original state.
            quiet: kinds of layers that are put into evaluation mode all the same.
            look: called at entry (True) and exit (False) of each layer.

        Raises:
            Raised: the network's own code does.
        """
        if fresh:
            self.snapshot.restore()
        self.mode(training, quiet)
        leaf, given = None, (self.inputs if inputs is None else inputs).detach().clone()
        if gradient and given.is_floating_point():
            # A copy of the leaf: operations in place on it are the user's right.
            leaf = given.requires_grad_()
            given = leaf.clone()
        tracer = Tracer(self.network, self.names, look)
        tracer.trace.leaf = leaf
        recorder = Recorder(tracer, {id(t): (t, name) for name, t in plain_tensors(self.network)})
        seed_all(seed)
        try:
            with torch.set_grad_enabled(gradient), tracer.watching():
                if record:
                    with recorder:
                        tracer.trace.output = self.network(given)
                    recorder.output(main_output(tracer.trace.output))
                else:
                    tracer.trace.output = self.network(given)
                tracer.trace.switched = torch.is_grad_enabled() != gradient
        except Exception as error:  # the user's code can fail in any way
            raise Raised(error, tracer.layer, "forward") from error
        return tracer.trace

    def mode(self, training: bool, quiet: tuple[type[nn.Module], ...] = ()) -> None:
        """Put the network into training or evaluation mode, as training and evaluation would."""
        try:
            self.network.train(training)
        except Exception as error:  # a train() of the user's own
            raise Raised(error, "", "train()") from error
        for module in self.network.modules():
            if isinstance(module, quiet):
                module.eval()

    def loss(self, output: Any, targets: Tensor | None = None) -> Tensor:
        """The loss, as training has it.

        Raises:
            Raised: the loss can't take what the network gave.
        """
        try:
            return self.case.loss(output, self.targets if targets is None else targets)
        except Exception as error:  # the loss may be the user's own, and the network's output its own, too
            raise Raised(error, "", "loss") from error

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor], layer: str = "") -> list[Tensor | None]:
        """Gradients of a loss by parameters, dense; None for those that it does not depend on.

        Raises:
            Raised: the backward does.
        """
        if not parameters or not loss.requires_grad:
            return [None] * len(parameters)
        for parameter in parameters:
            parameter.grad = None
        try:
            # As training does it; autograd.grad is refused by checkpoints that re-enter autograd.
            loss.backward()
        except Exception as error:  # a backward of the user's own, or values changed in place
            raise Raised(error, layer, "backward") from error
        found = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return [gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient for gradient in found]

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All of them, each once; also those that a parameters() of the user's own leaves out."""
        return [parameter for _, parameter in self.network.named_parameters()]

    @functools.cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that want a gradient, by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    @functools.cached_property
    def evaluated(self) -> Trace:
        """One forward in evaluation mode, with its graph and operations."""
        return self.run(gradient=True, record=True)

    @functools.cached_property
    def trained(self) -> Trace:
        """One forward in training mode, with its graph and operations."""
        return self.run(training=True, gradient=True, record=True)

    @functools.cached_property
    def kinds(self) -> set[type]:
        return {type(module) for module in self.network.modules()}

    def has(self, *kinds: type[nn.Module]) -> bool:
        """Whether the network has a layer of such a kind."""
        return any(issubclass(kind, kinds) for kind in self.kinds)

    def chance_loss(self, targets: Tensor) -> float:
        """The loss of a network that answers zero to everything: ln(classes), ln 2, the targets' variance."""
        return self.loss(torch.zeros(len(targets), self.case.num_outputs), targets).item()


def unregistered(network: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Find layers and parameters in lists, tuples, sets, dicts and plain objects, where torch does not look."""
    known = {id(module) for module in network.modules()} | {id(p) for _, p in network.named_parameters()}

    def search(place: str, value: object, depth: int) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
        if isinstance(value, (nn.Module, nn.Parameter)):
            if id(value) not in known:
                known.add(id(value))
                yield place, value
        elif depth < 4 and isinstance(value, dict):
            for key, inner in value.items():
                yield from search(f"{place}[{key!r}]", inner, depth + 1)
        elif depth < 4 and isinstance(value, (list, tuple, set, frozenset)):
            for index, inner in enumerate(value):
                yield from search(f"{place}[{index}]", inner, depth + 1)
        elif depth < 4 and has_own_state(value) and id(value) not in known:
            known.add(id(value))  # objects may refer to each other
            for attribute, inner in list(vars(value).items()):
                yield from search(f"{place}.{attribute}", inner, depth + 1)

    for name, attribute, value in attributes(network):
        yield from search(f"{name}.{attribute}".lstrip("."), value, 0)


def plain_tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Tensors that layers keep as plain attributes, neither parameter nor buffer."""
    known = {id(value) for module in network.modules() for value in (*module._parameters.values(),)}
    known |= {id(value) for module in network.modules() for value in module._buffers.values()}
    found = []

    def search(place: str, value: object, depth: int) -> None:
        if isinstance(value, Tensor):
            if id(value) not in known and not isinstance(value, nn.Parameter):
                known.add(id(value))
                found.append((place, value))
        elif depth < 4 and isinstance(value, dict):
            for key, inner in value.items():
                search(f"{place}[{key!r}]", inner, depth + 1)
        elif depth < 4 and isinstance(value, (list, tuple, collections.deque)):
            for index, inner in enumerate(value):
                search(f"{place}[{index}]", inner, depth + 1)

    for name, attribute, value in attributes(network):
        module = network.get_submodule(name)
        # What weight_norm and spectral_norm compute anew before each forward.
        if not {f"{attribute}_g", f"{attribute}_orig"} & set(module._parameters):
            search(f"{name}.{attribute}".lstrip("."), value, 0)
    return found


def attributes(network: nn.Module) -> Iterator[tuple[str, str, object]]:
    """The attributes that layers have of their own, without those by which torch keeps parameters and hooks."""
    torchs = vars(nn.Module()).keys()
    for name, module in network.named_modules():
        for attribute, value in list(vars(module).items()):
            if attribute not in torchs:
                yield name, attribute, value


def shape_of(value: object) -> str:
    """How an output looks, for people."""
    value = main_output(value)
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of two outputs relative to the largest value; inf where one is nan and the other is not."""
    if one.shape != other.shape or bool((one.isnan() != other.isnan()).any()):
        return float("inf")
    one, other = one.nan_to_num().double(), other.nan_to_num().double()
    if not one.numel():
        return 0.0
    scale = max(one.abs().max().item(), other.abs().max().item(), 1e-30)
    return (one - other).abs().max().item() / scale
