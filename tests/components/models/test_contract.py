"""Contract of every built-in network, on each kind of data that its constructor accepts."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.toy import made, toy_data, toy_numbers, toy_tokens, written
from torchmill.components.data.samples import Samples, read_test, read_training
from torchmill.components.encoding.vocabulary import PADDING
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import export
from torchmill.components.initialization.build import find
from torchmill.components.initialization.config import model_names
from torchmill.components.initialization.standardized_model import StandardizedModel, standardized
from torchmill.components.initialization.weights import restore, save_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef, NetworkRef
from torchmill.components.tasks import task
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.losses import make_loss
from torchmill.components.training.setup import TrainingSetup

KIND_ARGUMENTS = {
    "images": {"in_channels", "image_size", "image_width"},
    "tokens": {"vocab_size"},
    "numbers": {"in_features"},
}
"""Arguments of constructors that accept a kind of data; one of them is enough."""

DATA = {
    "grey": ("images", partial(toy_data, classes=4, train=320, test=43)),
    "colors": ("images", partial(toy_data, classes=3, channels=3, size=32, train=320, test=23)),
    "grey32": ("images", partial(toy_data, classes=2, size=32, train=160, test=23)),
    "colors28": ("images", partial(toy_data, classes=5, channels=3, train=320, test=23)),
    "letters": ("tokens", partial(toy_tokens, train=600)),
    "numbers": ("numbers", toy_numbers),
    "labels": ("numbers", partial(toy_numbers, task="multilabel")),
    "targets": ("numbers", partial(toy_numbers, task="regression", scales=(1e-3, 1, 1e3))),
}


def kinds(name: str) -> set[str]:
    """Return the kinds of data that a network accepts."""
    accepted = set(inspect.signature(find(name)).parameters)
    return {kind for kind, arguments in KIND_ARGUMENTS.items() if arguments & accepted}


@dataclass(frozen=True)
class Case:
    """A network, and data that it accepts."""

    name: str
    data: DataRef
    test: Samples

    def network(self, seed: int = 0, **arguments: Any) -> nn.Module:
        return made(self.name, self.data, seed=seed, **arguments)

    def inputs(self, samples: int) -> Tensor:
        """Return some test inputs as a network takes them."""
        return standardized(self.test, self.data)[:samples]


@pytest.fixture(scope="module")
def data_cache() -> dict[str, tuple[DataRef, Samples]]:
    """Cache of the data, by name."""
    return {}


@pytest.fixture
def case(request, data_cache, tmp_path_factory) -> Case:
    network, name = request.param
    if name not in data_cache:
        data = DATA[name][1](tmp_path_factory.mktemp(name))
        data_cache[name] = data, read_test(data)
    return Case(network, *data_cache[name])


def pairs(*names: str) -> list[tuple[str, str]]:
    """Return every network with the named data, or with all data, that it accepts."""
    return [(network, name) for network in model_names() for name in names or DATA if DATA[name][0] in kinds(network)]


def cases(*names: str, is_slow: Callable[[str, str], bool] = lambda *_: False):
    """Parametrize a test by every network on the named data, or on all data that it accepts."""
    instances = [
        pytest.param(pair, marks=[pytest.mark.slow] * is_slow(*pair), id="-".join(pair)) for pair in pairs(*names)
    ]
    return pytest.mark.parametrize("case", instances, indirect=True)


EXPORTED = pairs("grey", "letters", "numbers", "labels", "targets")
"""Networks and data that are trained and exported here."""

TRAINED = {"whitened_cnn": {"widths": [8, 16, 16]}}
"""Arguments of networks that are trained, where the usual ones take many times as long as those of the others."""

QUICK = ("simple_cnn-grey", "mlp-numbers")
"""Networks whose training and export are tested each day; every data set tests the export of one of tokens."""

SIDES = ("grey32", "colors28")
"""Images that differ from others in their sides alone."""

every_network = pytest.mark.parametrize("name", model_names())
every_case = cases()
few_sides = cases(is_slow=lambda _, name: name in SIDES)
every_token_case = cases("letters")


@every_network
def test_it_has_docstrings_and_accepts_some_kind_of_data(name):
    assert find(name).__doc__
    assert __import__(f"torchmill.components.models.{name}", fromlist=["_"]).__doc__
    assert kinds(name)


@every_case
def test_it_takes_its_shape_from_the_data(case):
    network = case.network()
    for samples in (1, 5):
        assert network.eval()(case.inputs(samples)).shape == (samples, len(case.data.classes))


@few_sides
def test_it_takes_any_batch_and_samples_do_not_affect_each_other(case):
    network, batch = case.network().eval(), case.inputs(7)
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(sample[None]) for sample in batch])
        flipped = network(batch.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flipped, together, rtol=1e-4, atol=1e-5)


@few_sides
def test_a_finite_gradient_reaches_every_parameter_and_none_is_left_unregistered(case):
    network = case.network().train()
    objective = make_loss(TrainConfig(), case.data, case.test)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective(network(case.inputs(16)), case.test.labels[:16]).backward()
    for parameter, tensor in network.named_parameters():
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0, parameter
    assert all(tensor.is_meta for tensor in network.to("meta").state_dict().values())


@cases("grey", "letters", "numbers")
def test_it_returns_logits_and_not_probabilities(case):
    with torch.no_grad():
        logits = case.network().eval()(case.inputs(16))
    assert logits.isfinite().all() and logits.min() < 0
    assert not torch.allclose(logits.sum(1), torch.ones(16), atol=1e-3)
    assert not torch.allclose(logits.logsumexp(1), torch.zeros(16), atol=1e-3)


@few_sides
def test_weights_depend_on_the_seed(case):
    torch.manual_seed(1)
    first = case.network().state_dict()
    torch.manual_seed(2)
    again, other = case.network().state_dict(), case.network(seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


@few_sides
def test_its_weights_are_restored_from_their_file(case, tmp_path):
    network = case.network(seed=3).eval()
    file = save_weights(network, tmp_path / "weights.safetensors")
    count = sum(parameter.numel() for parameter in network.parameters())
    ref = NetworkRef(reference=case.name, arguments={}, weights=file, parameters=count)
    back = restore(ref, file, case.data).eval()
    assert list(back.state_dict()) == list(network.state_dict())
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.equal(back(case.inputs(4)), network(case.inputs(4)))


@few_sides
def test_it_gives_the_same_outputs_in_float64_up_to_rounding(case):
    network, inputs = case.network().eval(), case.inputs(4)
    with torch.no_grad():
        single = network(inputs)
        double = network.double()(inputs.double() if inputs.is_floating_point() else inputs)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@cases(*("grey", "letters", "numbers", "labels", "targets"), is_slow=lambda *pair: "-".join(pair) not in QUICK)
def test_it_learns_and_its_export_agrees_at_any_batch_size(case, tmp_path):
    check_training_and_export(case, tmp_path)


@pytest.mark.slow
@cases("colors")
def test_it_learns_color_images_too(case, tmp_path):
    check_training_and_export(case, tmp_path)


def check_training_and_export(case: Case, tmp_path) -> None:
    network = case.network(**TRAINED.get(case.name, {}))
    training, validation = read_training(case.data.with_split(0.2, seed=0))
    config = TrainConfig(epochs=2, batch_size=8, lr=2e-3)
    checkpoints, best = Checkpoints(tmp_path / "checkpoints", 30), tmp_path / "best.safetensors"
    first, last = fit(
        TrainingSetup(network, training, validation, case.data, config, torch.device("cpu"), 0), checkpoints, best
    )
    assert last.train_loss < first.train_loss
    assert last.validation_score > 0.8
    temperature = 1.7 if task(case.data.task).has_probabilities else 1.0
    ref = export(network, case.data, case.test, ExportConfig(batch_sizes=(1, 7, 64)), {}, tmp_path, temperature)
    assert ref.agreement == 1
    comparison = json.loads((tmp_path / "parity.json").read_text())
    assert comparison["passed"] and all(gate["passed"] for gate in comparison["gates"])
    if case.data.kind == "tokens":
        check_every_length(StandardizedModel.of(network, case.data).eval(), tmp_path / "model.onnx", case.data.shape[0])


def check_every_length(model: StandardizedModel, onnx_file, longest: int) -> None:
    session = open_session(onnx_file)
    rng = np.random.default_rng(0)
    for length in (1, 2, longest - 1, longest):
        for samples in (1, 3):
            tokens = rng.integers(1, 6, (samples, length))
            (outputs,) = session.run(["logits"], {"tokens": tokens})
            with torch.no_grad():
                expected = model(torch.from_numpy(tokens)).numpy()
            np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)


@every_token_case
def test_more_padding_at_the_end_changes_no_output(case):
    network, tokens = case.network().eval(), case.inputs(30)
    lengths = (tokens != PADDING).sum(1)
    assert lengths.min() < lengths.max() == tokens.shape[1]
    with torch.no_grad():
        together = network(tokens)
        trimmed = torch.cat([network(row[None, :length]) for row, length in zip(tokens, lengths, strict=True)])
    torch.testing.assert_close(together, trimmed, rtol=1e-4, atol=1e-5)


@every_token_case
def test_it_takes_one_token_and_the_longest_sequence(case):
    network = case.network()
    for length in (1, case.data.shape[0]):
        tokens = torch.ones(3, length, dtype=torch.int64)
        assert network.eval()(tokens).isfinite().all()
        network.train()(tokens).sum().backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@every_token_case
def test_inner_padding_and_empty_sequences_give_finite_outputs_and_affect_no_other_sample(case):
    network, tokens = case.network().eval(), case.inputs(4)
    odd = torch.zeros(2, tokens.shape[1], dtype=torch.int64)
    odd[1, [0, -1]] = 2
    with torch.no_grad():
        outputs = network(torch.cat([tokens, odd]))
        assert outputs.isfinite().all()
        torch.testing.assert_close(outputs[:4], network(tokens), rtol=1e-4, atol=1e-5)


@cases("letters")
def test_the_order_of_tokens_matters(case):
    network = case.network().eval()
    with torch.no_grad():
        outputs = network(torch.tensor([[2, 3, 4, 5], [5, 4, 3, 2]]))
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-6)


@every_network
def test_images_need_not_be_square(name, tmp_path):
    if "images" not in kinds(name):
        pytest.skip("accepts no images")
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 20, 33)).astype(np.uint8)
    splits = {"train": (images, np.arange(40) % 3), "test": (images[:5], np.arange(5) % 3)}
    fields = {"shape": (3, 20, 33), "classes": ("a", "b", "c"), "mean": (0.5,) * 3, "std": (0.3,) * 3}
    data = written(tmp_path, splits, **fields)
    assert made(name, data)(standardized(read_test(data), data)).shape == (5, 3)
