"""A generative adversarial network for MNIST's digits (Goodfellow et al. 2014, Radford et al. 2016):
`torchmill train --data mnist --task gan.py:Adversarial --model gan.py:GAN`."""

import torch
from torch import nn
from torch.nn import functional as F

CODE = 64


class GAN(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(CODE, 4 * width * 49, bias=False),
            nn.Unflatten(1, (4 * width, 7, 7)),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )
        self.critic = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * 49, 1),
        )


class Adversarial:
    """Two losses in turn; pictures are scaled to -1…1, as the generator gives them."""

    noise = {"noise": (CODE,)}
    phases = {"critic": {"parameters": "critic.*"}, "generator": {"parameters": "generator.*"}}

    def critic_loss(self, network, batch):
        real, fake = scaled(batch), network.generator(batch["noise"])
        return {
            "real": F.softplus(-network.critic(real)).mean(),
            "fake": F.softplus(network.critic(fake.detach())).mean(),
        }

    def generator_loss(self, network, batch):
        return F.softplus(-network.critic(network.generator(batch["noise"]))).mean()

    def predict(self, network, inputs):
        return {"image": (network.generator(inputs["noise"]) + 1) / 2}

    def measure(self, answer, batch):
        return {"brightness": answer["image"].mean((1, 2, 3)), "ink": (answer["image"] > 0.5).double().mean((1, 2, 3))}

    def draw(self, network, batch, folder):
        from torchvision.utils import save_image

        save_image(self.predict(network, batch)["image"], folder / "written.png", nrow=8)
        return [folder / "written.png"]


def scaled(batch) -> torch.Tensor:
    return batch.raw["image"].float() / 127.5 - 1
