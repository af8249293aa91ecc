import gc

import pytest
import torch
from torch import nn

from tests.toy import toy_data
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import initialize, outputs_of
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.torchvision import adapted, classifier, names

SAMPLE = ("googlenet", "resnet18", "squeezenet1_0")
MORE = (
    "mobilenet_v3_small",
    "vit_b_16",
    "alexnet",
    "densenet121",
    "inception_v3",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "swin_t",
    "vgg11",
)
GIANTS = ("regnet_y_128gf", "vit_h_14")


def check_sizes(name: str, channels: int, size: int) -> nn.Module:
    network = adapted(name, 5, channels, size)
    images = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert network.eval()(images).shape == (2, 5)
        assert {output.shape for output in outputs_of(network.train()(images))} == {(2, 5)}
    return network


@pytest.mark.parametrize("name", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_a_network_takes_small_grey_images_of_any_number_of_classes(name):
    check_sizes(name, 1, 28)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - set(GIANTS)))
def test_every_network_takes_small_images_and_large_ones(name):
    check_sizes(name, 3, 32)
    check_sizes(name, 1, 64)
    gc.collect()


def test_the_first_halvings_are_removed_for_small_images():
    network = adapted("resnet18", 10, 1, 28)
    widths = []
    network.get_submodule("layer4").register_forward_hook(lambda *call: widths.append(call[2].shape[-1]))
    network.eval()(torch.zeros(1, 1, 28, 28))
    assert widths == [2]
    assert network.get_submodule("conv1").stride == (1, 1) and network.get_submodule("conv1").kernel_size == (3, 3)


def test_the_network_is_unchanged_for_images_of_the_usual_size():
    ours, theirs = adapted("resnet18", 1000, 3, 224), classifier("resnet18")(num_classes=1000)
    assert str(ours) == str(theirs)
    assert "kernel_size=(7, 7), stride=(2, 2)" in str(ours.get_submodule("conv1"))


def test_the_number_of_removed_halvings_can_be_set():
    assert isinstance(adapted("resnet18", 10, 1, 32, fewer_halvings=2).get_submodule("maxpool"), nn.Identity)
    assert isinstance(adapted("resnet18", 10, 1, 32, fewer_halvings=0).get_submodule("maxpool"), nn.MaxPool2d)


def test_an_unknown_network_gets_suggestions():
    with pytest.raises(UserError, match=r"no network 'resnet81'\. Did you mean .*resnet18"):
        classifier("resnet81")


def test_it_is_built_and_initialized_by_name_for_the_data(tmp_path):
    data = toy_data(tmp_path, classes=3, channels=3, size=32, train=12, test=6)
    network, _ = initialize(ModelConfig(name="torchvision:squeezenet1_1"), InitializeConfig(), data, 0)
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_it_keeps_the_weights_of_its_constructor(tmp_path):
    data = toy_data(tmp_path, classes=3, channels=3, size=32, train=12, test=6)
    torch.manual_seed(3)
    expected = classifier("squeezenet1_1")(num_classes=3, in_channels=3, image_size=32).state_dict()
    network, _ = initialize(ModelConfig(name="torchvision:squeezenet1_1"), InitializeConfig(), data, 3)
    assert all(torch.equal(weight, expected[name]) for name, weight in network.state_dict().items())
