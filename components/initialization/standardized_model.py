"""From raw inputs to what a network is trained on, and back to the units of targets: written once for all steps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchmill.components.data.samples import Samples
from torchmill.components.refs import DataRef

CHANNELS_OF_PIXELS = 255.0  # mean and deviation of images are of pixels scaled to 0…1


class StandardizedModel(nn.Module):
    """A network with the standardisation of its data in front.

    Takes raw inputs: uint8 pixels (N, C, H, W), token ids (N, L) or numbers (N, F, …), and gives what the network
    gives. Training, evaluation and the exported model all go through it, so that what is deployed cannot normalise
    otherwise than what was trained.

    Args:
        network: takes standardised floats, or token ids as int64.
        mean: per channel or feature; none for tokens.
        std: likewise; a channel without any spread is only centred.
        channels_last: hand images over in the channels-last memory format.
        unit: by which mean and deviation are multiplied: 255 for those of pixels scaled to 0…1.
        dimensions: of one input.
        target_mean: per target of a regression, whose network gives standardised targets: the model gives them in
            their own units.
        target_std: likewise.
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
        unit: float = CHANNELS_OF_PIXELS,
        dimensions: int = 3,
        target_mean: Sequence[float] = (),
        target_std: Sequence[float] = (),
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
        self.gives_units = bool(target_mean)
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format

    @classmethod
    def of(
        cls, network: nn.Module, data: DataRef, *, channels_last: bool = False, in_units: bool = True
    ) -> "StandardizedModel":
        """Put what a data set needs around a network.

        Args:
            in_units: give the targets of a regression in their own units, not standardised as in training.
        """
        return cls(
            network,
            data.mean,
            data.std,
            channels_last,
            unit=CHANNELS_OF_PIXELS if data.kind == "images" else 1.0,
            dimensions=len(data.shape),
            target_mean=data.target_mean if in_units else (),
            target_std=data.target_std if in_units else (),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.network(self.standardized(inputs))
        return outputs * self.target_scale + self.target_offset if self.gives_units else outputs

    def standardized(self, inputs: Tensor) -> Tensor:
        """Give what the network itself takes."""
        if self.takes_tokens:
            return inputs.long()
        return (inputs.to(self.scale.dtype, memory_format=self.memory_format) - self.offset) * self.scale


def standardized(samples: Samples, data: DataRef) -> Tensor:
    """Give inputs as a network itself takes them."""
    inputs, _ = samples.take(torch.arange(len(samples)))
    return StandardizedModel.of(nn.Identity(), data).standardized(inputs)


def blank(data: DataRef, samples: int = 2) -> Tensor:
    """Give inputs as a network itself takes them, of the right shape and without any content."""
    if data.kind == "tokens":
        return torch.ones(samples, *data.shape, dtype=torch.int64)
    return torch.zeros(samples, *data.shape)
