"""The reference network: two 3×3 convolutions and two linear layers.

It has 421,642 parameters for images of 1×28×28 pixels and 10 classes.
"""

from torch import Tensor, nn

INITIALIZATION = "xavier_normal"


class SimpleCNN(nn.Module):
    """Small convolutional classifier of small images.

    Args:
        in_channels: channels of the images.
        num_classes: number of classes.
        image_size: height of the images in pixels; at least 4.
        image_width: width of the images; None if they are square.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 10, image_size: int = 28, image_width: int | None = None
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(64 * (image_size // 4) * ((image_width or image_size) // 4), 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images (N, in_channels, image_size, image_width)."""
        # Pooling before ReLU gives the same values as after it, but ReLU runs on a quarter of the elements.
        x = self.relu(self.pool(self.conv1(images)))
        x = self.relu(self.pool(self.conv2(x)))
        x = self.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)
