"""A variational autoencoder with 20 latent numbers (Kingma & Welling 2014):
`torchmill train --data mnist --task reconstruction --task.args.noise 20 --model vae.py:VAE`."""

from torch import nn


class VAE(nn.Module):
    """Two layers to the code and two back."""

    def __init__(self, image_size: int, code: int = 20, width: int = 400):
        super().__init__()
        pixels = image_size**2
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, 2 * code))
        self.decode = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, pixels))

    def forward(self, image, noise):
        mean, log_variance = self.encoder(image).chunk(2, 1)
        return self.decode(mean + (log_variance / 2).exp() * noise).view_as(image), mean, log_variance
