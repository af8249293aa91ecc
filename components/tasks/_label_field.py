"""The label of a data set with named fields."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchmill.components.batches.batch import Batch


def label_field(fields: Mapping[str, FieldRef], fits: Callable[[FieldRef], str], title: str, remedy: str) -> FieldRef:
    """Return the only target.

    Raises:
        UserError: there is none, there are several, or it does not fit.
    """
    targets = [field for field in fields.values() if field.is_target]
    if len(targets) == 1 and fits(targets[0]):
        return targets[0]
    listed = ", ".join(field.words() for field in fields.values())
    raise UserError(f"{title} needs inputs and one target that fits; the fields are {listed}.", remedy)


def outputs_for(network: "nn.Module", batch: "Batch", width: int, words: str) -> "Tensor":
    """Return a network's outputs, (N, width).

    Raises:
        UserError: they have another shape.
    """
    from torchmill.components.batches.outputs import main_output

    outputs = main_output(network(batch), "logits", "values")
    if width == 1 and outputs.dim() == 1:
        return outputs[:, None]
    if outputs.dim() != 2 or outputs.shape[1] != width:
        raise UserError(
            f"The network gives {tuple(outputs.shape)}; expected {words}, (N, {width}).",
            "Take num_classes in its constructor.",
        )
    return outputs
