"""Networks whose constructor calls torch.compile, without it: Torchmill compiles for training alone."""

import sys
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

PREFIX = "_orig_mod."
"""Part of the names of weights in a compiled module."""


def uncompiled(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return the network without the compilations of its constructor, and the names of the compiled parts.

    A compiled function holds the layers that it was made for. In a copy of the network, it would run these with their
    old weights. Besides, an export, float64 and the doctor's hooks need the plain network.

    Example:
        >>> network, names = uncompiled(torch.compile(nn.Linear(2, 2)))
        >>> names
        ['the network']
    """
    names = []
    while _is_compiled(network):
        network = cast(Any, network)._orig_mod
        names.append("the network")
    for place, module in list(_modules(network)):
        for name, child in list(module._modules.items()):
            while child is not None and _is_compiled(child):
                child = module._modules[name] = cast(Any, child)._orig_mod
                names.append(f"{place}{name}")
        if module._compiled_call_impl is not None:
            module._compiled_call_impl = None
            names.append(place.removesuffix(".") or "the network")
        methods = {name: value for kind in reversed(type(module).__mro__[:-1]) for name, value in vars(kind).items()}
        for name, value in {**methods, **vars(module)}.items():
            original = getattr(value, "_torchdynamo_orig_callable", None)
            if original is None or isinstance(value, nn.Module):
                continue
            names.append(f"{place}{name}")
            if name not in vars(module):  # a decorated method of the class, which stays as it is
                original = MethodType(original, module)
            vars(module)[name] = original
    return network, names


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a network with compiled parts under the names that they have without compilation."""
    return {name.replace(PREFIX, ""): weight for name, weight in state.items()}


def _modules(network: nn.Module, place: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules with the beginnings of their children's names; compiled children are replaced meanwhile."""
    yield place, network
    for name, child in list(network._modules.items()):
        while child is not None and _is_compiled(child):
            child = cast(Any, child)._orig_mod
        if child is not None:
            yield from _modules(child, f"{place}{name}.")


def _is_compiled(module: nn.Module) -> bool:
    compiler: Any = sys.modules.get("torch._dynamo.eval_frame")  # imported, if anything is compiled
    return compiler is not None and isinstance(module, compiler.OptimizedModule)
