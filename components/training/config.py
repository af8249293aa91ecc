"""Settings of the training, with the options that optimizers, schedules and losses take. Imports no torch."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from torchmill.components.data.config import AUGMENTATIONS
from torchmill.components.errors import nearest
from torchmill.components.section import (
    NOT_IN_KEY,
    JsonObject,
    Names,
    Section,
    auto_from_text,
    none_from_text,
    switch_from_bool,
    text_from_int,
)
from torchmill.components.user_code.reference import check_reference

Optimizer = Literal["adam", "adamw", "sgd", "rmsprop", "adadelta", "muon"]

Schedule = Literal["one_cycle", "cosine", "linear", "step", "plateau", "constant"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]

Loss = Literal["auto", "cross_entropy", "focal", "bce", "mse", "huber"]

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


NOT_SHARDABLE = {"optimizer": ("muon",), "precision": ("fp16",), "compile": ("auto", "on"), "channels_last": ("on",)}
"""Settings that need whole weights."""


class TrainConfig(Section):
    epochs: int = Field(5, ge=1, le=100_000)
    """Passes over the training data."""
    batch_size: Annotated[int | None, BeforeValidator(auto_from_text)] = Field(USUAL_BATCH_SIZE, ge=1, le=1_000_000)
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
    lr: Annotated[float | None, BeforeValidator(auto_from_text)] = Field(1e-3, gt=0, le=1e3)
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
    patience: Annotated[int | None, BeforeValidator(none_from_text)] = Field(None, ge=1)
    """Stop after so many epochs without a better validation loss; none trains to the end."""
    ema: Annotated[float | None, BeforeValidator(none_from_text)] = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, as 0.999: it is validated and kept instead of them."""
    augment: Names = ()
    """Random changes to training images, each with its strength after a colon where it isn't the usual one, as
    'flip,shift:3,erase:0.2'; none, shift, flip, flip_vertical, flip_alternate, crop, rotate, affine, color, blur,
    erase, autocontrast, trivial, rand."""
    mixup: float = Field(0.0, ge=0, le=10)
    """Mix pairs of training samples with their labels: alpha of the Beta distribution that weighs them."""
    cutmix: float = Field(0.0, ge=0, le=10)
    """Put a rectangle of one training image into another: alpha; with mixup, each batch gets one of both."""
    processes: Annotated[str, BeforeValidator(text_from_int)] = Field("1", pattern=r"^(auto|[1-9]\d{0,2})$")
    """Processes that train together, each on its share of every batch; auto is one for each graphics card."""
    machines: int = Field(1, ge=1, le=1000)
    """Machines that train together, each with so many processes; the others join by `torchmill join FOLDER`."""
    rendezvous: str = Field("", pattern=r"^([\w.-]+:\d{1,5})?$")
    """HOST:PORT of the first machine, where they meet."""
    shard: Annotated[Literal["off", "on"], BeforeValidator(switch_from_bool)] = "off"
    """Split the network, its gradients and what the optimizer keeps among the processes (FSDP), where one device does
    not take all of it. It takes longer than to have each hold everything."""
    precision: Precision = "auto"
    """What is computed in: auto is bf16 on graphics cards that have it, else fp32; weights stay fp32."""
    channels_last: Annotated[Literal["auto", "on", "off"], BeforeValidator(switch_from_bool)] = "auto"
    """Memory format of images; auto: on for convolutional networks that bear it."""
    compile: Annotated[Literal["off", "auto", "on"], BeforeValidator(switch_from_bool)] = "off"
    """Have torch compile the network, on CUDA into graphs where inputs are of one size; auto: if a trial says that the
    whole training is over sooner so. A clock then decides, and the same command may give other last bits."""
    profile: bool = False
    """Have a few steps recorded by torch's profiler: a trace and a table of where the time goes, in the run."""
    checkpoint_seconds: float = Field(30.0, ge=0, json_schema_extra=NOT_IN_KEY)
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
            for name, values in NOT_SHARDABLE.items():
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
