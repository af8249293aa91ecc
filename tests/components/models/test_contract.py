"""What every network must be, for all that are found."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from components.config import ExportConfig, TrainConfig, model_names
from components.data.batches import read_training
from components.export.export import export
from components.initialize import find, initialize
from components.pixels import PixelClassifier
from components.training.checkpoint import Checkpoints
from components.training.fit import fit
from tests.toy import toy_data

every_network = pytest.mark.parametrize("name", model_names())


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Data of another number of classes, channels and pixels."""
    return toy_data(tmp_path_factory.mktemp("colours"), classes=3, channels=3, size=32, train=12, test=6)


def made(name: str, data, scheme="xavier_normal") -> nn.Module:
    return initialize(name, {}, scheme, data, 0)


def images(data, samples: int) -> torch.Tensor:
    return torch.randn(samples, *data.image_shape, generator=torch.Generator().manual_seed(0))


@every_network
def test_it_says_what_it_is(name):
    assert find(name).__doc__
    assert __import__(f"components.models.{name}", fromlist=["_"]).__doc__


@every_network
def test_it_takes_its_shape_from_the_data(name, colours):
    assert made(name, colours).eval()(images(colours, 5)).shape == (5, 3)


@every_network
def test_it_takes_any_batch_and_no_samples_answer_depends_on_another(name, toy):
    network, batch = made(name, toy).eval(), images(toy, 7)
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(image[None]) for image in batch])
        turned = network(batch.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned, together, rtol=1e-4, atol=1e-5)


@every_network
def test_a_gradient_reaches_every_parameter_and_none_is_left_unregistered(name, toy):
    network = made(name, toy).train()
    cross_entropy(network(images(toy, 16)), torch.arange(16) % 10).backward()
    for parameter, tensor in network.named_parameters():
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, parameter
    assert all(tensor.is_meta for tensor in network.to("meta").state_dict().values())


@every_network
def test_it_gives_logits_and_no_probabilities(name, toy):
    with torch.no_grad():
        logits = made(name, toy).eval()(images(toy, 16))
    assert logits.isfinite().all() and logits.min() < 0
    assert not torch.allclose(logits.sum(1), torch.ones(16), atol=1e-3)
    assert not torch.allclose(logits.logsumexp(1), torch.zeros(16), atol=1e-3)


@every_network
def test_it_is_the_same_network_in_float64_but_for_rounding(name, toy):
    network = made(name, toy).eval()
    with torch.no_grad():
        single = network(images(toy, 4))
        double = network.double()(images(toy, 4).double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@every_network
def test_it_learns_and_its_export_is_found_equal(name, toy, toy_test, tmp_path):
    network = made(name, toy)
    training, validation = read_training(toy, 0.2, 0)
    config = TrainConfig(epochs=2, batch_size=32)
    checkpoints, best = Checkpoints(tmp_path / "checkpoints", 30), tmp_path / "best.safetensors"
    *_, last = fit(network, training, validation, toy, config, torch.device("cpu"), 0, checkpoints, best)
    assert last.validation_accuracy > 0.9
    ref = export(network, toy, toy_test, ExportConfig(batch_sizes=(1, 7)), {}, tmp_path)
    assert ref.agreement == 1
    assert PixelClassifier(network, toy.mean, toy.std)(toy_test.pixels[:1]).shape == (1, 10)
