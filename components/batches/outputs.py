"""The outputs of networks: tensors, tuples, mappings and the ModelOutputs of other libraries."""

from collections.abc import Mapping

from torch import Tensor

from torchmill.components.errors import UserError


def main_output(output: object, *names: str) -> Tensor:
    """Return the main tensor of a network's output.

    Args:
        names: names that it may have in a mapping or as an attribute, the best first.

    Raises:
        UserError: there is none.

    Example:
        >>> main_output((logits, hidden), "logits")  # doctest: +SKIP
    """
    if isinstance(output, Tensor):
        return output
    for name in names:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    first = next((value for value in values if isinstance(value, Tensor)), None)
    if first is None:
        raise UserError(f"The network returns a {type(output).__name__} without a tensor.", f"Return {names[0]}.")
    return first


def other_outputs(output: object) -> tuple[Tensor, ...]:
    """Return the tensors beside the main one of a tuple, or of a mapping in its order."""
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return tuple(value for value in values if isinstance(value, Tensor))[1:]
