"""Run somebody's network and write down which layers and operations took part."""

import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

TORCH = str(Path(torch.__file__).parent)
ACTIVATIONS = {"relu", "relu_", "relu6", "sigmoid", "sigmoid_", "tanh", "tanh_"}
DROPOUTS = {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
ATTENTION = {"multi_head_attention_forward", "scaled_dot_product_attention"}
# What takes a tensor out of the graph, or takes its values into Python.
CUTS = {
    "detach", "detach_", "numpy", "__array__", "item", "tolist", "argmax", "argmin", "argsort", "data", "round", "sign",
    "floor", "ceil", "multinomial", "bernoulli", "long", "int", "one_hot", "__bool__", "__int__", "__float__",
}  # fmt: skip
RECORDED = {*ACTIVATIONS, *DROPOUTS, *ATTENTION, *CUTS, "batch_norm", "_pack_padded_sequence"}
FACTORIES = {
    "zeros", "ones", "full", "empty", "eye", "arange", "linspace", "logspace", "rand", "randn", "randint", "randperm",
    "tensor", "as_tensor", "from_numpy", "scalar_tensor", "normal", "tril_indices", "triu_indices", "hann_window",
}  # fmt: skip
# Operations that may take tensors of two devices: they move them, or index by them.
MOVES = {
    "to", "type_as", "cuda", "cpu", "copy_", "__getitem__", "__setitem__", "index_put_", "set_", "__get__",
    "_pack_padded_sequence",
}  # fmt: skip


class Raised(Exception):
    """The user's own code raised: a verdict on the network, not a mistake of ours."""

    def __init__(self, error: Exception, layer: str, doing: str):
        super().__init__(str(error))
        self.error = error
        self.layer = layer
        self.doing = doing

    @property
    def words(self) -> str:
        """The error in one line, with the user's own place in the code."""
        frames = [f for f in traceback.extract_tb(self.error.__traceback__) if is_users(f.filename)]
        place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
        text = " ".join(str(self.error).split())
        return f"{type(self.error).__name__}: {text[:400]}{place}"


def is_users(filename: str) -> bool:
    """Whether a source file is the user's: no library's and none of the doctor's."""
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
    """Autograd's sequence number at entry; its nodes are those from ``start`` to ``end``."""
    end: int = -1
    inputs: tuple[Any, ...] = ()
    output: Any = None
    input_node: Any = None
    output_node: Any = None
    """The node of the output's graph, as it was when the layer returned: before anything in place."""


@dataclass(eq=False)
class Operation:
    """One call of a torch function in Python."""

    name: str
    layer: str
    module: nn.Module | None
    output: Any
    arguments: dict[str, Any]
    zeros: float = 0.0
    """Of an activation: the part of its outputs that lie where its slope is zero."""
    units: int = 0


@dataclass
class Trace:
    """What happened in one forward."""

    output: Any = None
    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    strays: list[tuple[str, str, str]] = field(default_factory=list)
    """Layer, operation and origin where a tensor that stays on the CPU met one of the network's."""

    leaf: Tensor | None = None
    """What was given to the network, where its gradient is asked for."""
    switched: bool = False
    """Whether forward left torch's global gradient mode other than it was."""

    @property
    def logits(self) -> Tensor:
        """The main output, without auxiliary ones."""
        return main_output(self.output)

    def layer_of(self, node: Any) -> str:
        """Name the innermost layer in whose forward a node of the autograd graph was made."""
        number = node._sequence_nr()
        inside = [call for call in self.calls if call.start <= number < call.end]
        return max(inside, key=lambda call: call.start, default=Call("", nn.Identity(), None, True, 0)).name

    def called(self) -> set[int]:
        """Ids of the modules that took part."""
        return {id(call.module) for call in self.calls}


def main_output(output: Any) -> Any:
    """Give the logits of (logits, *auxiliary logits), or the output itself."""
    return output[0] if isinstance(output, tuple) and output and isinstance(output[0], Tensor) else output


def tensors(values: object) -> list[Tensor]:
    """All tensors within nested tuples, lists and dicts."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


Look = Callable[[Call, bool], None]


class Tracer:
    """Follows the calls of layers, registered or not, during one forward."""

    def __init__(self, network: nn.Module, names: dict[int, str], look: Look | None = None):
        self.trace = Trace()
        self.names = names
        self.registered = {id(module) for module in network.modules()}
        self.stack: list[Call] = []
        self.look = look

    @property
    def layer(self) -> str:
        return self.stack[-1].name if self.stack else ""

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
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
        if self.look:
            self.look(call, True)

    def after(self, module: nn.Module, _: Any, output: Any) -> None:
        while self.stack:
            call = self.stack.pop()
            call.end = torch.autograd._get_sequence_nr()
            if call.module is module:
                first = tensors(output)
                call.output, call.output_node = output, first[0].grad_fn if first else None
                if self.look:
                    self.look(call, False)
                break

    @contextmanager
    def watching(self) -> Generator[None]:
        handles = [register_module_forward_pre_hook(self.before), register_module_forward_hook(self.after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Recorder(TorchFunctionMode):
    """Writes down activations, dropouts, cuts of the graph, and tensors that would stay on the CPU."""

    def __init__(self, tracer: Tracer, plain: dict[int, tuple[Tensor, str]]):
        super().__init__()
        self.tracer = tracer
        # Tensors that no .to(device) of the network moves, by id: held, so that no id is given twice.
        self.stays: dict[int, tuple[Tensor, str]] = dict(plain)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = _name_of(func)
        if self.stays and name not in MOVES:
            self._compare_devices(name, (args, kwargs))
        result = func(*args, **kwargs)
        if name in ("numpy", "__array__", "cpu", "to") and not _called_by_torch():
            result = self._leave_device(name, args, kwargs, result)
        if isinstance(result, Tensor):
            self._follow_device(name, args, kwargs, result)
        if name in RECORDED:
            self._record(name, args, kwargs, result)
        return result

    def _record(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        stack = self.tracer.stack
        module = stack[-1].module if stack else None
        operation = Operation(name, self.tracer.layer, module, result, {})
        if name in DROPOUTS:
            positional = dict(zip(("p", "training"), args[1:], strict=False))
            default = {"p": 0.5, "training": name != "dropout_"}
            operation.arguments = default | positional | kwargs
        elif name == "batch_norm":
            positional = dict(zip(("mean", "var", "weight", "bias", "training"), args[1:], strict=False))
            operation.arguments = {"training": False} | positional | kwargs
        elif name in ATTENTION:
            positional = dict(zip(("attn_mask",), args[3:], strict=False)) if name.startswith("scaled") else {}
            operation.arguments = positional | kwargs
        elif name in ACTIVATIONS and isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 1:
            operation.zeros, operation.units = _flat_part(name, result.detach()), result[0].numel()
        self.tracer.trace.operations.append(operation)

    def output(self, output: Any) -> None:
        """Look at what the network gives: the loss meets it with targets."""
        self._compare_devices("the loss", (output, torch.empty(1)))

    def _compare_devices(self, name: str, values: Any) -> None:
        found = [value for value in tensors(values) if value.dim() > 0]
        staying = [value for value in found if id(value) in self.stays]
        if staying and len(staying) < len(found):
            origin = self.stays[id(staying[0])][1]
            self.tracer.trace.strays.append((self.tracer.layer, name, origin))
            for value in staying:  # told once
                self.stays.pop(id(value), None)

    def _leave_device(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """Note what is fetched to the CPU; given as an object of its own, as it is where it comes from a GPU."""
        source = args[0] if args else None
        if not isinstance(source, Tensor) or source.dim() == 0 or id(source) in self.stays:
            return result
        if name in ("numpy", "__array__"):  # refused of a tensor on a GPU
            self.tracer.trace.strays.append((self.tracer.layer, "NumPy", f"Tensor.{name}()"))
        elif name == "cpu" or any(_says_cpu(value) for value in (*args[1:], *kwargs.values())):
            if result is source and source.layout is torch.strided and not source.is_nested:
                result = source.view_as(source)
            if result is not source:
                self.stays[id(result)] = (result, "Tensor.cpu()" if name == "cpu" else "Tensor.to('cpu')")
        return result

    def _follow_device(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        if name in FACTORIES and isinstance(kwargs.get("device"), (str, type(None))):
            # Of a tensor, as_tensor keeps the device.
            if not (name in ("as_tensor", "tensor") and tensors(args)) and result.dim() > 0 and not _called_by_torch():
                self.stays[id(result)] = (result, f"torch.{name}")
            return
        if name == "cpu":
            return
        if name in ("to", "type_as"):
            if any(_says_cpu(value) for value in (*args[1:], *kwargs.values())):
                return
            others = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, (torch.device, Tensor))]
            if others or name == "type_as":
                self.stays.pop(id(result), None)
                return
        sources = tensors((args, kwargs))
        if sources and all(id(s) in self.stays or s.dim() == 0 for s in sources):
            kept = next((self.stays[id(s)][1] for s in sources if id(s) in self.stays), None)
            if kept:
                self.stays[id(result)] = (result, kept)


def _says_cpu(value: object) -> bool:
    """Whether it names the CPU in letters: a torch.device may be that of another tensor."""
    return isinstance(value, str) and value.partition(":")[0] == "cpu"


def _called_by_torch() -> bool:
    """Whether the call that is being recorded stands in torch itself, which minds devices."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(TORCH)


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":  # a property such as Tensor.data
        return getattr(getattr(func, "__self__", None), "__name__", "")
    return name


def _flat_part(name: str, output: Tensor) -> float:
    if name.startswith("relu"):
        flat = output <= 0 if name != "relu6" else (output <= 0) | (output >= 6)
    elif name.startswith("sigmoid"):
        flat = (output < 1e-4) | (output > 1 - 1e-4)
    else:
        flat = output.abs() > 1 - 1e-4
    return flat.float().mean().item()
