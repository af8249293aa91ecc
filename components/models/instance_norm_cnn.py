"""A convolutional classifier with instance norm, which trains with any batch size, even 1."""

from collections.abc import Sequence

from torch import Tensor, nn

INITIALIZATION = "xavier_normal"


class InstanceNormCNN(nn.Module):
    """Convolutions with instance norm (Ulyanov et al. 2016), then the mean over the final feature map.

    The norm removes the contrast of each image. The final pooling is adaptive, so the network accepts images of any
    size, even of another size than in training.

    Args:
        in_channels: channels of the images.
        num_classes: number of classes.
        widths: channels of each block; pooling between blocks halves the image.
        dropout: dropout rate before the output.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 10, widths: Sequence[int] = (32, 64, 128), dropout: float = 0.1
    ):
        super().__init__()
        before = [in_channels, *widths[:-1]]
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip(before, widths, strict=True))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images (N, in_channels, H, W) of any size."""
        x = images
        for number, block in enumerate(self.blocks):
            x = block(self.pool(x) if number else x)
        return self.output(self.dropout(self.average(x).flatten(1)))


class Block(nn.Module):
    """Convolution, instance norm with trainable scale and shift, ReLU."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(after, affine=True)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.convolution(x)))
