"""Settings of the ONNX export. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from torchmill.components.settings.section import NOT_IN_KEY, Section, none_from_text, switch_from_bool


class ExportConfig(Section):
    tolerance: float = Field(1e-5, gt=0, le=1)
    """Largest difference of ONNX logits from float64 torch, relative to the largest logit (at least 1)."""
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field((1, 2, 7, 256), min_length=1)
    """Batch sizes at which the whole test split is compared."""
    form: Literal["both", "complete", "bare"] = "both"
    """Files to write: complete (model.onnx) takes images, texts and numbers as they are; bare (model.bare.onnx) is the
    network alone, for runtimes that don't take text, uint8 or branches."""
    batch: Annotated[int | None, Field(ge=1, le=65536), BeforeValidator(none_from_text)] = None
    """Fixed batch size of the bare model, with a fixed length of sequences; none leaves both free."""
    opset: int = Field(20, ge=17, le=23)
    """Version of ONNX's operators in the bare model."""
    int8: Annotated[Literal["off", "auto", "on"], BeforeValidator(switch_from_bool)] = "off"
    """Also write model.int8.onnx, calibrated on training data: auto keeps it if it is measurably faster and within the
    budget; on fails otherwise."""
    fp16: Annotated[Literal["off", "auto", "on"], BeforeValidator(switch_from_bool)] = "off"
    """Also write model.fp16.onnx for GPUs; its speed is measured if onnxruntime has a GPU."""
    budget: float = Field(0.005, ge=0, le=1)
    """Largest loss of accuracy of a smaller model: upper end of the paired loss's 95 % interval."""
    register_as: Annotated[str | None, BeforeValidator(none_from_text)] = Field(
        None, pattern=r"^[A-Za-z0-9][\w.-]{0,99}$", json_schema_extra=NOT_IN_KEY
    )
    """Name in the model registry; if none, made from data and network."""

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return [part.strip() for part in value.strip("[]()").split(",")] if isinstance(value, str) else value
