"""The one configuration of a run: typed, frozen, checked before anything is done."""

import ast
import contextlib
import importlib.util
import json
import re
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from torchmill.components.errors import ConfigError, nearest

Scheme = Literal[
    "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform", "orthogonal", "trunc_normal", "lsuv", "none"
]
RULED = (*(name for name in get_args(Scheme) if name != "lsuv"), "whitening", "dirac")
"""Schemes that a rule may name."""
Gain = Literal["scheme", "linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu"]
Optimizer = Literal["adam", "adamw", "sgd", "rmsprop", "adadelta", "muon"]
Schedule = Literal["one_cycle", "cosine", "linear", "step", "plateau", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Loss = Literal["auto", "cross_entropy", "focal", "bce", "mse", "huber"]
Level = Literal["off", "quick", "full"]

AUGMENTATIONS = {
    "shift": (2, 0, 1000, "pixels, each way"),
    "flip": (0.5, 0, 1, "probability"),
    "flip_vertical": (0.5, 0, 1, "probability"),
    "flip_alternate": (1, 1, 1, "always 1: every image, each other epoch"),
    "crop": (0.5, 0.01, 1, "smallest share of the area that is kept, grown to the full size"),
    "rotate": (15, 0, 180, "degrees, each way"),
    "affine": (0.1, 0, 0.9, "share of the size that it moves and grows by; turns and shears by 90 degrees times it"),
    "color": (0.3, 0, 1, "change of brightness and contrast, and of saturation in colour images"),
    "blur": (1.0, 0.1, 100, "largest deviation, pixels"),
    "erase": (0.25, 0, 1, "probability"),
    "autocontrast": (0.5, 0, 1, "probability"),
    "trivial": (31, 2, 100, "bins of magnitude"),
    "rand": (9, 0, 30, "magnitude of 0 to 30"),
}
"""Names with their usual strength, its lowest and highest value, and what it means."""

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adam": ("betas", "eps", "amsgrad"),
    "adamw": ("betas", "eps", "amsgrad"),
    "sgd": ("nesterov", "dampening"),
    "rmsprop": ("alpha", "eps", "centered"),
    "adadelta": ("rho", "eps"),
    "muon": ("momentum", "ns_steps", "betas", "eps"),
}
"""Names with what else they take, by the names that torch has for it; of muon, betas and eps are its AdamW's."""

SCHEDULES: dict[str, dict[str, float]] = {
    "one_cycle": {"rise": 0.3, "start": 0.04, "end": 4e-6},
    "cosine": {"end": 0.0},
    "linear": {"end": 0.0},
    "step": {"factor": 0.1, "parts": 3},
    "plateau": {"factor": 0.1, "patience": 2},
    "constant": {},
}
"""Names with their usual numbers: shares of all steps (rise), of the learning rate (start, end, factor), a number of
equal parts, and of epochs (patience)."""

USUAL_BATCH_SIZE = 64

TORCHVISION = "torchvision"
"""``torchvision:NAME`` is a network of that library."""

UNDECIDING: dict[str, JsonValue] = {"decides": False}
"""Marks a setting that does not decide what comes out of its section's step."""


def modules_in(folder: Path) -> list[str]:
    """Names of the modules in a folder, without importing them."""
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def dataset_names() -> list[str]:
    """Data sets that can be named: the files in ``components/data/datasets``."""
    return modules_in(Path(__file__).parent / "data" / "datasets")


def model_names() -> list[str]:
    """Networks that can be named: the files in ``components/models``."""
    return modules_in(Path(__file__).parent / "models")


def dataset_place(name: str) -> tuple[str, str]:
    """Split the name of a data set into its kind and what comes after the colon.

    ``mnist`` is ("mnist", ""), ``image_folder:a/b`` is ("image_folder", "a/b"), and ``own.py:function`` is
    ("own.py", "function").
    """
    kind, colon, path = name.partition(":")
    if not colon or kind in dataset_names():
        return kind, path
    kind, _, function = name.rpartition(":")
    return kind, function


def load_parameters(file: Path) -> dict[str, bool]:
    """What the ``load`` of a data set takes, and whether it may be left out; without importing it."""
    tree = ast.parse(file.read_bytes())
    load = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "load"), None)
    if load is None:
        return {}
    names = [argument.arg for argument in load.args.args]
    optional = dict(zip(reversed(names), reversed(load.args.defaults), strict=False))
    keywords = zip(load.args.kwonlyargs, load.args.kw_defaults, strict=True)
    return {name: name in optional for name in names} | {word.arg: default is not None for word, default in keywords}


def _json_object(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        examples = {"rules": '{"fc.*": "orthogonal"}', "lr_factors": '{"features.*": 0.1}'}
        example = examples.get(info.field_name or "", '{"width": 48}')
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1}); write it like '{example}'") from None


def _names(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.strip("[]()").split(",") if part.strip() not in ("", "none")]


def _none(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in ("none", "null") else value


def _auto(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in ("auto", "none", "null") else value


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _switch(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # YAML reads on and off as these


JsonObject = Annotated[dict[str, Any], BeforeValidator(_json_object)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class Section(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Named(Section):
    """A section whose plain name stands for the whole: ``--data mnist`` is ``--data.name mnist``."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class DataConfig(Named):
    name: str = "digits"
    """Data set: a name that `torchmill datasets` lists, with its path after a colon where it takes one, or your own
    file.py:function."""
    args: JsonObject = Field(default_factory=dict)
    """Arguments for the data set as JSON; `torchmill datasets` shows them."""
    validation_fraction: float = Field(0.1, gt=0, lt=0.9)
    """Share of the training data kept for validation, the same in each class; for data that has no validation split
    of its own."""
    leakage_limit: float = Field(0.01, ge=0, le=1, json_schema_extra=UNDECIDING)
    """Share of test samples that may be found among the training samples, equal or nearly so. More stops the run."""
    allow_leakage: bool = Field(False, json_schema_extra=UNDECIDING)
    """Train even if there is more leakage than that."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        kind, path = dataset_place(name)
        known = dataset_names()
        if kind in known:
            takes_path = "path" in load_parameters(Path(__file__).parent / "data" / "datasets" / f"{kind}.py")
            if takes_path and not path:
                raise ValueError(f"'{kind}' needs a path: {kind}:PATH")
            if path and not takes_path:
                raise ValueError(f"'{kind}' takes no path; write {kind} alone")
        elif path:
            near = nearest(kind, known)
            if near.startswith("Did") and not kind.endswith(".py") and "/" not in kind:
                raise ValueError(f"unknown data set '{kind}'. {near}")
            check_reference(name, "function")
        else:
            raise ValueError(f"unknown data set '{name}'. {nearest(name, known)} Your own: file.py:function")
        return name

    @property
    def title(self) -> str:
        """The name without what is only its place."""
        kind, path = dataset_place(self.name)
        if not path:
            return kind
        last = path if kind not in dataset_names() else f"{kind}-{Path(path).expanduser().absolute().stem}"
        return re.sub(r"[^\w.-]+", "-", last)


class ModelConfig(Named):
    name: str = "simple_cnn"
    """Network: a name that `torchmill models` lists, torchvision:NAME, file.py:Class or package.module:Class."""
    args: JsonObject = Field(default_factory=dict)
    """Arguments for its constructor as JSON. num_classes, in_channels, image_size, image_height, image_width,
    vocab_size, padding_index, max_length and in_features come from the data where the constructor asks for them."""
    weights: Annotated[str | None, BeforeValidator(_none)] = None
    """Pretrained weights: a file (.safetensors, or .pth with a state dict), or for torchvision's networks a name as
    DEFAULT. What does not fit, as the last layer, begins anew."""
    freeze: Names = ()
    """Parameters that stay as they are, by pattern: 'features.*,layer1.*'; backbone is all but the last layer."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        place, colon, _ = name.rpartition(":")
        if place == TORCHVISION:
            return name  # which of them there are, only importing it tells
        if colon:
            check_reference(name)
        elif name.endswith(".py"):
            raise ValueError(f"'{name}' names no class. {_classes_in(name)}")
        elif name not in model_names():
            known = [*model_names(), "torchvision:NAME"]
            raise ValueError(f"unknown network '{name}'. {nearest(name, known)} Your own: file.py:Class")
        return name


class InitializeConfig(Named):
    name: Scheme = "xavier_normal"
    """How the weights begin: a scheme over linear and convolution layers, with zero biases; lsuv scales orthogonal
    ones by what a batch of the data makes of them; none leaves all as the class made them."""
    rules: JsonObject = Field(default_factory=dict)
    """Schemes of their own by pattern of layer names, over any layer's matrices: {"fc.*": "orthogonal"}; the last
    one that fits counts. Of convolutions also dirac, which hand their inputs on, and whitening, which do away with what
    neighbouring pixels have in common."""
    gain: Gain = "scheme"
    """The non-linearity that weights are scaled for; scheme: the one that the scheme was made for."""
    bias: Annotated[float | None, BeforeValidator(_none)] = 0.0
    """Biases of the layers that are filled; none leaves them as the class made them."""

    @field_validator("rules")
    @classmethod
    def _known_rules(cls, rules: dict[str, Any]) -> dict[str, Any]:
        for pattern, scheme in rules.items():
            if scheme not in RULED:
                raise ValueError(f"'{pattern}': unknown scheme '{scheme}'. {nearest(str(scheme), RULED)}")
        return rules


SHARES_NOT = {"optimizer": ("muon",), "precision": ("fp16",), "compile": ("auto", "on"), "channels_last": ("on",)}
"""Settings that need whole weights."""


class TrainConfig(Section):
    epochs: int = Field(5, ge=1, le=100_000)
    """Passes over the training data."""
    batch_size: Annotated[int | None, BeforeValidator(_auto)] = Field(USUAL_BATCH_SIZE, ge=1, le=1_000_000)
    """Samples per optimizer step; auto tries which number is fastest and fits the device's memory."""
    loss: str = "auto"
    """Loss: auto (by task: cross_entropy, bce, mse), cross_entropy, focal, bce, mse, huber, or your own
    file.py:Class."""
    loss_args: JsonObject = Field(default_factory=dict)
    """Arguments of the loss as JSON: label_smoothing, weight (a number per class, or "balanced"), gamma, delta."""
    auxiliary_weight: float = Field(0.3, ge=0, le=10)
    """Weight of each auxiliary output, which a network may give beside its logits while it trains."""
    optimizer: Optimizer = "adam"
    """Optimizer; muon is for matrices and convolutions, and AdamW for the rest."""
    optimizer_args: JsonObject = Field(default_factory=dict)
    """Further arguments of the optimizer as JSON, by torch's names: {"betas": [0.9, 0.95], "eps": 1e-6}."""
    lr: Annotated[float | None, BeforeValidator(_auto)] = Field(1e-3, gt=0, le=1e3)
    """Learning rate; the peak of it under a schedule. Usual is 0.1 for sgd, 1 for adadelta; auto tries which."""
    lr_factors: JsonObject = Field(default_factory=dict)
    """Factors of the learning rate by pattern of parameter names: {"features.*": 0.1}."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Layer-wise learning rate: each layer's is so much of the next one's."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd (Nesterov) and rmsprop; the others have their own."""
    weight_decay: float = Field(0.0, ge=0, le=10)
    """Weight decay, as the optimizer defines it; not of biases, norms and embeddings."""
    schedule: Schedule = "one_cycle"
    """Course of the learning rate over all steps; plateau goes by the validation loss."""
    schedule_args: JsonObject = Field(default_factory=dict)
    """Numbers of the schedule as JSON: one_cycle rise, start, end; cosine and linear end; step factor, parts; plateau
    factor, patience."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from nearly nothing; one_cycle has a rise of its own."""
    clip: str = Field("none", pattern=r"^(none|(norm|value|agc):\d*\.?\d+(e-?\d+)?)$")
    """Limit of gradients: norm:1, value:0.5, or adaptive to each unit's weights, agc:0.01."""
    patience: Annotated[int | None, BeforeValidator(_none)] = Field(None, ge=1)
    """Stop after so many epochs without a better validation loss; none trains to the end."""
    ema: Annotated[float | None, BeforeValidator(_none)] = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, as 0.999: it is validated and kept instead of them."""
    augment: Names = ()
    """Random changes to training images, each with its strength after a colon where it isn't the usual one, as
    'flip,shift:3,erase:0.2'; none, shift, flip, flip_vertical, flip_alternate, crop, rotate, affine, color, blur,
    erase, autocontrast, trivial, rand."""
    mixup: float = Field(0.0, ge=0, le=10)
    """Mix pairs of training samples with their labels: alpha of the Beta distribution that weighs them."""
    cutmix: float = Field(0.0, ge=0, le=10)
    """Put a rectangle of one training image into another: alpha; with mixup, each batch gets one of both."""
    processes: Annotated[str, BeforeValidator(_text)] = Field("1", pattern=r"^(auto|[1-9]\d{0,2})$")
    """Processes that train together, each on its share of every batch; auto is one for each graphics card."""
    machines: int = Field(1, ge=1, le=1000)
    """Machines that train together, each with so many processes; the others join by `torchmill join FOLDER`."""
    rendezvous: str = Field("", pattern=r"^([\w.-]+:\d{1,5})?$")
    """HOST:PORT of the first machine, where they meet."""
    shard: Annotated[Literal["off", "on"], BeforeValidator(_switch)] = "off"
    """Split the network, its gradients and what the optimizer keeps among the processes (FSDP), where one device does
    not take all of it. It takes longer than to have each hold everything."""
    precision: Precision = "auto"
    """What is computed in: auto is bf16 on graphics cards that have it, else fp32; weights stay fp32."""
    channels_last: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = "auto"
    """Memory format of images; auto: on for convolutional networks that bear it."""
    compile: Annotated[Literal["off", "auto", "on"], BeforeValidator(_switch)] = "off"
    """Have torch compile the network, on CUDA into graphs where inputs are of one size; auto: if a trial says that the
    whole training is over sooner so. A clock then decides, and the same command may give other last bits."""
    profile: bool = False
    """Have a few steps recorded by torch's profiler: a trace and a table of where the time goes, in the run."""
    checkpoint_seconds: float = Field(30.0, ge=0, json_schema_extra=UNDECIDING)
    """Seconds between checkpoints within an epoch, besides those at its end; 0 writes one every step. Where writing
    would take more than 2 % of the time, there are fewer."""

    @field_validator("augment")
    @classmethod
    def _known_augment(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for item in names:
            name, colon, strength = item.partition(":")
            if name not in AUGMENTATIONS:
                raise ValueError(f"unknown '{name}'. {nearest(name, AUGMENTATIONS)}")
            usual, low, high, meaning = AUGMENTATIONS[name]
            try:
                value = float(strength) if colon else usual
            except ValueError:
                value = float("nan")
            if not low <= value <= high:
                raise ValueError(
                    f"'{item}': the strength of {name} is a number from {low:g} to {high:g} ({meaning}), "
                    f"as in {name}:{usual:g}"
                )
        return names

    @model_validator(mode="after")
    def _fitting_arguments(self) -> "TrainConfig":
        for name in self.optimizer_args:
            if name not in OPTIMIZERS[self.optimizer]:
                raise ValueError(
                    f"train.optimizer_args: {self.optimizer} takes no '{name}'. "
                    + nearest(name, OPTIMIZERS[self.optimizer])
                )
        usual = SCHEDULES[self.schedule]
        for name, value in self.schedule_args.items():
            if name not in usual:
                takes = nearest(name, usual) or "It takes none."
                raise ValueError(f"train.schedule_args: {self.schedule} takes no '{name}'. {takes}")
            whole = name in ("parts", "patience")
            low, high = (0 if name == "patience" else 1, 100_000) if whole else (1e-12 if usual[name] else 0.0, 1.0)
            fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not fits or not low <= value <= high or (name == "rise" and value == 1):
                raise ValueError(
                    f"train.schedule_args: {name} is {value!r}, not a {'whole ' * whole}number from {low:g} to {high:g}"
                )
        if self.machines > 1 and not self.rendezvous:
            raise ValueError("train.rendezvous: where do the machines meet? Give HOST:PORT of the first one")
        if self.shard == "on":
            if self.machines == 1 and self.processes == "1":
                raise ValueError("train.shard: one process has nobody to share with; add --train.processes")
            for name, values in SHARES_NOT.items():
                if (value := getattr(self, name)) in values:
                    raise ValueError(f"train.shard: a network that is split does not bear {name} {value}")
        if self.warmup and self.schedule == "one_cycle":
            raise ValueError(
                "train.warmup: one_cycle has a rise of its own; set it by train.schedule_args '{\"rise\": 0.1}'"
            )
        return self

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if ":" in loss:
            check_reference(loss)
        elif loss not in get_args(Loss):
            raise ValueError(f"unknown '{loss}'. {nearest(loss, get_args(Loss))} Your own: file.py:Class")
        return loss


class CheckConfig(Section):
    level: Annotated[Level, BeforeValidator(_switch)] = "quick"
    """How thoroughly the network is examined before it is trained: off, quick (seconds), full (overfits a batch,
    exports, checks gradients)."""


class EvaluateConfig(Section):
    batch_size: int = Field(256, ge=1, le=1_000_000)
    """Samples per forward pass; decides speed, not results."""


class ExportConfig(Section):
    tolerance: float = Field(1e-5, gt=0, le=1)
    """Largest difference of ONNX logits from float64 torch, relative to the largest logit (at least 1)."""
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field((1, 2, 7, 256), min_length=1)
    """Batch sizes at which the whole test split is compared."""
    int8: Annotated[Literal["off", "auto", "on"], BeforeValidator(_switch)] = "off"
    """Also write model.int8.onnx, calibrated on training data: auto keeps it if it is faster and within the budget,
    by a measurement; on fails otherwise."""
    fp16: Annotated[Literal["off", "auto", "on"], BeforeValidator(_switch)] = "off"
    """Also write model.fp16.onnx, for GPUs; it is measured where onnxruntime has one."""
    budget: float = Field(0.005, ge=0, le=1)
    """Accuracy that a smaller model may lose at most: upper end of the paired loss's 95 % interval."""
    register_as: Annotated[str | None, BeforeValidator(_none)] = Field(
        None, pattern=r"^[A-Za-z0-9][\w.-]{0,99}$", json_schema_extra=UNDECIDING
    )
    """Name in the model registry; none makes it from data and network."""

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return [part.strip() for part in value.strip("[]()").split(",")] if isinstance(value, str) else value


class PromoteConfig(Section):
    mode: Annotated[Literal["auto", "off"], BeforeValidator(_switch)] = "auto"
    """Whether a registered model is compared with the champion and takes its place where it is as good: auto or off."""
    margin: float = Field(0.005, gt=0, lt=1)
    """So much worse than the champion, by the test's measure, it must surely not be: 0.005 is half a percentage point
    of accuracy."""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """How sure that is to be: the level of a one-sided interval."""


class RunConfig(Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
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
    name: Annotated[str | None, BeforeValidator(_none)] = Field(None, pattern=r"^[\w][\w .-]{0,99}$")
    """Name of the run; none makes one up."""

    @property
    def registered_name(self) -> str:
        """Name of the exported model in the registry."""
        return self.export.register_as or f"{self.data.title}-{self.model.name.rpartition(':')[2]}"

    def flat(self) -> dict[str, str]:
        """All fields by dotted name, as MLflow's params are."""
        return dict(_flatten(self.model_dump(mode="json")))


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
            found[prefix + name] = (field.annotation, " ".join((field.description or "").split()), default)
    return found


def sections() -> dict[str, type[Section]]:
    """The sections of a run's configuration by name."""
    return {
        name: field.annotation
        for name, field in RunConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def deciding(section: Section) -> dict[str, str]:
    """The values of a section that decide what comes out of its step, as text."""
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        if field.json_schema_extra == UNDECIDING:
            del values[name]
    return {
        name: json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
        for name, value in values.items()
    }


def load(file: Path | None = None, overrides: Mapping[str, str] | None = None) -> RunConfig:
    """Make a configuration from a YAML file and, over it, values by dotted name.

    Raises:
        ConfigError: the file can't be read, or a key, a name or a value is wrong.
    """
    tree = _read_yaml(file) if file else {}
    for dotted, value in (overrides or {}).items():
        _set(tree, dotted, value)
    return parse(tree, f"{file}: " if file else "")


def parse(tree: Mapping[str, Any], where: str = "") -> RunConfig:
    """Check a tree of plain values; every complaint in one line with the nearest right name."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(where + "; ".join(_explain(item) for item in error.errors())) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror}.", "Give --config an existing YAML file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text.", "Give --config a YAML file.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{file}{place} is not YAML: {problem}.") from None
    except ValueError as error:  # what looks like a date and is none
        raise ConfigError(f"{file} is not YAML: {error}.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} holds a {type(tree).__name__}, not keys with values.", "Begin like 'data: mnist'.")
    return tree


def _set(tree: dict[str, Any], dotted: str, value: str) -> None:
    """Put a value into a tree of sections, in place; what the section holds besides stays."""
    first, _, rest = dotted.partition(".")
    held: Any = tree.get(first)
    if isinstance(held, str):  # the shorthand `data: mnist`
        held = {"name": held}
    if rest:
        inner = dict(held) if isinstance(held, dict) else {}
        _set(inner, rest, value)
        tree[first] = inner
    elif isinstance(held, dict) and first in sections():
        tree[first] = {**held, "name": value}
    else:
        tree[first] = value


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


def _classes_in(place: str) -> str:
    """What may follow a file's name after a colon."""
    tree = ast.parse(source_file(place).read_bytes(), filename=place)
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return f"Write {' or '.join(f'{place}:{name}' for name in names[:4]) or f'{place}:Class'}."


def check_reference(reference: str, what: str = "class") -> None:
    """Check what can be checked of ``file.py:Class`` or ``package.module:Class`` without running it.

    Raises:
        ValueError: no such file or module, not Python, or nothing of that name in it.
    """
    place, _, name = reference.rpartition(":")
    file = source_file(place)
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise ValueError(f"{file} line {error.lineno} is not Python: {error.msg}") from None
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    if not name.isidentifier():
        raise ValueError(f"'{name}' after the colon of '{reference}' is not the name of a {what}")
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    # A name can also come by import, assignment or `from x import *`: then only running the file can tell.
    elsewhere = any(not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Expr) for node in tree.body)
    mentioned = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    mentioned |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if name not in defined and not (elsewhere and ({name, "*"} & mentioned)):
        raise ValueError(f"{file} has no {what} '{name}'. {nearest(name, defined)}".strip())


def source_file(place: str) -> Path:
    """The file behind the part of a reference before its colon.

    Raises:
        ValueError: it isn't there.
    """
    if place.endswith(".py") or "/" in place:
        file = Path(place).expanduser()
        if not file.is_file():
            beside = [str(other) for other in file.parent.glob("*.py")] if file.parent.is_dir() else []
            raise ValueError(f"no file {file}. {nearest(str(file), beside)}".strip())
        return file.absolute()
    reason = ""
    for folder in (Path.cwd(), Path.cwd() / "src"):
        if not folder.is_dir():
            continue
        with own_modules_first(folder):
            try:
                spec = importlib.util.find_spec(place)
            except Exception as error:  # looking for a.b imports a, which can fail in any way
                reason = reason or f" ({error})"
                continue
        if spec and spec.origin:
            return Path(spec.origin)
    raise ValueError(
        f"no module '{place}'{reason} in {Path.cwd()}, its folder src or the environment. "
        "For a file write path/to/file.py:Class"
    )


@contextlib.contextmanager
def own_modules_first(folder: Path) -> Generator[None]:
    """Look for modules in a folder of the user's first, as Python does for a script; behind all others afterwards.

    What a library imports later is then never a file of the user's that happens to have the same name. A folder that
    is on the path already keeps its place.
    """
    own = str(folder)
    before = sys.path.index(own) if own in sys.path else None
    sys.path[:] = [own, *(path for path in sys.path if path != own)]
    try:
        yield
    finally:
        others = [path for path in sys.path if path != own]
        others.insert(len(others) if before is None else before, own)
        sys.path[:] = others
