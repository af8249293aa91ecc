"""Trace of one forward: the calls of layers and the operations within them."""

import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves


class Raised(Exception):
    """An exception of the user's code: it becomes a verdict on the network and is no bug of the doctor."""

    def __init__(self, error: Exception, layer: str, action: str):
        super().__init__(str(error))
        self.error = error
        self.layer = layer
        self.action = action

    @property
    def summary(self) -> str:
        """The error in one line, with the line of the user's code that raised it."""
        frames = [f for f in traceback.extract_tb(self.error.__traceback__) if is_users(f.filename)]
        place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
        text = " ".join(str(self.error).split())
        return f"{type(self.error).__name__}: {text[:400]}{place}"


def is_users(filename: str) -> bool:
    """Return True if a source file belongs neither to a library nor to the doctor."""
    return not (
        filename.startswith("<") or "site-packages" in filename or Path(__file__).parent in Path(filename).parents
    )


@dataclass(eq=False)
class Call:
    """One call of a layer."""

    name: str
    module: nn.Module
    parent: "Call | None"
    registered: bool
    start: int
    """Autograd's sequence number at entry; the nodes of this call have numbers from ``start`` to ``end``."""
    end: int = -1
    inputs: tuple[Any, ...] = ()
    output: Any = None
    input_node: Any = None
    output_node: Any = None
    """Node of the output's graph when the layer returned, before any later in-place operation."""


@dataclass(eq=False)
class Operation:
    """One call of a torch function in Python."""

    name: str
    layer: str
    module: nn.Module | None
    output: Any
    arguments: dict[str, Any]
    flat: float = 0.0
    """Share of an activation's outputs at which its slope is zero."""
    units: int = 0


class Stray(NamedTuple):
    """An operation that combines a tensor bound to the CPU with one of the network's."""

    layer: str
    operation: str
    origin: str


@dataclass
class Trace:
    """Record of one forward."""

    output: Any = None
    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    leaf: Tensor | None = None
    """Leaf of the network's input, if its gradient is recorded."""
    grad_mode_changed: bool = False
    """True if forward changed torch's global gradient mode."""

    @property
    def logits(self) -> Tensor:
        """The main output, without auxiliary ones."""
        return main_output(self.output)

    def layer_of(self, node: Any) -> str:
        """Return the name of the innermost layer whose forward made a node of the autograd graph."""
        number = node._sequence_nr()
        inside = [call for call in self.calls if call.start <= number < call.end]
        return max(inside, key=lambda call: call.start, default=Call("", nn.Identity(), None, True, 0)).name

    def called(self) -> set[int]:
        """Return the ids of the modules that were called."""
        return {id(call.module) for call in self.calls}


def main_output(output: Any) -> Any:
    """Return the logits of (logits, *auxiliary logits), or any other output unchanged."""
    return output[0] if isinstance(output, tuple) and output and isinstance(output[0], Tensor) else output


def tensors(values: Any) -> list[Tensor]:
    """Return all tensors in nested containers."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


Observer = Callable[[Call, bool], None]
"""Function that gets each call of a layer twice: at entry with True, at exit with False."""


class Tracer:
    """Hooks that record the calls of layers, registered or not, during one forward."""

    def __init__(self, network: nn.Module, names: dict[int, str], observer: Observer | None = None):
        self.trace = Trace()
        self.names = names
        self.registered = {id(module) for module in network.modules()}
        self.stack: list[Call] = []
        self.observer = observer

    @property
    def layer(self) -> str:
        return self.stack[-1].name if self.stack else ""

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        parent = self.stack[-1] if self.stack else None
        registered = id(module) in self.registered or (parent is not None and not parent.registered)
        if id(module) in self.names:
            name = self.names[id(module)]
        else:
            name = f"{parent.name}.{type(module).__name__}".lstrip(".") if parent else type(module).__name__
        call = Call(name, module, parent, registered, torch.autograd._get_sequence_nr())
        first = tensors(inputs)
        call.inputs, call.input_node = inputs, first[0].grad_fn if first else None
        self.stack.append(call)
        self.trace.calls.append(call)
        if self.observer:
            self.observer(call, True)

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        while self.stack:
            call = self.stack.pop()
            call.end = torch.autograd._get_sequence_nr()
            if call.module is module:
                first = tensors(output)
                call.output, call.output_node = output, first[0].grad_fn if first else None
                if self.observer:
                    self.observer(call, False)
                break

    @contextmanager
    def hooked(self) -> Generator[None]:
        handles = [register_module_forward_pre_hook(self.enter), register_module_forward_hook(self.leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
