"""Recorder of the torch functions that a forward calls, and of tensors that would stay on the CPU."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchmill.components.doctor.trace import Operation, Stray, Tracer, tensors

TORCH = str(Path(torch.__file__).parent)
ACTIVATIONS = {"relu", "relu_", "relu6", "sigmoid", "sigmoid_", "tanh", "tanh_"}
DROPOUTS = {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
ATTENTION = {"multi_head_attention_forward", "scaled_dot_product_attention"}
# Functions that take a tensor out of the graph or its values into Python.
CUTS = {
    "detach", "detach_", "numpy", "__array__", "item", "tolist", "argmax", "argmin", "argsort", "data", "round", "sign",
    "floor", "ceil", "multinomial", "bernoulli", "long", "int", "one_hot", "__bool__", "__int__", "__float__",
}  # fmt: skip
RECORDED = {*ACTIVATIONS, *DROPOUTS, *ATTENTION, *CUTS, "batch_norm", "_pack_padded_sequence"}
FACTORIES = {
    "zeros", "ones", "full", "empty", "eye", "arange", "linspace", "logspace", "rand", "randn", "randint", "randperm",
    "tensor", "as_tensor", "from_numpy", "scalar_tensor", "normal", "tril_indices", "triu_indices", "hann_window",
}  # fmt: skip
# Operations that accept tensors of two devices: they move tensors or index by them.
MOVES = {
    "to", "type_as", "cuda", "cpu", "copy_", "__getitem__", "__setitem__", "index_put_", "set_", "__get__",
    "_pack_padded_sequence",
}  # fmt: skip


class Recorder(TorchFunctionMode):
    """Records activations, dropouts, cuts of the graph, and operations on tensors that would stay on the CPU."""

    def __init__(self, tracer: Tracer, plain: dict[int, tuple[Tensor, str]]):
        super().__init__()
        self.tracer = tracer
        # Tensors that the network's .to(device) does not move, with their origin, by id. References keep ids unique.
        self.cpu_bound: dict[int, tuple[Tensor, str]] = dict(plain)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = _function_name(func)
        if self.cpu_bound and name not in MOVES:
            self._compare_devices(name, (args, kwargs))
        result = func(*args, **kwargs)
        if name in ("numpy", "__array__", "cpu", "to") and not _called_by_torch():
            result = self._record_move_to_cpu(name, args, kwargs, result)
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
            operation.flat, operation.units = _flat_share(name, result.detach()), result[0].numel()
        self.tracer.trace.operations.append(operation)

    def record_output(self, output: Any) -> None:
        """Compare the devices of the network's output and the targets, which the loss combines."""
        self._compare_devices("the loss", (output, torch.empty(1)))

    def _compare_devices(self, name: str, values: Any) -> None:
        operands = [value for value in tensors(values) if value.dim() > 0]
        on_cpu = [value for value in operands if id(value) in self.cpu_bound]
        if on_cpu and len(on_cpu) < len(operands):
            origin = self.cpu_bound[id(on_cpu[0])][1]
            self.tracer.trace.strays.append(Stray(self.tracer.layer, name, origin))
            for value in on_cpu:  # report each tensor once
                self.cpu_bound.pop(id(value), None)

    def _record_move_to_cpu(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """Record a move to the CPU, and return the moved tensor as a new object, as a move from a GPU would."""
        source = args[0] if args else None
        if not isinstance(source, Tensor) or source.dim() == 0 or id(source) in self.cpu_bound:
            return result
        if name in ("numpy", "__array__"):  # tensors on a GPU refuse this
            self.tracer.trace.strays.append(Stray(self.tracer.layer, "NumPy", f"Tensor.{name}()"))
        elif name == "cpu" or any(_names_cpu(value) for value in (*args[1:], *kwargs.values())):
            if result is source and source.layout is torch.strided and not source.is_nested:
                result = source.view_as(source)
            if result is not source:
                self.cpu_bound[id(result)] = (result, "Tensor.cpu()" if name == "cpu" else "Tensor.to('cpu')")
        return result

    def _follow_device(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        if name in FACTORIES and isinstance(kwargs.get("device"), (str, type(None))):
            # as_tensor and tensor keep the device of a tensor argument.
            if not (name in ("as_tensor", "tensor") and tensors(args)) and result.dim() > 0 and not _called_by_torch():
                self.cpu_bound[id(result)] = (result, f"torch.{name}")
            return
        if name == "cpu":
            return
        if name in ("to", "type_as"):
            if any(_names_cpu(value) for value in (*args[1:], *kwargs.values())):
                return
            targets = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, (torch.device, Tensor))]
            if targets or name == "type_as":
                self.cpu_bound.pop(id(result), None)
                return
        sources = tensors((args, kwargs))
        if sources and all(id(s) in self.cpu_bound or s.dim() == 0 for s in sources):
            origin = next((self.cpu_bound[id(s)][1] for s in sources if id(s) in self.cpu_bound), None)
            if origin:
                self.cpu_bound[id(result)] = (result, origin)


def _names_cpu(value: object) -> bool:
    """Return True for the string "cpu"; a torch.device may come from another tensor."""
    return isinstance(value, str) and value.partition(":")[0] == "cpu"


def _called_by_torch() -> bool:
    """Return True if torch's own code made the recorded call: it takes care of devices."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(TORCH)


def _function_name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":  # a property such as Tensor.data
        return getattr(getattr(func, "__self__", None), "__name__", "")
    return name


def _flat_share(name: str, output: Tensor) -> float:
    """Return the share of an activation's outputs at which its slope is zero."""
    if name.startswith("relu"):
        flat = output <= 0 if name != "relu6" else (output <= 0) | (output >= 6)
    elif name.startswith("sigmoid"):
        flat = (output < 1e-4) | (output > 1 - 1e-4)
    else:
        flat = output.abs() > 1 - 1e-4
    return flat.float().mean().item()
