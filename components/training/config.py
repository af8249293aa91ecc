"""Settings of the training. Its optimizers, schedules and losses are found by their files. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from torchmill.components.data.config import AUGMENTATIONS, split_strength, usual_strengths
from torchmill.components.errors import nearest
from torchmill.components.settings.options import Listed, OneOf, Option, Room, with_arguments
from torchmill.components.settings.section import (
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
    """Settings of the training.

    Example:
        >>> TrainConfig(epochs=20, optimizer="adamw", lr=3e-4, augment=("flip", "shift:3")).schedule
        'one_cycle'
    """

    epochs: int = Field(5, ge=1, le=100_000)
    """Passes over the training data."""
    batch_size: Annotated[int | None, BeforeValidator(auto_from_text)] = Field(USUAL_BATCH_SIZE, ge=1, le=1_000_000)
    """Samples per optimizer step, in all processes together; auto measures which size is fastest and fits in memory."""
    loss: Annotated[str, Listed(lambda: ["auto", *LOSSES.names()])] = "auto"
    """Loss, or your own as file.py:Class; auto is the task's usual one."""
    loss_args: Annotated[JsonObject, Listed(lambda: with_arguments(LOSSES), "Arguments", "; ")] = Field(
        default_factory=dict
    )
    """Arguments of the loss as JSON. The weight is a list with a number per class, or "balanced"."""
    auxiliary_weight: float = Field(0.3, ge=0, le=10)
    """Weight, in the loss, of each auxiliary output that some networks return beside their logits in train mode."""
    optimizer: Annotated[str, OneOf(OPTIMIZERS.names)] = "adam"
    """Optimizer. muon updates matrices and convolutions, and leaves other parameters to AdamW."""
    optimizer_args: Annotated[JsonObject, Listed(lambda: with_arguments(OPTIMIZERS), "Arguments", "; ")] = Field(
        default_factory=dict
    )
    """Further arguments of the optimizer as JSON, under torch's names: {"betas": [0.9, 0.95], "eps": 1e-6}."""
    lr: Annotated[float | None, BeforeValidator(auto_from_text), Listed(_usual_rates, "Usual")] = Field(
        1e-3, gt=0, le=1e3
    )
    """Learning rate, or its peak under a schedule; auto searches for one."""
    lr_factors: JsonObject = Field(default_factory=dict)
    """Factors of the learning rate as JSON, by pattern of parameter names: {"features.*": 0.1}."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Layer-wise decay: the ratio of each layer's learning rate to the next layer's; 1 is no decay."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd (Nesterov) and rmsprop; other optimizers have their own."""
    weight_decay: float = Field(0.0, ge=0, le=10)
    """Weight decay, as the optimizer defines it. Biases, norms and embeddings don't decay."""
    schedule: Annotated[str, OneOf(SCHEDULES.names)] = "one_cycle"
    """Schedule of the learning rate over all steps; plateau depends on the validation loss."""
    schedule_args: Annotated[JsonObject, Listed(lambda: with_arguments(SCHEDULES), "Arguments", "; ")] = Field(
        default_factory=dict
    )
    """Arguments of the schedule as JSON: rise is a share of all steps; start, end and factor are shares of the learning
    rate; parts is a number of equal parts; patience is in epochs."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Warm-up as a share of all steps: the learning rate rises linearly from nearly 0. one_cycle has its own."""
    clip: str = Field("none", pattern=r"^(none|(norm|value|agc):\d*\.?\d+(e-?\d+)?)$")
    """Gradient clipping: norm:1 limits the norm of all gradients, value:0.5 each element, agc:0.01 the ratio of each
    unit's gradient to its weights."""
    patience: Annotated[int | None, BeforeValidator(none_from_text)] = Field(None, ge=1)
    """Epochs without a better validation loss to tolerate before training stops; none trains all epochs."""
    ema: Annotated[float | None, BeforeValidator(none_from_text)] = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average (EMA) of the weights, for example 0.999. The average is validated and
    saved in place of the weights; none keeps no average."""
    augment: Annotated[Names, Listed(lambda: ["none", *usual_strengths()])] = ()
    """Random changes to training images, for example 'flip,shift:3,erase:0.2'. A number after a colon is the strength;
    without one, it is the usual one."""
    mixup: float = Field(0.0, ge=0, le=10)
    """Mixup of pairs of training samples and of their labels: alpha of the Beta distribution of the mixing weight; 0 is
    off."""
    cutmix: float = Field(0.0, ge=0, le=10)
    """CutMix, a rectangle of one training image pasted into another: alpha of the Beta distribution of its area; 0 is
    off. With mixup, each batch gets one of the two."""
    processes: Annotated[str, BeforeValidator(text_from_int)] = Field("1", pattern=r"^(auto|[1-9]\d{0,2})$")
    """Processes per machine that train together, each on its share of every batch; auto is one per graphics card."""
    machines: int = Field(1, ge=1, le=1000)
    """Machines that train together. All but the first join with `torchmill join FOLDER`."""
    rendezvous: str = Field("", pattern=r"^([\w.-]+:\d{1,5})?$")
    """Address of the first machine as HOST:PORT, for training on several."""
    shard: Annotated[Literal["off", "on"], BeforeValidator(switch_from_bool)] = "off"
    """Sharding of weights, gradients and optimizer state across the processes (FSDP), for a network that doesn't fit on
    one device; slower than off, which gives each process a full copy."""
    precision: Precision = "auto"
    """Precision of computation; auto is bf16 on graphics cards that support it, else fp32. Weights stay fp32."""
    channels_last: Annotated[Literal["off", "auto", "on"], BeforeValidator(switch_from_bool)] = "auto"
    """Channels-last memory format of images; auto is on for convolutional networks that support it."""
    compile: Annotated[Literal["off", "auto", "on"], BeforeValidator(switch_from_bool)] = "off"
    """Compilation by torch.compile, on CUDA into graphs if all inputs have one shape. auto compiles if a trial run
    shows that the whole training ends sooner; since timing decides, a rerun may differ in the last bits."""
    profile: bool = False
    """Profile of a few steps by torch's profiler: a trace, and a table of operations by time, saved in the run."""
    checkpoint_seconds: float = Field(30.0, ge=0, json_schema_extra=NOT_IN_KEY)
    """Seconds between checkpoints within an epoch; 0 writes one after every step. Each epoch ends with one, too. If
    writing takes more than 2 % of the time, there are fewer."""

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
            raise ValueError("train.rendezvous: several machines need HOST:PORT of the first one")
        if self.shard == "on":
            if self.machines == 1 and self.processes == "1":
                raise ValueError("train.shard: one process has no other to shard with; add --train.processes")
            if OPTIMIZERS[self.optimizer].constant("NEEDS_WHOLE_WEIGHTS"):
                raise ValueError(f"train.shard: a sharded network does not support optimizer {self.optimizer}")
            for name, values in NOT_SHARDABLE.items():
                if (value := getattr(self, name)) in values:
                    raise ValueError(f"train.shard: a sharded network does not support {name} {value}")
        if self.warmup and (argument := SCHEDULES[self.schedule].constant("WARMUP")):
            raise ValueError(
                f"train.warmup: {self.schedule} has its own; set it with train.schedule_args '{{\"{argument}\": 0.1}}'"
            )
        return self

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if ":" in loss:
            check_reference(loss)
        elif loss not in (names := ["auto", *LOSSES.names()]):
            raise ValueError(f"unknown '{loss}'. {nearest(loss, names)} Your own: file.py:Class")
        return loss

    def options(self) -> Iterator[Option]:
        yield from (AUGMENTATIONS[split_strength(item)[0]] for item in self.augment)
        yield OPTIMIZERS[self.optimizer]
        yield SCHEDULES[self.schedule]
        if self.loss == "auto":  # the task decides which of these
            yield from (LOSSES[name] for name in LOSSES.names(lambda option: option.constant("USUAL", False)))
        elif ":" not in self.loss:
            yield LOSSES[self.loss]
