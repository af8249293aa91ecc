"""Your own network: an ordinary `nn.Module` that does not depend on Torchmill.

    torchmill train --data mnist --model examples/my_net.py:MyNet --model.args '{"width": 48}'

Torchmill fills in `num_classes` and `in_channels` from the data because the constructor takes them.
"""

from torch import Tensor, nn


class MyNet(nn.Module):
    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 32, dropout: float = 0.1):
        super().__init__()
        self.features = nn.Sequential(
            *self.block(in_channels, width),
            nn.MaxPool2d(2),
            *self.block(width, 2 * width),
            nn.MaxPool2d(2),
            *self.block(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(4),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width * 16, num_classes))

    @staticmethod
    def block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))
