"""Walks over autograd graphs."""

from typing import Any

# Autograd nodes that move values but do not change them.
TRANSPARENT = (
    "View",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Permute",
    "TBackward",
    "Alias",
    "Clone",
    "Expand",
    "UnsafeView",
    "Slice",
    "Contiguous",
    "Select",
)


def all_nodes(node: Any) -> list[Any]:
    """Return a node of the autograd graph and all nodes that it depends on."""
    seen, pending = {node}, [node]
    while pending:
        for source, _ in pending.pop().next_functions:
            if source is not None and source not in seen:
                seen.add(source)
                pending.append(source)
    return list(seen)


def is_transparent(node: Any) -> bool:
    """Return True for views, transposes and other nodes that change no value."""
    return any(name in type(node).__name__ for name in TRANSPARENT)


def through_views(node: Any) -> Any:
    """Return the first node behind views, transposes and the like."""
    while node is not None and is_transparent(node):
        node = next((source for source, _ in node.next_functions if source is not None), None)
    return node
