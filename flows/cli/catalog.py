"""Networks and data sets with their arguments, read from their source without importing it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torchmill.components import fields
from torchmill.components.config import RunConfig
from torchmill.components.data.config import DATASETS
from torchmill.components.errors import ConfigError, unknown_argument
from torchmill.components.initialization.config import MODELS
from torchmill.components.settings.options import Argument, shown_arguments


@dataclass(frozen=True)
class Entry:
    """A network or a data set."""

    reference: str
    text: str
    """First line of its docstring."""
    takes: str
    """Kinds of a network's inputs."""
    arguments: str
    """Arguments with their defaults."""


def network(name: str) -> Entry:
    """Describe the network in ``components/models/NAME.py``."""
    arguments = _network_arguments(name)
    from_data = {"num_classes", *(name for kind in fields.names() for name in fields.arguments_of(kind))}
    own = [argument for name, argument in arguments.items() if name not in from_data]
    takes = " or ".join(kinds(arguments))
    return Entry(name, MODELS[name].source.summary, takes, shown_arguments(own) or "no arguments")


def _network_arguments(name: str) -> Mapping[str, Argument]:
    constructor = f"{name.replace('_', '')}.__init__"
    functions = MODELS[name].source.functions
    return next(arguments for function, arguments in functions.items() if function.lower() == constructor)


def kinds(arguments: Iterable[str]) -> list[str]:
    """Return the kinds of inputs of a network with these arguments."""
    return [kind for kind in fields.names() if set(fields.arguments_of(kind)) & set(arguments)]


def data_set(name: str) -> Entry:
    """Describe the data set in ``components/data/datasets/NAME.py``."""
    source = DATASETS[name].source
    arguments = source.functions["load"]
    # validation_fraction and split have settings: --data.validation_fraction
    set_elsewhere = ("path", "downloads", "validation_fraction", "split")
    own = [arguments[name] for name in arguments if name not in set_elsewhere]
    return Entry(f"{name}:PATH" if "path" in arguments else name, source.summary, "", shown_arguments(own))


def check_arguments(config: RunConfig) -> None:
    """Check the names of the arguments of Torchmill's own networks and data sets.

    A user's own are checked when their file is imported.

    Raises:
        ConfigError: the network or the data set takes no such argument.
    """
    kind = config.data.name.partition(":")[0]
    if kind in DATASETS:
        _check(kind, config.data.args, set(DATASETS[kind].source.functions["load"]) - {"downloads", "path"})
    if config.model.name in MODELS:
        _check(config.model.name, config.model.args, _network_arguments(config.model.name))


def _check(owner: str, names: Iterable[str], arguments: Iterable[str]) -> None:
    for name in names:
        if name not in arguments:
            raise ConfigError(*unknown_argument(owner, name, arguments))
