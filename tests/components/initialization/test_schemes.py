import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchmill.components.data.samples import read_sample
from torchmill.components.errors import UserError
from torchmill.components.evaluation.plots import draw_layers
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.pretrained import freeze
from torchmill.components.initialization.schemes import fill
from torchmill.components.initialization.schemes.lsuv import finish
from torchmill.components.initialization.standardized_model import standardized
from torchmill.components.initialization.statistics import as_table, measure

PLAIN = InitializeConfig(name="xavier_normal")


def sequence() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def made(data, **config):
    network, _ = initialize(ModelConfig(), InitializeConfig(**config), data, 0)
    return network


def is_orthogonal(weight: torch.Tensor) -> bool:
    product = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    return torch.allclose(product, torch.eye(len(product)), atol=1e-5)


def test_a_rule_changes_the_scheme_of_its_layers_only(toy):
    network = made(toy, rules={"fc.*": "orthogonal"})
    assert is_orthogonal(network.fc1.weight) and is_orthogonal(network.fc2.weight)
    assert not is_orthogonal(network.conv2.weight.flatten(1))
    assert torch.equal(network.conv1.weight, made(toy).conv1.weight)


def test_the_last_rule_that_fits_counts(toy):
    network = made(toy, rules={"*": "trunc_normal", "fc1": "orthogonal"})
    assert is_orthogonal(network.fc1.weight) and network.fc2.weight.abs().max() <= 0.04


def test_a_rule_fills_layers_that_schemes_do_not():
    network = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.LSTM(4, 4))
    before = network[0].weight.clone()
    fill(network, PLAIN, 0, torch.ones(1, 2, dtype=torch.int64))
    assert torch.equal(network[0].weight, before)
    fill(
        network,
        InitializeConfig(name="xavier_normal", rules={"1": "orthogonal", "0": "trunc_normal"}),
        0,
        torch.ones(1, 2).long(),
    )
    assert is_orthogonal(network[1].weight_hh_l0) and (network[1].bias_hh_l0 == 0).all()
    assert (network[0].weight[0] == 0).all() and 0 < network[0].weight[1:].abs().max() <= 0.04


def test_a_rule_that_matches_nothing_gets_a_suggestion(toy):
    with pytest.raises(UserError, match=r"no layer fits 'fc3'\. Did you mean .*fc"):
        made(toy, rules={"fc3": "orthogonal"})


def test_an_unknown_scheme_in_a_rule_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"'fc\.\*': unknown scheme 'ortogonal'\. Did you mean orthogonal"):
        InitializeConfig(rules={"fc.*": "ortogonal"})


def correlated(count: int = 200) -> torch.Tensor:
    """Return images with correlated neighboring pixels."""
    noise = torch.randn(count, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(noise, 2, stride=1) * 5 + 2


def test_whitening_gives_principal_directions_with_variance_1_and_both_signs():
    network = nn.Sequential(nn.Conv2d(3, 24, 2), nn.Flatten(), nn.Linear(24 * 225, 2))
    images = correlated()
    fill(network, InitializeConfig(name="xavier_normal", rules={"0": "whitening"}), 0, images)
    assert torch.equal(network[0].weight[::2], -network[0].weight[1::2]) and (network[0].bias == 0).all()
    covariance = network[0](images).detach().transpose(0, 1).flatten(1)[::2].cov()
    assert torch.allclose(covariance, torch.eye(12), atol=0.02)


def test_a_narrow_whitening_takes_the_directions_of_largest_variance():
    images = correlated()
    few, every = (nn.Sequential(nn.Conv2d(3, width, 2)) for width in (6, 24))
    for network in (few, every):
        fill(network, InitializeConfig(name="xavier_normal", rules={"0": "whitening"}), 0, images)
    assert torch.equal(few[0].weight, every[0].weight[:6])
    # Directions of small variance need large weights for an output variance of 1.
    sizes = every[0].weight.flatten(1).norm(dim=1)
    assert (sizes.diff() > -1e-4).all() and sizes[-1] > 2 * sizes[0]


@pytest.mark.parametrize(
    ("network", "rules", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 26, 2)), {"0": "whitening"}, "makes 24 outputs of patches of 12 elements, not 26"),
        (nn.Sequential(nn.Linear(17, 2)), {"0": "whitening"}, "whitening is for Conv2d, and 0 is a Linear"),
        (nn.Sequential(nn.Linear(17, 2)), {"0": "dirac"}, "dirac is for Conv2d, and 0 is a Linear"),
    ],
)
def test_a_scheme_for_convolutions_is_refused_elsewhere(network: nn.Module, rules: dict[str, str], words: str):
    with pytest.raises(UserError, match=words):
        fill(network, InitializeConfig(name="xavier_normal", rules=rules), 0, correlated(2))


def test_dirac_passes_the_inputs_on():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))
    images = correlated(4)
    fill(network, InitializeConfig(name="xavier_normal", rules={"0": "dirac"}), 0, images)
    outputs = network(images)
    assert torch.allclose(outputs[:, :3], images, atol=1e-5) and outputs[:, 3:].std() > 0.1


@pytest.mark.parametrize(("gain", "factor"), [("relu", 2**0.5), ("tanh", 5 / 3), ("linear", 1)])
def test_a_gain_scales_the_weights_of_the_scheme(toy, gain, factor):
    plain, scaled = made(toy), made(toy, gain=gain)
    torch.testing.assert_close(scaled.fc1.weight, plain.fc1.weight * factor)
    assert torch.allclose(
        made(toy, name="kaiming_normal", gain="relu").fc1.weight, made(toy, name="kaiming_normal").fc1.weight
    )


@pytest.mark.parametrize("bias", [0.1, None])
def test_biases_are_set_or_kept(toy, bias):
    network, before = made(toy, bias=bias), made(toy, name="none")
    if bias is None:
        assert torch.equal(network.fc1.bias, before.fc1.bias)
    else:
        assert (network.fc1.bias == torch.tensor(bias)).all()


def test_lsuv_gives_every_layer_outputs_of_variance_1(toy):
    sample = standardized(read_sample(toy, 64, 0), toy)
    network, layers = initialize(ModelConfig(), InitializeConfig(name="lsuv"), toy, 0, sample)
    assert [layer.after.layer for layer in layers] == ["conv1", "conv2", "fc1", "fc2"]
    for layer in layers:
        assert layer.after.output_std == pytest.approx(1, abs=0.05), layer
    assert is_orthogonal(network.fc2.weight / network.fc2.weight[0].norm())


def test_lsuv_does_not_scale_a_layer_without_output():
    network = sequence()
    before = network[0].weight.clone()
    finish(network, ["0", "2", "4"], torch.zeros(4, 6) * network[0].bias.sum().detach())
    assert torch.isfinite(torch.cat([weight.flatten() for weight in network.parameters()])).all()
    with torch.no_grad():
        network[0].weight.zero_(), network[0].bias.zero_()
    finish(network, ["0"], torch.ones(4, 6))
    assert (network[0].weight == 0).all() and before.abs().max() > 0


def test_statistics_compare_each_layer_in_the_order_of_use(toy, tmp_path):
    _, layers = initialize(ModelConfig(), InitializeConfig(name="orthogonal"), toy, 0)
    table = as_table(layers)
    assert table.count("\n") == 6 and "| conv1 | Conv2d | 32×1×3×3 |" in table and " → " in table
    assert all(layer.before.std != layer.after.std and layer.after.bias == 0 for layer in layers)
    draw_layers(layers, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 5000


def test_measuring_changes_neither_modes_nor_random_state():
    network = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    state = torch.get_rng_state()
    measure(network, torch.ones(4, 6))
    assert all(layer.training for layer in network.modules()) and torch.equal(state, torch.get_rng_state())
    assert not any(layer._forward_hooks for layer in network.modules())


class Failing(nn.Sequential):
    def forward(self, x):
        return super().forward(x).view(-1, 7)


class Nested(nn.Module):
    """Network whose layers return nested tensors in evaluation mode, as torch's encoder does for padded inputs."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = x.unsqueeze(2).expand(-1, -1, 8)
        return self.out(self.encoder(x, src_key_padding_mask=x[..., 0] == 0).mean(1))


class OwnParameters(nn.Sequential):
    def parameters(self, recurse=True):
        return self[2].parameters()


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (lambda: Failing(nn.Linear(6, 8), nn.Linear(8, 5)), {"0", "1"}),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.Embedding(4, 4)), {"0"}),
        (lambda: Nested(), {"out"}),
        (lambda: OwnParameters(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), {"0", "2"}),
    ],
    ids=["forward fails", "layer fails", "nested tensors", "own parameters()"],
)
def test_measuring_never_fails_and_returns_the_layers_that_it_reached(make, layers):
    network = make()
    batch = torch.rand(4, 6) * (torch.arange(6) < torch.tensor([[6], [3], [2], [5]]))
    measured = measure(network, batch)
    assert layers <= {row.layer for row in measured if row.output_std is not None}
    finish(network, sorted(layers), batch)


def test_only_a_rule_fills_layers_that_the_constructor_froze():
    for config, changed in ((PLAIN, False), (InitializeConfig(name="xavier_normal", rules={"0": "orthogonal"}), True)):
        network = sequence()
        network[0].requires_grad_(False)
        before = [parameter.clone() for parameter in network[0].parameters()]
        fill(network, config, 0, torch.ones(1, 6))
        weights = list(network[0].parameters())
        assert torch.equal(before[0], weights[0]) != changed and torch.equal(before[1], weights[1]) != changed
        assert not network[2].bias.any()


def test_patterns_freeze_and_backbone_is_all_but_the_last_layer():
    network = sequence()
    freeze(network, ["backbone"])
    assert [name for name, weight in network.named_parameters() if weight.requires_grad] == ["4.weight", "4.bias"]
    network = sequence()
    freeze(network, ["0", "2.weight"])
    assert [name for name, weight in network.named_parameters() if not weight.requires_grad] == [
        *("0.weight", "0.bias", "2.weight"),
    ]


@pytest.mark.parametrize(("patterns", "words"), [(["5"], "no parameter matches '5'"), (["*"], "nothing to train")])
def test_freezing_nothing_or_everything_is_refused(patterns, words):
    with pytest.raises(UserError, match=words):
        freeze(sequence(), patterns)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_pretrained_weights_are_loaded_if_they_fit(toy, tmp_path, ending):
    source = made(toy, name="orthogonal").state_dict()
    source["fc2.weight"], source["fc2.bias"] = torch.ones(7, 128), torch.ones(7)
    source["conv1.weight"] = source["conv1.weight"].repeat(1, 3, 1, 1) / 3  # for color images
    file = tmp_path / f"weights{ending}"
    save_file(source, file) if ending == ".safetensors" else torch.save({"state_dict": source}, file)
    network, _ = initialize(ModelConfig(weights=str(file)), PLAIN, toy, 0)
    assert torch.equal(network.conv2.weight, source["conv2.weight"])
    torch.testing.assert_close(network.conv1.weight, source["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(network.fc2.weight, made(toy).fc2.weight)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "There is no file"), (b"nonsense", "holds no weights"), ({"other": torch.ones(2)}, "does not fit")],
)
def test_files_without_fitting_weights_raise_a_readable_error(toy, tmp_path, content, words):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        torch.save(content, file)
    with pytest.raises(UserError, match=words) as raised:
        initialize(ModelConfig(weights=str(file)), PLAIN, toy, 0)
    assert "\n" not in str(raised.value)


def test_rules_are_json_on_the_command_line():
    assert InitializeConfig(rules=json.dumps({"fc.*": "none"})).rules == {"fc.*": "none"}
