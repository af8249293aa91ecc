"""Variational networks whose codes are drawn by noise that the task gives them."""

import pytest
import torch

from tests.components.tasks.trials import Trial
from torchmill.components.errors import UserError

OWN = """
import torch
from torch import nn

class VAE(nn.Module):
    def __init__(self, image_size, code=6):
        super().__init__()
        pixels = image_size**2
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.ReLU(), nn.Linear(32, 2 * code))
        self.decode = nn.Sequential(nn.Linear(code, 32), nn.ReLU(), nn.Linear(32, pixels))

    def forward(self, image, noise):
        mean, log_variance = self.encoder(image).chunk(2, 1)
        return self.decode(mean + (log_variance / 2).exp() * noise).view_as(image), mean, log_variance
"""


@pytest.fixture
def trial(tmp_path) -> Trial:
    (tmp_path / "own.py").write_text(OWN)
    trial = Trial.of(tmp_path, "digits", "reconstruction", f"{tmp_path}/own.py:VAE", noise=6)
    torch.manual_seed(0)
    return trial


def test_the_measure_is_the_evidence_lower_bound_by_a_draw(trial):
    model, task = trial.model.eval(), trial.task
    batch = task.drawn(model.prepared(trial.samples().take(torch.arange(9))))
    logits, mean, log_variance = trial.network(batch["image"], batch["noise"])
    code, prior = (
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(torch.zeros(6), torch.ones(6)),
    )
    divergence = torch.distributions.kl_divergence(code, prior).sum(1)
    pixels = batch.raw["image"].float() / 255
    likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum((1, 2, 3))
    statistics = task.measured(model, batch)
    torch.testing.assert_close(statistics["nats"], (divergence - likelihood).double().detach(), rtol=1e-5, atol=1e-3)


def test_the_exported_model_takes_the_noise_and_new_pictures_are_drawn(trial):
    report = trial.evaluate()
    assert {"reconstructions.png", "samples.png"} <= set(report["pictures"])
    ref, answers = trial.export()
    assert answers["reconstruction"].shape == (8, 1, 28, 28) and answers["divergence"].shape == (8,)
    assert '"noise"' in ref.triton.path.read_text() if ref.triton else False


def test_noise_that_nobody_gives_is_told(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(UserError, match=r"takes noise, and the data has no such field"):
        Trial.of(tmp_path, "digits", "reconstruction", f"{tmp_path}/own.py:VAE")
