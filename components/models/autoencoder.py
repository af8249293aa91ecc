"""A convolutional autoencoder of images, plain or variational."""

import torch
from torch import Tensor, nn

TASKS = ("reconstruction",)
INITIALIZATION = "none"


class Autoencoder(nn.Module):
    """Strided convolutions to a code, and transposed ones back to the image (Kingma & Welling 2014 if variational).

    Args:
        in_channels: channels of the images.
        image_height, image_width: size of the images.
        code: dimensions of the code.
        width: channels after the first convolution.
        variational: draw the code from a normal distribution in training, and give its mean and log variance, too.
    """

    def __init__(
        self,
        in_channels: int,
        image_height: int,
        image_width: int,
        code: int = 20,
        width: int = 32,
        variational: bool = True,
    ):
        super().__init__()
        self.variational, self.size = variational, (image_height, image_width)
        self.inner = (2 * width, -(-image_height // 4), -(-image_width // 4))
        features = self.inner[0] * self.inner[1] * self.inner[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(features, 256),
            nn.GELU(),
        )
        self.mean, self.log_variance = nn.Linear(256, code), nn.Linear(256, code) if variational else None
        self.decoder = nn.Sequential(nn.Linear(code, 256), nn.GELU(), nn.Linear(256, features), nn.GELU())
        self.image = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(width, in_channels, 4, stride=2, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction (N, channels, H, W); and, if variational, mean and log variance of the code."""
        hidden = self.encoder(image)
        mean = self.mean(hidden)
        if self.log_variance is None:
            return self.decode(mean)
        log_variance = self.log_variance(hidden)
        code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.training else mean
        return self.decode(code), mean, log_variance

    def decode(self, code: Tensor) -> Tensor:
        """Return images (N, channels, H, W) from codes (N, code)."""
        image = self.image(self.decoder(code).view(-1, *self.inner))
        return image[:, :, : self.size[0], : self.size[1]]
