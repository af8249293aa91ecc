"""Networks are built for a data set and get their first weights, and errors say what to change."""

import inspect
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tests.components.initialization.networks import LINEAR, same, weights
from tests.toy import made, toy_data, written
from torchmill.components.config import parse
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import initialize, try_on
from torchmill.components.initialization.config import (
    SCHEMES,
    InitializeConfig,
    ModelConfig,
    model_names,
    network_schemes,
)
from torchmill.components.initialization.schemes import fill

ALL_SCHEMES = network_schemes()


def refusal(reference: str, data, **arguments: object) -> str:
    with pytest.raises(UserError) as raised:
        made(reference, data, **arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_reference_network_has_421_642_parameters(toy):
    network = made("simple_cnn", toy)
    assert sum(parameter.numel() for parameter in network.parameters()) == 421_642


def fans(weight: torch.Tensor) -> tuple[int, int]:
    """Return the inputs and outputs of one unit: channels times the size of the kernel."""
    kernel = weight[0, 0].numel()
    return weight.shape[1] * kernel, weight.shape[0] * kernel


# Variance according to the scheme's paper, and the largest possible weight (None: unlimited).
FORMULAS = {
    "xavier_normal": lambda i, o: (2 / (i + o), None),
    "xavier_uniform": lambda i, o: (2 / (i + o), (6 / (i + o)) ** 0.5),
    "kaiming_normal": lambda i, o: (2 / i, None),
    "kaiming_uniform": lambda i, o: (2 / i, (6 / i) ** 0.5),
    # A normal distribution of deviation 0.02, cut at two deviations, keeps 1 - 4 pdf(2) / (cdf(2) - cdf(-2)) of its
    # variance.
    "trunc_normal": lambda i, o: (0.02**2 * 0.7737, 0.04),
}


@pytest.mark.parametrize("scheme", FORMULAS)
def test_weights_have_the_variance_of_the_formula_and_biases_are_zero(toy, scheme):
    network = made("simple_cnn", toy, scheme)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 4
    for layer in layers:
        variance, largest = FORMULAS[scheme](*fans(layer.weight))
        count = layer.weight.numel()
        # The variance of n normal samples has a relative deviation of sqrt(2 / n); allow four of these.
        assert layer.weight.var().item() == pytest.approx(variance, rel=4 * (2 / count) ** 0.5)
        assert abs(layer.weight.mean().item()) < 4 * (variance / count) ** 0.5
        assert largest is None or layer.weight.abs().max().item() <= largest * 1.0001
        assert not layer.bias.any()


def test_orthogonal_weights_are_orthogonal(toy):
    network = made("simple_cnn", toy, "orthogonal")
    for weight in (network.conv2.weight.flatten(1), network.fc1.weight, network.fc2.weight):
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)


def test_every_scheme_exists_and_has_a_tested_formula():
    assert set(ALL_SCHEMES) == {*SCHEMES.names()} - {"dirac", "whitening"} == {*FORMULAS, "orthogonal", "lsuv", "none"}


@pytest.mark.parametrize("scheme", ALL_SCHEMES)
def test_weights_depend_on_the_seed(toy, scheme):
    first, again, other = (made("simple_cnn", toy, scheme, seed) for seed in (5, 5, 6))
    assert same(first, again)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)


@pytest.mark.parametrize("scheme", ["xavier_normal", "none"])
def test_weights_neither_change_nor_depend_on_the_global_random_state(toy, scheme):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = made("simple_cnn", toy, scheme)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, made("simple_cnn", toy, scheme))


def test_the_reference_network_is_filled_by_xavier_unless_another_scheme_is_named(toy):
    assert same(made("simple_cnn", toy, "auto"), made("simple_cnn", toy, "xavier_normal"))
    assert not same(made("simple_cnn", toy, "auto"), made("simple_cnn", toy, "none"))


@pytest.mark.parametrize("name", model_names())
def test_the_scheme_of_a_built_in_network_exists(name):
    assert InitializeConfig().resolved(ModelConfig(name=name)).name in network_schemes()


OWN_WEIGHTS = """
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(784, 8), nn.Linear(8, 10)
        nn.init.constant_(self.hidden.weight, 0.25)
        nn.init.constant_(self.out.bias, -4.6)  # the logit of a rare class

    def forward(self, x):
        return self.out(self.hidden(x.flatten(1)))

def make(num_classes):
    return Own()
"""


@pytest.mark.parametrize("name", ["Own", "make"])
@pytest.mark.parametrize("rules", [{}, {"hidden": "orthogonal"}])
def test_a_users_network_keeps_the_weights_of_its_constructor_but_where_rules_say_otherwise(toy, own, name, rules):
    reference = own(OWN_WEIGHTS, name)
    network, _ = initialize(ModelConfig(name=reference), InitializeConfig(rules=rules), toy, 7)
    assert (network.out.bias == torch.tensor(-4.6)).all() and network.out.weight.any()
    assert (network.hidden.weight == 0.25).all() == (not rules)


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        ({"gain": "relu"}, "initialize.gain relu"),
        ({"name": "none", "bias": 0.5, "gain": "tanh"}, "initialize.gain tanh and initialize.bias 0.5"),
        ({"bias": 1, "rules": {"hidden": "none"}}, "initialize.bias 1"),
        ({"bias": None}, ""),
        ({"bias": 0.1, "rules": {"hidden": "orthogonal"}}, ""),
        ({"name": "lsuv", "gain": "relu"}, ""),
    ],
)
def test_a_gain_or_a_bias_that_no_layer_uses_is_told(toy, own, caplog, settings, unused):
    initialize(ModelConfig(name=own(OWN_WEIGHTS)), InitializeConfig(**settings), toy, 7)
    assert (f"{unused}: nothing changes" in caplog.text) if unused else "nothing changes" not in caplog.text


def test_mlflow_shows_the_scheme_that_auto_stands_for():
    assert parse({}).params()["initialize.name"] == "xavier_normal"
    assert parse({"model": "torchvision:resnet18"}).params()["initialize.name"] == "none"
    assert parse({"model": "torchvision:resnet18", "initialize": "lsuv"}).params()["initialize.name"] == "lsuv"


def test_none_keeps_the_weights_of_the_constructor(toy, own):
    reference = own(LINEAR)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = [nn.Linear(784, 8), nn.Linear(8, 10)]
    network = made(reference, toy, "none", 7)
    assert torch.equal(network.hidden.weight, expected[0].weight)
    assert torch.equal(network.out.bias, expected[1].bias)


def test_a_scheme_does_not_change_norms_and_embeddings():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Embedding(5, 4), nn.Linear(4, 2))
    embedding = network[3].weight.clone()
    fill(network, InitializeConfig(name="kaiming_normal"), 0, torch.empty(0))
    for norm in network[1:3]:
        assert torch.equal(norm.weight, torch.ones(4)) and torch.equal(norm.bias, torch.zeros(4))
    assert torch.equal(network[3].weight, embedding)


def test_layers_without_a_bias_are_filled():
    network = nn.Linear(3, 3, bias=False)
    before = network.weight.clone()
    fill(network, InitializeConfig(name="xavier_uniform"), 0, torch.empty(0))
    assert not torch.equal(network.weight, before)


def test_a_users_class_can_import_modules_beside_it(toy, own, tmp_path):
    (tmp_path / "toy_layers_beside.py").write_text("from torch import nn\n\nclass Wide(nn.Linear):\n    pass\n")
    reference = own(
        "from toy_layers_beside import Wide\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.only = Wide(784, 10)\n"
        "    def forward(self, x):\n"
        "        return self.only(x.flatten(1))\n"
    )
    network = made(reference, toy)
    assert type(network.only).__name__ == "Wide"


def test_a_class_is_found_by_its_module(toy):
    network = made("torchmill.components.models.simple_cnn:SimpleCNN", toy, seed=3)
    assert same(network, made("simple_cnn", toy, seed=3))


def test_a_function_can_make_the_network(toy, own):
    reference = own(LINEAR + "\ndef make(num_classes):\n    return Own(num_classes, 1, 28, width=3)\n", "make")
    assert made(reference, toy).hidden.out_features == 3


def test_the_data_fills_in_arguments_that_are_not_set(tmp_path, own):
    data = toy_data(tmp_path, classes=3, channels=2, size=12, train=6, test=3)
    network = made(own(LINEAR), data, width=5)
    assert network.hidden.weight.shape == (5, 2 * 12 * 12)
    assert network.out.weight.shape == (3, 5)
    assert "gives shape (2, 7) for 2 samples; expected (2, 3)" in refusal(own(LINEAR), data, num_classes=7)


def test_an_unknown_argument_gets_a_suggestion(toy, own):
    assert "takes no argument 'widht'. Did you mean width?" in refusal(own(LINEAR), toy, widht=3)
    assert "It takes none." in refusal(own("def make():\n    return nn.Linear(1, 1)", "make"), toy, width=3)


def test_a_function_with_variable_keywords_takes_any_argument(toy, own):
    reference = own(LINEAR + "\ndef make(**options):\n    return Own(10, 1, 28, **options)\n", "make")
    assert made(reference, toy, "none", width=4).hidden.out_features == 4


def test_an_error_explains_that_variable_keywords_get_nothing_from_the_data(toy, own):
    text = "def make(**options):\n    return nn.Linear(options['in_channels'], options['num_classes'])"
    message = refusal(own(text, "make"), toy)
    assert "KeyError: 'in_channels'" in message
    assert "The data offers num_classes, in_channels, image_size" in message and "name the needed ones" in message


def test_an_error_for_a_missing_module_names_the_environment(toy, own):
    for text in ("import not_there.at_all", "def Own(): import not_there.at_all"):
        assert f"Install the package that provides 'not_there' into the environment {sys.prefix}" in refusal(
            own(text), toy
        )


def test_an_error_for_images_that_are_not_square_has_a_remedy(tmp_path, own):
    images = np.zeros((6, 1, 20, 12), np.uint8)
    splits = {split: (images, np.arange(6) % 2) for split in ("train", "test")}
    data = written(tmp_path, splits, shape=(1, 20, 12), classes=("a", "b"), mean=(0.5,), std=(0.3,))
    message = refusal(own(LINEAR), data)
    assert "fails on images of shape (2, 1, 20, 12)" in message
    assert "Take image_height and image_width in the constructor" in message and '{"image_size": 12}' in message
    wide = LINEAR.replace("image_size,", "image_height, image_width,").replace(
        "image_size**2", "image_height * image_width"
    )
    assert made(own(wide), data).hidden.in_features == 240


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import torch_that_is_not_there", "ModuleNotFoundError: No module named 'torch_that_is_not_there'"),
        ("x = 1\nx.nothing\nclass Own: pass", "AttributeError: 'int' object has no attribute 'nothing'"),
        ("def broken(:", "SyntaxError"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),  # as argparse does at the top of a script
    ],
)
def test_an_import_error_names_its_line_and_cause(toy, own, text, words):
    answer = refusal(own(text), toy)
    line = 4 + ("\n" in text)
    assert "does not import" in answer and words in answer and f"(own_network.py line {line})" in answer


def test_a_constructor_error_names_its_line_and_arguments(toy, own):
    text = "class Own(nn.Module):\n    def __init__(self, num_classes):\n        raise RuntimeError('no\\nluck')"
    answer = refusal(own(text), toy)
    assert "(num_classes=10) fails: RuntimeError: no luck (own_network.py line 6)" in answer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Own: pass", "is a class but not a torch.nn.Module. Derive it"),
        ("Own = 3", "is a int, neither a class nor a function"),
        ("def Own(): pass", "makes a NoneType, not a torch.nn.Module"),
        ("class Other(nn.Module): pass\nif 0: Own = 1", "has no 'Own'."),
        ("class Own(nn.Module): pass", "has no parameters to train. Are its layers kept in a plain list?"),
    ],
)
def test_objects_that_are_no_networks_are_refused(toy, own, text, words):
    assert words in refusal(own(text), toy)


def test_an_error_for_the_output_width_names_actual_and_expected_shape(toy, own):
    answer = refusal(own("def Own():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 7))"), toy)
    assert "gives shape (2, 7) for 2 samples; expected (2, 10), a logit for each class of toy." in answer


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("nn.Linear(8, 1), nn.Flatten(0)", "gives shape (2,) for 2 samples; expected (2, 1).* Don't squeeze it"),
        ("nn.Linear(8, 1), nn.Unflatten(1, (1, 1))", "gives shape (2, 1, 1).* Pool over all other dimensions"),
    ],
)
def test_an_error_for_the_output_shape_has_a_remedy(toy, own, ending, words):
    prices = toy.model_copy(update={"task": "regression", "classes": ("price",)})
    answer = refusal(own(f"def Own():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), {ending})"), prices)
    assert re.search(re.escape(words).replace(re.escape(".*"), ".*"), answer), answer


def test_an_error_for_an_in_place_change_names_the_line(toy, own):
    text = LINEAR.replace(
        "return self.out(self.hidden(x.flatten(1)).relu())",
        "h = self.hidden(x.flatten(1))\n        h = torch.sigmoid(h)\n        h += 1\n        return self.out(h)",
    )
    answer = refusal(own("import torch" + text), toy)
    assert "fails in backward: an in-place operation changed a value that backward needs" in answer
    assert re.search(r"made in own_network.py line \d+", answer) and "h = h + 1" in answer


@pytest.mark.parametrize("result", ["(x, x)", "None", "{'logits': x}"])
def test_an_output_must_be_a_tensor(toy, own, result):
    text = (
        "class Own(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.l = nn.Linear(784, 10)\n    def forward(self, x):\n        return {result}"
    )
    assert "expected a tensor of shape (2, 10)" in refusal(own(text), toy)


def test_an_error_for_the_input_shape_names_the_layer_and_the_shapes(toy, own):
    text = (
        "class Own(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())\n        self.head = nn.Linear(99, 10)\n"
        "    def forward(self, x):\n        return self.head(self.body(x))"
    )
    answer = refusal(own(text), toy)
    assert "in its layer head: Linear(in_features=99" in answer and "(own_network.py line 10)" in answer
    assert "fails on images of shape (2, 1, 28, 28)" in answer
    assert "toy has images of (channels, height, width) = (1, 28, 28)" in answer
    colors = toy.model_copy(update={"shape": (3, 28, 28)})
    answer = refusal(own(text, file="other.py"), colors)
    assert "in its layer body.0: Conv2d(1," in answer and "Take in_channels in the constructor" in answer


def test_a_network_that_only_fails_when_trained_is_refused(toy, own):
    text = LINEAR.replace("return self.out", "assert not self.training\n        return self.out")
    assert "fails on images of shape (2, 1, 28, 28): AssertionError" in refusal(own(text), toy)


def test_trying_a_network_restores_its_state(toy):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(2704, 10))
    network[1].eval()  # frozen by the user
    network[2].train()
    before = weights(network)
    try_on(network, "own", toy)
    assert all(torch.equal(a, b) for a, b in zip(weights(network), before, strict=True))
    assert [layer.training for layer in network] == [True, False, True, True, True]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_every_built_in_network_has_a_class_named_like_its_file():
    for name in model_names():
        module = __import__(f"torchmill.components.models.{name}", fromlist=["_"])
        classes = [
            key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        assert name.replace("_", "") in [key.lower() for key in classes]
