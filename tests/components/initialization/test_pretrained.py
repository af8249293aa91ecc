"""Frozen parameters with pretrained weights that fit only in part."""

import pytest
import torch
from torch import nn

from tests.components.initialization.networks import reference_to
from tests.toy import made
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.weights import restore, save_weights


@pytest.fixture
def partly_fitting(toy, tmp_path) -> ModelConfig:
    """Pretrained weights that do not fit the first convolution and the last layer."""
    state = made("simple_cnn", toy).state_dict()
    state["conv1.weight"], state["fc2.weight"], state["fc2.bias"] = torch.ones(9), torch.ones(7, 128), torch.ones(7)
    torch.save(state, tmp_path / "weights.pth")
    return ModelConfig(weights=str(tmp_path / "weights.pth"))


def trainable(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_parameters_without_pretrained_weights_stay_trainable_in_a_frozen_backbone(
    toy, tmp_path, partly_fitting, caplog
):
    caplog.set_level("INFO", "torchmill")
    model = partly_fitting.model_copy(update={"freeze": ("backbone",)})
    network, _ = initialize(model, InitializeConfig(), toy, 0)
    assert trainable(network) == {"conv1.weight", "fc2.weight", "fc2.bias"}
    assert "backbone without conv1.weight: not pretrained, stays trainable" in caplog.text
    frozen = tuple(name for name, parameter in network.named_parameters() if not parameter.requires_grad)
    first = reference_to("simple_cnn", network, save_weights(network, tmp_path / "first.safetensors"))
    again = restore(first.model_copy(update={"freeze": model.freeze, "frozen": frozen}), first.weights, toy)
    assert trainable(again) == trainable(network)


def test_a_pattern_must_not_freeze_parameters_without_pretrained_weights(toy, partly_fitting):
    model = partly_fitting.model_copy(update={"freeze": ("conv*",)})
    with pytest.raises(UserError, match=r"'conv\*' matches conv1.weight, which the pretrained weights do not fit"):
        initialize(model, InitializeConfig(), toy, 0)


@pytest.mark.parametrize(("scheme", "warned"), [("xavier_normal", True), ("none", False)])
def test_freezing_without_pretrained_weights_warns_about_first_weights(toy, caplog, scheme, warned):
    initialize(ModelConfig(freeze=("backbone",)), InitializeConfig(name=scheme), toy, 0)
    assert ("first weights by xavier_normal" in caplog.text) == warned
