"""What every network must be, for all that are found, on each kind of data that its constructor asks for."""

import inspect
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.toy import made, toy_data, toy_numbers, toy_tokens, written
from torchmill.components.data.samples import Samples, read_test, read_training
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import export
from torchmill.components.initialization.build import find
from torchmill.components.initialization.config import model_names
from torchmill.components.initialization.standardized_model import StandardizedModel, standardized
from torchmill.components.initialization.weights import restore, save_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import PADDING, DataRef, NetworkRef
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.losses import make_loss
from torchmill.components.training.setup import TrainingSetup

ASKED = {"images": {"in_channels", "image_size", "image_width"}, "tokens": {"vocab_size"}, "numbers": {"in_features"}}
"""What a constructor asks for that takes a kind of data; one of these is enough."""

DATA = {
    "grey": ("images", partial(toy_data, classes=4, train=320, test=43)),
    "colours": ("images", partial(toy_data, classes=3, channels=3, size=32, train=320, test=23)),
    "grey32": ("images", partial(toy_data, classes=2, size=32, train=160, test=23)),
    "colours28": ("images", partial(toy_data, classes=5, channels=3, train=320, test=23)),
    "letters": ("tokens", partial(toy_tokens, train=600)),
    "numbers": ("numbers", toy_numbers),
    "labels": ("numbers", partial(toy_numbers, task="multilabel")),
    "targets": ("numbers", partial(toy_numbers, task="regression", scales=(1e-3, 1, 1e3))),
}


def kinds(name: str) -> set[str]:
    """The kinds of data that a network takes."""
    asked = set(inspect.signature(find(name)).parameters)
    return {kind for kind, arguments in ASKED.items() if arguments & asked}


@dataclass(frozen=True)
class Case:
    name: str
    data: DataRef
    test: Samples

    def network(self, seed: int = 0) -> nn.Module:
        return made(self.name, self.data, seed=seed)

    def inputs(self, samples: int) -> Tensor:
        """As a network itself takes them."""
        return standardized(self.test, self.data)[:samples]


@pytest.fixture(scope="module")
def held() -> dict[str, tuple[DataRef, Samples]]:
    """Data that was drawn already."""
    return {}


@pytest.fixture
def case(request, held, tmp_path_factory) -> Case:
    name, what = request.param
    if what not in held:
        data = DATA[what][1](tmp_path_factory.mktemp(what))
        held[what] = data, read_test(data)
    return Case(name, *held[what])


def cases(*which: str):
    """Every network on the data that it takes."""
    chosen = [(name, what) for name in model_names() for what in which or DATA if DATA[what][0] in kinds(name)]
    return pytest.mark.parametrize("case", chosen, indirect=True, ids="-".join)


every_network = pytest.mark.parametrize("name", model_names())
every_case = cases()
of_tokens = cases("letters")


@every_network
def test_it_says_what_it_is_and_takes_data_of_some_kind(name):
    assert find(name).__doc__
    assert __import__(f"torchmill.components.models.{name}", fromlist=["_"]).__doc__
    assert kinds(name)


@every_case
def test_it_takes_its_shape_from_the_data(case):
    network = case.network()
    for samples in (1, 5):
        assert network.eval()(case.inputs(samples)).shape == (samples, len(case.data.classes))


@every_case
def test_it_takes_any_batch_and_no_samples_answer_depends_on_another(case):
    network, batch = case.network().eval(), case.inputs(7)
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(sample[None]) for sample in batch])
        turned = network(batch.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned, together, rtol=1e-4, atol=1e-5)


@every_case
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
def test_it_gives_logits_and_no_probabilities(case):
    with torch.no_grad():
        logits = case.network().eval()(case.inputs(16))
    assert logits.isfinite().all() and logits.min() < 0
    assert not torch.allclose(logits.sum(1), torch.ones(16), atol=1e-3)
    assert not torch.allclose(logits.logsumexp(1), torch.zeros(16), atol=1e-3)


@every_case
def test_the_same_seed_gives_the_same_weights_and_another_gives_others(case):
    torch.manual_seed(1)
    first = case.network().state_dict()
    torch.manual_seed(2)
    again, other = case.network().state_dict(), case.network(seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


@every_case
def test_its_weights_come_back_from_their_file(case, tmp_path):
    network = case.network(seed=3).eval()
    file = save_weights(network, tmp_path / "weights.safetensors")
    count = sum(parameter.numel() for parameter in network.parameters())
    ref = NetworkRef(reference=case.name, arguments={}, weights=file, parameters=count)
    back = restore(ref, file, case.data).eval()
    assert list(back.state_dict()) == list(network.state_dict())
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.equal(back(case.inputs(4)), network(case.inputs(4)))


@every_case
def test_it_is_the_same_network_in_float64_but_for_rounding(case):
    network, inputs = case.network().eval(), case.inputs(4)
    with torch.no_grad():
        single = network(inputs)
        double = network.double()(inputs.double() if inputs.is_floating_point() else inputs)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@cases("grey", "letters", "numbers", "labels", "targets")
def test_it_learns_and_its_export_is_found_equal_at_any_batch_size(case, tmp_path):
    learns_and_is_exported(case, tmp_path)


@pytest.mark.slow
@cases("colours")
def test_it_learns_colours_too(case, tmp_path):
    learns_and_is_exported(case, tmp_path)


def learns_and_is_exported(case: Case, tmp_path) -> None:
    network = case.network()
    training, validation = read_training(case.data.with_split(0.2, seed=0))
    config = TrainConfig(epochs=2, batch_size=8, lr=2e-3)
    checkpoints, best = Checkpoints(tmp_path / "checkpoints", 30), tmp_path / "best.safetensors"
    first, last = fit(
        TrainingSetup(network, training, validation, case.data, config, torch.device("cpu"), 0), checkpoints, best
    )
    assert last.train_loss < first.train_loss
    assert last.validation_score > 0.8
    ref = export(network, case.data, case.test, ExportConfig(batch_sizes=(1, 7, 64)), {}, tmp_path)
    assert ref.agreement == 1
    if case.data.kind == "tokens":
        equal_at_any_length(
            StandardizedModel.of(network, case.data).eval(), tmp_path / "model.onnx", case.data.shape[0]
        )


def equal_at_any_length(model: StandardizedModel, onnx_file, longest: int) -> None:
    session = open_session(onnx_file)
    rng = np.random.default_rng(0)
    for length in (1, 2, longest - 1, longest):
        for samples in (1, 3):
            tokens = rng.integers(1, 6, (samples, length))
            (outputs,) = session.run(["logits"], {"tokens": tokens})
            with torch.no_grad():
                expected = model(torch.from_numpy(tokens)).numpy()
            np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)


@of_tokens
def test_more_padding_at_the_end_changes_no_answer(case):
    network, tokens = case.network().eval(), case.inputs(30)
    lengths = (tokens != PADDING).sum(1)
    assert lengths.min() < lengths.max() == tokens.shape[1]
    with torch.no_grad():
        together = network(tokens)
        trimmed = torch.cat([network(row[None, :length]) for row, length in zip(tokens, lengths, strict=True)])
    torch.testing.assert_close(together, trimmed, rtol=1e-4, atol=1e-5)


@of_tokens
def test_it_takes_one_token_and_the_longest_sequence(case):
    network = case.network()
    for length in (1, case.data.shape[0]):
        tokens = torch.ones(3, length, dtype=torch.int64)
        assert network.eval()(tokens).isfinite().all()
        network.train()(tokens).sum().backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@of_tokens
def test_a_sequence_with_padding_within_it_or_of_nothing_else_gives_numbers_that_no_other_depends_on(case):
    network, tokens = case.network().eval(), case.inputs(4)
    odd = torch.zeros(2, tokens.shape[1], dtype=torch.int64)
    odd[1, [0, -1]] = 2
    with torch.no_grad():
        answers = network(torch.cat([tokens, odd]))
        assert answers.isfinite().all()
        torch.testing.assert_close(answers[:4], network(tokens), rtol=1e-4, atol=1e-5)


@cases("letters")
def test_the_order_of_tokens_matters(case):
    network = case.network().eval()
    with torch.no_grad():
        answers = network(torch.tensor([[2, 3, 4, 5], [5, 4, 3, 2]]))
    assert not torch.allclose(answers[0], answers[1], atol=1e-6)


@every_network
def test_images_need_not_be_square(name, tmp_path):
    if "images" not in kinds(name):
        pytest.skip("it takes no images")
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 20, 33)).astype(np.uint8)
    splits = {"train": (images, np.arange(40) % 3), "test": (images[:5], np.arange(5) % 3)}
    shown = {"shape": (3, 20, 33), "classes": ("a", "b", "c"), "mean": (0.5,) * 3, "std": (0.3,) * 3}
    data = written(tmp_path, splits, **shown)
    assert made(name, data)(standardized(read_test(data), data)).shape == (5, 3)
