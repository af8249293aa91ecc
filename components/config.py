"""The one configuration of a run: typed, frozen, checked before anything is done."""

import functools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from torchmill.components.data.config import DataConfig
from torchmill.components.doctor.config import CheckConfig
from torchmill.components.errors import ConfigError, nearest
from torchmill.components.evaluation.config import EvaluateConfig, PromoteConfig
from torchmill.components.export.config import ExportConfig
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.files import check_is_file
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.settings.options import Listed, OneOf
from torchmill.components.settings.section import NOT_IN_KEY, Section, none_from_text
from torchmill.components.training.config import TrainConfig

LARGEST_FILE, MOST_NODES = 1_000_000, 100_000
"""Limits of a configuration file: its bytes, and the values in it with its aliases written out."""


class RunConfig(Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    initialize: InitializeConfig = InitializeConfig()
    check: CheckConfig = CheckConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    promote: PromoteConfig = PromoteConfig()
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$")
    """auto (cuda, mps, xpu, cpu: the one that a trial shows to be the fastest), or one of these; cuda:1 for the second
    card."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Decides the validation split, the first weights, the order of samples and dropout."""
    name: Annotated[str | None, BeforeValidator(none_from_text)] = Field(None, pattern=r"^[\w][\w .-]{0,99}$")
    """Name of the run; none makes one up."""

    @property
    def registered_name(self) -> str:
        """Name of the exported model in the registry."""
        return self.export.register_as or f"{self.data.title}-{self.model.name.rpartition(':')[2]}"

    def flat(self) -> dict[str, str]:
        """Return all fields by dotted name."""
        return dict(_flatten(self.model_dump(mode="json")))

    def params(self) -> dict[str, str]:
        """Return all fields by dotted name as MLflow's params, which name the scheme of the first weights, not auto."""
        return self.flat() | {"initialize.name": self.initialize.resolved(self.model).name}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, dict) and not key.endswith(("args", "factors", "rules")):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", json.dumps(value) if isinstance(value, dict | list) else str(value)))
    return pairs


def fields(section: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, tuple[Any, str, Any]]:
    """All fields by dotted name, with annotation, help text and default."""
    found: dict[str, tuple[Any, str, Any]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= fields(field.annotation, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            annotation, text = field.annotation, " ".join((field.description or "").split())
            match next((item for item in field.metadata if isinstance(item, Listed)), None):
                case OneOf() as choice:
                    annotation = Literal.__getitem__(tuple(choice.names()))
                case Listed() as listed:
                    text = f"{text} {listed}"
            found[prefix + name] = (annotation, text, default)
    return found


@functools.cache
def objects() -> tuple[str, ...]:
    """Return the fields that hold a JSON object, whose entries can be set one by one: ``model.args.width``."""
    return tuple(name for name, (annotation, _, _) in fields().items() if get_origin(annotation) is dict)


def sections() -> dict[str, type[Section]]:
    """The sections of a run's configuration by name."""
    return {
        name: field.annotation
        for name, field in RunConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def deciding(section: Section) -> dict[str, str]:
    """Return the values of a section that decide the result of its step, as text."""
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        if field.json_schema_extra == NOT_IN_KEY:
            del values[name]
    return {
        name: json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
        for name, value in values.items()
    }


def load(file: Path | None = None, overrides: Mapping[str, str] | None = None) -> RunConfig:
    """Make a configuration from a YAML file and, over it, values by dotted name.

    Raises:
        ConfigError: the file can't be read, or a key, a name or a value is wrong.

    Example:
        >>> load(overrides={"model": "simple_cnn", "model.args.width": "48"}).model.args
        {'width': 48}
    """
    tree = read_tree(file) if file else {}
    for dotted, value in (overrides or {}).items():
        _set(tree, dotted, _json_or_text(value) if _object_of(dotted) else value)
    return parse(tree, f"{file}: " if file else "")


def read_tree(file: Path) -> dict[str, Any]:
    """Return a YAML file's values by section, unchecked.

    Raises:
        ConfigError: the file can't be read.
    """
    return _nested(_read_yaml(file))


def parse(tree: Mapping[str, Any], where: str = "") -> RunConfig:
    """Check a tree of plain values; every complaint in one line with the nearest right name."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(where + "; ".join(_explain(item) for item in error.errors())) from None


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Return the number of values in a tree whose aliases are written out; infinite if it contains itself.

    Nine lines of nine aliases each are a billion values ("billion laughs").
    """
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # until its parts are counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in nodes)
    return sizes[id(node)]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML reads 1e-6 as text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        check_is_file(file, ConfigError)
        with file.open("rb") as opened:
            text = opened.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ConfigError(f"{file} is larger than {LARGEST_FILE:,} bytes.", "Give --config a YAML file.")
        loader = _Loader(text.decode("utf-8"))
        node = loader.get_single_node()
        if node and _size(node, {}) > MOST_NODES:
            raise ConfigError(f"{file} repeats itself through aliases into more than {MOST_NODES:,} values.")
        tree = loader.construct_document(node) if node else None
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror}.", "Give --config an existing YAML file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text.", "Give --config a YAML file.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{file}{place} is not YAML: {problem}.") from None
    except RecursionError:
        raise ConfigError(f"{file} is nested too deep.") from None
    except ValueError as error:  # what looks like a date and is none
        raise ConfigError(f"{file} is not YAML: {error}.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds a {type(tree).__name__}, not keys with values.", "Begin like 'data: mnist'.")
    return tree


def _nested(tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a file's keys as sections, whether they are nested or dotted: ``train.lr: 0.1``, ``args.width: 48``."""
    nested: dict[Any, Any] = {key: value for key, value in tree.items() if "." not in str(key)}
    for section in sections():
        if isinstance(inner := nested.get(section), dict):
            nested[section] = {}
            for key, value in sorted(inner.items(), key=lambda item: "." in str(item[0])):
                _set(nested, f"{section}.{key}", value)
    for key, value in tree.items():
        if "." in str(key):
            _set(nested, key, value)
    return nested


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a value in a tree of sections, in place; the section's other values stay."""
    name, _, rest = dotted.partition(".")
    before: Any = tree.get(name)
    section = {"name": before} if isinstance(before, str) else before  # the shorthand `data: mnist`
    if field := _object_of(dotted):
        _, _, field = field.partition(".")
        values = dict(section) if isinstance(section, dict) else {}
        values[field] = _with_entry(values.get(field), rest.removeprefix(f"{field}."), value)
        tree[name] = values
    elif rest:
        inner = dict(section) if isinstance(section, dict) else {}
        _set(inner, rest, value)
        tree[name] = inner
    elif isinstance(section, dict) and name in sections():
        tree[name] = {**section, "name": value}
    else:
        tree[name] = value


def _object_of(dotted: str) -> str | None:
    """Return the field, a JSON object, that a dotted name is an entry of."""
    return next((field for field in objects() if dotted.startswith(f"{field}.")), None)


def _with_entry(entries: Any, key: str, value: Any) -> Any:
    """Return a JSON object, or its text, with one more entry."""
    entries = _json_or_text(entries) if isinstance(entries, str) else entries or {}
    return {**entries, key: value} if isinstance(entries, dict) else entries  # validation refuses it


def _json_or_text(text: str) -> Any:
    """Parse a text as JSON; return the text itself if it isn't JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # validation says what is wrong with the text
        return text


def _explain(item: Any) -> str:
    """One complaint of pydantic's in our words."""
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        elsewhere = [name for name in fields() if name.rpartition(".")[2] == location.rpartition(".")[2]]
        meant = f"Did you mean {' or '.join(elsewhere)}?" if elsewhere else nearest(location, [*fields(), *sections()])
        return f"unknown key '{location}'. {meant}"
    if item["type"] == "literal_error":
        options = get_args(fields()[location][0])
        return f"{location}: unknown '{item['input']}'. {nearest(str(item['input']), map(str, options))}"
    if item["type"] == "string_pattern_mismatch" and location == "device":
        return (
            f"device: unknown '{item['input']}'. {nearest(str(item['input']), ['auto', 'cpu', 'cuda', 'mps', 'xpu'])}"
        )
    if item["type"] == "string_pattern_mismatch":
        return f"{location}: '{item['input']}' does not fit: {fields()[location][1].rstrip('.')}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return message if message.startswith(f"{location}.") else f"{location}: {message}"
    return f"{location}: {message[0].lower()}{message[1:]} (got {item['input']!r})"
