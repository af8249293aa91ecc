"""Cache of torch's ONNX exports: many tests export the same network, and each export takes a second or more."""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.memory_format)


@dataclass(frozen=True)
class Program:
    """What is used of torch's ONNXProgram."""

    model: ir.Model


class ExportCache:
    """Exports by the content of a network: classes, settings and weights of all its modules.

    A network with anything else among its attributes is exported each time. Each caller gets its own model.
    """

    def __init__(self) -> None:
        self._export = torch.onnx.export
        self._has_tables = False
        self._models: dict[tuple[Any, ...], bytes] = {}

    def export(self, network: nn.Module, arguments: tuple[torch.Tensor, ...], **settings: Any) -> Program:
        self._keep_tables()
        content = _content(network)
        if content is None:
            program = self._export(network, arguments, **settings)
            assert program is not None
            return Program(program.model)
        inputs = [(tuple(tensor.shape), tensor.dtype) for tensor in arguments]
        key = (*content, repr(inputs), repr(settings))
        if key not in self._models:
            program = self._export(network, arguments, **settings)
            assert program is not None
            self._models[key] = ir.to_proto(program.model).SerializeToString()
        return Program(ir.from_proto(onnx.load_from_string(self._models[key])))

    def _keep_tables(self) -> None:
        """Keep torch's tables of operators, which it makes anew several times in each export: half of its time."""
        if self._has_tables:
            return
        from torch._export import utils
        from torch.onnx._internal.exporter import _decomp
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        self._has_tables = True
        registry: Any = ONNXRegistry
        registry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
        utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)
        make = functools.cache(_decomp.create_onnx_friendly_decomposition_table)
        _decomp.create_onnx_friendly_decomposition_table = lambda operators: dict(make(frozenset(operators)))

    @contextmanager
    def off(self) -> Iterator[None]:
        """Export anew."""
        torch.onnx.export = self._export
        try:
            yield
        finally:
            torch.onnx.export = self.export


def _content(network: nn.Module) -> tuple[Any, ...] | None:
    """Return what decides a network's export; None if that can't be told."""
    modules: list[tuple[Any, ...]] = []
    for name, module in network.named_modules():
        settings = {}
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
                continue
            if not _is_plain(value):
                return None
            settings[key] = repr(value)
        modules.append((name, type(module), *sorted(settings.items())))
    digest = hashlib.sha256()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return (*modules, digest.hexdigest())


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list | set):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return isinstance(value, PLAIN)
