"""Settings of the network and its first weights, and the names of the built-in networks. Imports no torch."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from torchmill.components.errors import nearest
from torchmill.components.settings.options import Listed, OneOf, Option, Room
from torchmill.components.settings.section import JsonObject, Named, Names, none_from_text
from torchmill.components.user_code.reference import check_reference, source_file

Gain = Literal["scheme", "linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu"]

TORCHVISION = "torchvision"
"""``torchvision:NAME`` is a network of that library."""

AUTO = "auto"

MODELS = Room(Path(__file__).parents[1] / "models")
SCHEMES = Room(Path(__file__).parent / "schemes")


def model_names() -> list[str]:
    """Return the names of the built-in networks for tasks of labels: files in ``components/models``."""
    return MODELS.names(lambda option: not option.constant("TASKS", ()))


def field_model_names() -> list[str]:
    """Return the names of the built-in networks for tasks over named fields, which their files name in ``TASKS``."""
    return MODELS.names(lambda option: bool(option.constant("TASKS", ())))


def network_schemes() -> list[str]:
    """Return the schemes that can fill a whole network."""
    return SCHEMES.names(lambda option: option.constant("FOR_NETWORK", True))


def scheme_names() -> list[str]:
    """Return the names that `initialize.name` takes: auto, and the schemes that can fill a whole network."""
    return [AUTO, *network_schemes()]


def rule_schemes() -> list[str]:
    """Return the schemes that a rule may name."""
    return SCHEMES.names(lambda option: option.constant("FOR_RULES", True))


class ModelConfig(Named):
    name: str = "simple_cnn"
    """Network: a name that `torchmill models` lists, torchvision:NAME, file.py:Class or package.module:Class."""
    args: JsonObject = Field(default_factory=dict)
    """Arguments of its constructor as JSON. The data fills in num_classes, in_channels, image_size, image_height,
    image_width, vocab_size, padding_index, max_length and in_features if the constructor takes them."""
    weights: Annotated[str | None, BeforeValidator(none_from_text)] = None
    """Pretrained weights: a file (.safetensors, or .pth with a state dict), or for torchvision's networks a name such
    as DEFAULT. Tensors that do not fit, for example those of the last layer, keep their first weights."""
    freeze: Names = ()
    """Parameters to freeze, by pattern: 'features.*,layer1.*'; backbone is all but the last layer."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        place, colon, _ = name.rpartition(":")
        if place == TORCHVISION:
            return name  # only an import of torchvision could check the name
        if colon:
            check_reference(name)
        elif name.endswith(".py"):
            raise ValueError(f"'{name}' names no class. {_classes_in(name)}")
        elif name not in MODELS:
            names = [*MODELS.names(), "torchvision:NAME"]
            raise ValueError(f"unknown network '{name}'. {nearest(name, names)} Your own: file.py:Class")
        return name


class InitializeConfig(Named):
    name: Annotated[str, OneOf(scheme_names)] = AUTO
    """Scheme of the first weights of linear and convolution layers, with zero biases. auto: a built-in network names
    its own, and any other keeps the weights of its constructor, as with none. lsuv scales orthogonal weights by a batch
    of the data."""
    rules: Annotated[JsonObject, Listed(rule_schemes, "Schemes")] = Field(default_factory=dict)
    """Schemes for the matrices of any layers, by pattern of layer names: {"fc.*": "orthogonal"}; the last match
    counts. Convolutions can also use dirac, which passes inputs on, and whitening, which decorrelates patches."""
    gain: Gain = "scheme"
    """Non-linearity to scale the weights for; scheme uses that of the scheme."""
    bias: Annotated[float | None, BeforeValidator(none_from_text)] = 0.0
    """Biases of the layers that the scheme fills; none keeps those of the constructor."""

    @field_validator("rules")
    @classmethod
    def _known_rules(cls, rules: dict[str, Any]) -> dict[str, Any]:
        for pattern, scheme in rules.items():
            if scheme not in (names := rule_schemes()):
                raise ValueError(f"'{pattern}': unknown scheme '{scheme}'. {nearest(str(scheme), names)}")
        return rules

    def options(self) -> Iterator[Option]:
        schemes = [_scheme_of(name) for name in MODELS.names()] if self.name == AUTO else [self.name]
        yield from (SCHEMES[name] for name in dict.fromkeys((*schemes, *self.rules.values())))

    def resolved(self, model: ModelConfig) -> "InitializeConfig":
        """Return these settings for a network, with the name of a scheme in the place of auto.

        A built-in network names its scheme by ``INITIALIZATION`` in its file. Somebody's own network may hold weights
        that its constructor chose with care, so that no scheme is right for it unless it is asked for.

        Example:
            >>> InitializeConfig().resolved(ModelConfig(name="simple_cnn")).name
            'xavier_normal'
            >>> InitializeConfig().resolved(ModelConfig(name="torchvision:resnet18")).name
            'none'
        """
        return self if self.name != AUTO else self.model_copy(update={"name": _scheme_of(model.name)})

    def unused(self) -> list[str]:
        """Return the settings that change nothing, since no layer is filled: for example ``initialize.gain relu``."""
        if self.name != "none" or set(self.rules.values()) - {"none"}:
            return []
        gain = [f"initialize.gain {self.gain}"] if self.gain != "scheme" else []
        return [*gain, f"initialize.bias {self.bias:g}"] if self.bias else gain


def _scheme_of(network: str) -> str:
    """Return the scheme that the file of a built-in network names; none for any other network."""
    return MODELS[network].constant("INITIALIZATION", "none") if network in MODELS else "none"


def _classes_in(place: str) -> str:
    """Suggest references to the classes in a file."""
    tree = ast.parse(source_file(place).read_bytes(), filename=place)
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return f"Write {' or '.join(f'{place}:{name}' for name in names[:4]) or f'{place}:Class'}."
