"""Standardization of raw inputs, and the way back from outputs to units of the targets: one module for all steps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmill.components.data.samples import Samples
from torchmill.components.refs import DataRef

PIXEL_RANGE = 255.0
"""Factor of the mean and deviation of images, which are those of pixels scaled to 0…1."""


class StandardizedModel(nn.Module):
    """A network with the standardization of its data in front.

    Takes raw inputs: uint8 pixels (N, C, H, W), token ids (N, L) or numbers (N, F, …). Training, evaluation and the
    exported model all use it, so a deployed model normalizes exactly as in training.

    Args:
        network: network that takes standardized floats, or token ids as int64.
        mean: mean of each channel or feature; empty for tokens.
        std: standard deviation of each channel or feature; 0 only centers it.
        channels_last: pass images to the network in the channels-last memory format.
        unit: factor of ``mean`` and ``std``: 255 if they are those of pixels scaled to 0…1.
        dimensions: number of dimensions of one input.
        target_mean: mean of each regression target, to return outputs in the targets' units; empty otherwise.
        target_std: standard deviation of each regression target; empty otherwise.
        is_log: the targets' mean and deviation are those of their logarithm.
    """

    offset: Tensor
    scale: Tensor
    target_offset: Tensor
    target_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        channels_last: bool = False,
        *,
        unit: float = PIXEL_RANGE,
        dimensions: int = 3,
        target_mean: Sequence[float] = (),
        target_std: Sequence[float] = (),
        is_log: bool = False,
    ):
        super().__init__()
        self.network = network
        spread = torch.tensor([value or 1.0 for value in std], dtype=torch.float64)
        offset = torch.tensor(mean, dtype=torch.float64) * unit
        shape = (1, -1, *(1,) * (dimensions - 1))
        self.register_buffer("offset", offset.float().view(shape))
        self.register_buffer("scale", (1 / (spread * unit)).float().view(shape))
        self.register_buffer("target_offset", torch.tensor(target_mean, dtype=torch.float32))
        self.register_buffer("target_scale", torch.tensor([value or 1.0 for value in target_std], dtype=torch.float32))
        self.takes_tokens = not mean
        self.gives_units, self.is_log = bool(target_mean), is_log
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format

    @classmethod
    def of(
        cls, network: nn.Module, data: DataRef, *, channels_last: bool = False, in_units: bool = True
    ) -> "StandardizedModel":
        """Wrap a network with the standardization of a data set.

        Args:
            network: network that takes standardized inputs.
            data: data set whose mean and deviation to use.
            channels_last: pass images to the network in the channels-last memory format.
            in_units: return regression targets in their own units, not standardized as in training.
        """
        return cls(
            network,
            data.mean,
            data.std,
            channels_last,
            unit=data.field.unit,
            dimensions=len(data.shape),
            target_mean=data.target_mean if in_units else (),
            target_std=data.target_std if in_units else (),
            is_log=in_units and data.target_scale == "log",
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.behind(self.standardized(inputs))

    def behind(self, standardized: Tensor) -> Tensor:
        """Return the outputs for inputs that are standardized already."""
        outputs = self.network(standardized)
        if not self.gives_units:
            return outputs
        scaled = outputs * self.target_scale + self.target_offset
        return scaled.exp() if self.is_log else scaled

    def standardized(self, inputs: Tensor) -> Tensor:
        """Return the inputs as the network takes them: standardized floats, or token ids as int64."""
        if self.takes_tokens:
            return inputs.long()
        return (inputs.to(self.scale.dtype, memory_format=self.memory_format) - self.offset) * self.scale


def standardized(samples: Samples, data: DataRef) -> Tensor:
    """Return the inputs of samples as a network takes them: standardized floats, or token ids as int64."""
    inputs, _ = samples.take(torch.arange(len(samples)))
    return StandardizedModel.of(nn.Identity(), data).standardized(inputs)


def blank(data: DataRef, samples: int = 2) -> Tensor:
    """Return constant inputs of a data set's shape: zeros, or tokens of id 1."""
    return data.field.blank(data.shape, samples)
