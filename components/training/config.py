"""Settings of the training. Its optimizers, schedules and losses are found by their files. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from torchmill.components.data.config import AUGMENTATIONS, split_strength, usual_strengths
from torchmill.components.errors import nearest
from torchmill.components.options import Listed, OneOf, Option, Room, with_arguments
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

OPTIMIZERS = Room(Path(__file__).parent / "optimizers")
SCHEDULES = Room(Path(__file__).parent / "schedules")
LOSSES = Room(Path(__file__).parent / "losses")

Precision = Literal["auto", "fp32", "bf16", "fp16"]

USUAL_BATCH_SIZE = 64

NOT_SHARDABLE = {"precision": ("fp16",), "compile": ("auto", "on"), "channels_last": ("on",)}
"""Values of settings that need whole weights."""


def _usual_rates() -> list[str]:
    rates = {name: OPTIMIZERS[name].constant("USUAL_LR") for name in OPTIMIZERS.names()}
    return [f"{name} {rate:g}" for name, rate in rates.items() if rate]


class TrainConfig(Section):
    epochs: int = Field(5, ge=1, le=100_000)
    """Passes over the training data."""
    batch_size: Annotated[int | None, BeforeValidator(auto_from_text)] = Field(USUAL_BATCH_SIZE, ge=1, le=1_000_000)
    """Samples per optimizer step; auto tries which number is fastest and fits the device's memory."""
    loss: Annotated[str, Listed(lambda: ["auto", *LOSSES.names()])] = "auto"
    """Loss, or your own file.py:Class. auto is the usual one of the task."""
    loss_args: Annotated[JsonObject, Listed(lambda: with_arguments(LOSSES), "Arguments", "; ")] = Field(
        default_factory=dict
    )
    """Arguments of the loss as JSON. A weight is a list with a number per class, or "balanced"."""
    auxiliary_weight: float = Field(0.3, ge=0, le=10)
    """Weight of each auxiliary output, which some networks return beside their logits in train mode."""
    optimizer: Annotated[str, OneOf(OPTIMIZERS.names)] = "adam"
    """Optimizer; muon is for matrices and convolutions, and updates other parameters by AdamW."""
    optimizer_args: Annotated[JsonObject, Listed(lambda: with_arguments(OPTIMIZERS), "Arguments", "; ")] = Field(
        default_factory=dict
    )
    """Further arguments of the optimizer as JSON, by torch's names: {"betas": [0.9, 0.95], "eps": 1e-6}."""
    lr: Annotated[float | None, BeforeValidator(auto_from_text), Listed(_usual_rates, "Usual")] = Field(
        1e-3, gt=0, le=1e3
    )
    """Learning rate, or its peak under a schedule; auto searches for one."""
    lr_factors: JsonObject = Field(default_factory=dict)
    """Factors of the learning rate by pattern of parameter names: {"features.*": 0.1}."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Layer-wise decay of the learning rate: the ratio of each layer's to the next layer's."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd (Nesterov) and rmsprop; the others have their own."""
    weight_decay: float = Field(0.0, ge=0, le=10)
    """Weight decay, as the optimizer defines it; biases, norms and embeddings don't decay."""
    schedule: Annotated[str, OneOf(SCHEDULES.names)] = "one_cycle"
    """Course of the learning rate over all steps; plateau depends on the validation loss."""
    schedule_args: Annotated[JsonObject, Listed(lambda: with_arguments(SCHEDULES), "Arguments", "; ")] = Field(
        default_factory=dict
    )
    """Numbers of the schedule as JSON: shares of all steps (rise) or of the learning rate (start, end, factor), equal
    parts, and epochs (patience)."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Warm-up as a share of all steps: the learning rate rises from nearly nothing. one_cycle has its own."""
    clip: str = Field("none", pattern=r"^(none|(norm|value|agc):\d*\.?\d+(e-?\d+)?)$")
    """Limit of gradients: norm:1, value:0.5, or adaptive to each unit's weights, agc:0.01."""
    patience: Annotated[int | None, BeforeValidator(none_from_text)] = Field(None, ge=1)
    """Stop after so many epochs without a better validation loss; none trains to the end."""
    ema: Annotated[float | None, BeforeValidator(none_from_text)] = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, as 0.999: it is validated and kept instead of them."""
    augment: Annotated[Names, Listed(lambda: ["none", *usual_strengths()])] = ()
    """Random changes to training images, for example 'flip,shift:3,erase:0.2'. A number after a colon is the strength;
    without one, it is the usual one."""
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
            split_strength(item)
        return names

    @model_validator(mode="after")
    def _fitting_arguments(self) -> "TrainConfig":
        for field, option in (("optimizer", OPTIMIZERS[self.optimizer]), ("schedule", SCHEDULES[self.schedule])):
            try:
                option.check(getattr(self, f"{field}_args"))
            except ValueError as error:
                raise ValueError(f"train.{field}_args: {error}") from None
        if self.machines > 1 and not self.rendezvous:
            raise ValueError("train.rendezvous: where do the machines meet? Give HOST:PORT of the first one")
        if self.shard == "on":
            if self.machines == 1 and self.processes == "1":
                raise ValueError("train.shard: one process has nobody to share with; add --train.processes")
            if OPTIMIZERS[self.optimizer].constant("NEEDS_WHOLE_WEIGHTS"):
                raise ValueError(f"train.shard: a network that is split does not bear optimizer {self.optimizer}")
            for name, values in NOT_SHARDABLE.items():
                if (value := getattr(self, name)) in values:
                    raise ValueError(f"train.shard: a network that is split does not bear {name} {value}")
        if self.warmup and (own := SCHEDULES[self.schedule].constant("WARMUP")):
            raise ValueError(
                f"train.warmup: {self.schedule} has its own; set it by train.schedule_args '{{\"{own}\": 0.1}}'"
            )
        return self

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if ":" in loss:
            check_reference(loss)
        elif loss not in (known := ["auto", *LOSSES.names()]):
            raise ValueError(f"unknown '{loss}'. {nearest(loss, known)} Your own: file.py:Class")
        return loss

    def options(self) -> Iterator[Option]:
        yield from (AUGMENTATIONS[split_strength(item)[0]] for item in self.augment)
        yield OPTIMIZERS[self.optimizer]
        yield SCHEDULES[self.schedule]
        if self.loss == "auto":  # one of these, by the task
            yield from (LOSSES[name] for name in LOSSES.names(lambda option: option.constant("USUAL", False)))
        elif ":" not in self.loss:
            yield LOSSES[self.loss]
