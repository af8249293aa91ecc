"""What can be named, with its arguments: read from the source, nothing imported."""

from collections.abc import Iterable
from dataclasses import dataclass

from torchmill.components.data.config import DATASETS
from torchmill.components.initialization.config import MODELS
from torchmill.components.options import shown_arguments

FROM_DATA = {
    "images": ("in_channels", "image_size", "image_height", "image_width"),
    "tokens": ("vocab_size", "padding_index", "max_length"),
    "numbers": ("in_features",),
}
"""Arguments that the data knows, by the kind of inputs that a network which asks for them takes."""


@dataclass(frozen=True)
class Entry:
    """A network or a data set that can be named."""

    reference: str
    text: str
    """The first line of what it says of itself."""
    takes: str
    """Kinds of inputs of a network."""
    arguments: str
    """With their defaults."""


def network(name: str) -> Entry:
    """Describe the network in ``components/models/NAME.py``."""
    source = MODELS[name].source
    wanted = f"{name.replace('_', '')}.__init__"
    arguments = next(arguments for place, arguments in source.functions.items() if place.lower() == wanted)
    from_data = {"num_classes", *(name for names in FROM_DATA.values() for name in names)}
    own = [argument for name, argument in arguments.items() if name not in from_data]
    return Entry(name, source.summary, " or ".join(kinds(arguments)), shown_arguments(own) or "no arguments")


def kinds(arguments: Iterable[str]) -> list[str]:
    """Kinds of inputs that a network with these arguments takes."""
    return [kind for kind, marks in FROM_DATA.items() if set(marks) & set(arguments)]


def data_set(name: str) -> Entry:
    """Describe the data set in ``components/data/datasets/NAME.py``."""
    source = DATASETS[name].source
    arguments = source.functions["load"]
    # validation_fraction is a setting of its own
    own = [arguments[name] for name in arguments if name not in ("path", "downloads", "validation_fraction")]
    return Entry(f"{name}:PATH" if "path" in arguments else name, source.summary, "", shown_arguments(own))
